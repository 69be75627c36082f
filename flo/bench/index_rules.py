"""The efficiency index of a deployment: rules without measurements.

    index = geometric mean over the inputs of (reference / this deployment)

An input is something that costs: seconds, processor time, money. 2 means half the cost on average.
A geometric mean of ratios ranks deployments alike, whatever the reference (Fleming and Wallace,
"How not to lie with statistics", CACM 29(3), 1986). One number hides which inputs are good, so
beside it are each input's own score, an interval from repeated measurements, and the share of all
weightings of the inputs by which the deployment is better than the reference.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, StringConstraints

from flo.arrays import Floats
from flo.documents.document import Document, parse
from flo.errors import UsageError

INPUTS: dict[str, str] = {  # -> what is measured
    "round": "s, a round of four hospitals with 1 MB, noise, masks and TLS",
    "step": "ms, a private step of a network on one thread",
    "answer": "µs of processor for an answer of a served model",
    "gate": "s to read and check 100,000 rows of 30 columns",
    "waiting": "s of processor that four agents and a coordinator use in an hour of waiting",
    "month": "dollars a month of the coordinator",
}
REFERENCE = Path(__file__).parent / "reference_index.json"
_DRAWS, _WEIGHTINGS, _COVERED = 2000, 20_000, 0.9
_MOST_BYTES = 1 << 20
_Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Values = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1e12)], ...], Field(min_length=1, max_length=1000)
]


class Measured(Document):
    """One deployment. ``values``: of each input, all repetitions; smaller is better."""

    schema_version: Literal[1] = 1
    name: _Text
    machine: _Text
    when: _Text
    flo: _Text
    values: dict[_Text, _Values]

    def refuse_other_inputs(self) -> None:
        """Raise UsageError naming what is missing or unknown."""
        if set(self.values) != set(INPUTS):
            missing, unknown = set(INPUTS) - set(self.values), set(self.values) - set(INPUTS)
            raise UsageError(
                f"{self.name} has other inputs: missing {', '.join(sorted(missing)) or 'none'}, "
                f"unknown {', '.join(sorted(unknown)) or 'none'}",
                hint="measure it again with this version: flo bench index --out FILE",
            )


def read_measured(path: Path) -> Measured:
    """Read a file of ``flo bench index --out``. Raises UsageError naming it and what is wrong."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a measured deployment: {error}") from error
    found = parse(Measured, document, str(path))
    found.refuse_other_inputs()
    return found


@dataclass(frozen=True)
class Index:
    """``scores``: of each input, reference / this. ``low``, ``high``: 90 % interval. ``wins``:
    share of the weightings by which it is better than the reference."""

    name: str
    scores: dict[str, float]
    index: float
    low: float
    high: float
    wins: float


def index_of(found: Measured, reference: Measured, seed: int = 0) -> Index:
    """Return the index. The interval draws the repetitions of both again, with replacement.

    Inputs measured once add nothing to the interval.
    """
    draw = np.random.default_rng(seed)
    logs = _log_scores(found.values, reference.values)
    drawn = np.mean(
        [
            _drawn_medians(reference.values[name], draw) - _drawn_medians(found.values[name], draw)
            for name in INPUTS
        ],
        axis=0,
    )
    edge = (1 - _COVERED) / 2
    low, high = np.exp(np.quantile(drawn, [edge, 1 - edge]))
    weights = draw.dirichlet(np.ones(len(logs)), _WEIGHTINGS)
    return Index(
        found.name,
        dict(zip(INPUTS, np.exp(logs).tolist(), strict=True)),
        float(np.exp(logs.mean())),
        float(low),
        float(high),
        float(np.mean(weights @ logs > 0)),
    )


def first_of(several: Sequence[Measured], seed: int = 0) -> dict[str, float]:
    """Return in which share of weightings each deployment is the best of them."""
    medians = np.array(
        [[math.log(_median(one.values[name])) for name in INPUTS] for one in several]
    )
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(INPUTS)), _WEIGHTINGS)
    best = np.argmin(weights @ medians.T, axis=1)
    shares = np.bincount(best, minlength=len(several)) / len(weights)
    return {one.name: float(share) for one, share in zip(several, shares, strict=True)}


def _log_scores(
    ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]
) -> Floats:
    return np.array([math.log(_median(theirs[name]) / _median(ours[name])) for name in INPUTS])


def _drawn_medians(values: Sequence[float], draw: np.random.Generator) -> Floats:
    """Return logarithms of the medians of repetitions that are drawn again."""
    drawn = draw.choice(np.asarray(values), (_DRAWS, len(values)))
    medians: Floats = np.log(np.median(drawn, axis=1))
    return medians


def _median(values: Sequence[float]) -> float:
    return float(np.median(np.asarray(values)))
