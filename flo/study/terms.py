"""Terms of a study: hospitals, mechanism, evaluation, survey and limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from flo.documents.document import Document, spelt
from flo.study.names import ColumnName

LARGEST_DELTA = 1e-6
MOST_HOSPITALS = 10_000  # of a study that is simulated
MOST_CONNECTED = 1000  # hospitals of a study that runs between them
Identifier = Annotated[
    str,
    spelt(
        r"[a-z0-9][a-z0-9-]{0,62}",
        "1 to 63 lower-case letters without accents (koeln, not Köln), digits and hyphens",
    ),
]
Purpose = Literal[  # of a release
    "survey", "statistics", "regression", "moments", "training", "evaluation", "gate", "monitor"
]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]


class Hospital(Document):
    """One partner. ``declared_size`` is its public, rounded number of patients.

    ``expected``: how many of them the study plans to use, public and rounded, if these are fewer:
    patients whose budget earlier studies used up do not take part. It is planned, never counted.
    """

    id: Identifier
    declared_size: Annotated[int, Field(ge=10, le=10_000_000)]
    expected: Annotated[int, Field(ge=10)] | None = None
    fingerprint: Fingerprint = ""

    @field_validator("declared_size", "expected")
    @classmethod
    def _rounded(cls, size: int | None) -> int | None:
        if size is not None and size != round_size(size):
            raise ValueError(f"{size} is not rounded to two digits; write {round_size(size)}")
        return size

    @model_validator(mode="after")
    def _expects_no_more_than_it_has(self) -> Hospital:
        if self.expected is not None and self.expected > self.declared_size:
            raise ValueError(
                f"expected = {self.expected} patients, and the declared size is "
                f"{self.declared_size}: write no more than that, or leave it out"
            )
        return self

    @property
    def planned(self) -> int:
        """How many patients the study plans to use here, held-out ones included."""
        return self.declared_size if self.expected is None else self.expected


class MechanismSettings(Document):
    """How patients become releases during training.

    ``epsilon`` and ``delta`` are the study's own guarantee for one patient of one hospital; the
    noise is calibrated to ``steps + retry_allowance`` releases. ``sampling``: the probability with
    which a patient takes part in a step, drawn independently at the site in each step. ``masking``:
    whether the coordinator sees only the cohort's sum, for every purpose of the study.
    ``algorithm``: a momentum step of ``learning_rate`` along each round's noisy mean gradient
    (FedAvgM); the same on inputs whitened by ``flo.privacy.releases.whitening``, where ``clip`` is
    in units of √(inputs + 1), times ``whitening.steepness`` for an mlp, and one learning rate suits
    every study; or ``flo.privacy.releases.least_squares`` from one round. ``augmentation``: whether
    a patient's gradient is averaged over flips and turns of images
    (``flo.privacy.gradients.augmentation``). ``aggregation``: how the hospitals' sums are combined
    into a step, if the coordinator sees each of them.
    """

    algorithm: Literal["fedavgm", "whitened", "least-squares"] = "fedavgm"
    noise: Literal["local", "distributed"]
    masking: Literal["on", "off"] = "on"
    epsilon: Annotated[float, Field(ge=0.01, le=10)]
    delta: Annotated[float, Field(ge=1e-12, lt=1)]
    clip: Annotated[float, Field(ge=1e-6, le=1e6)]
    sampling: Annotated[float, Field(ge=0.001, le=1)] = 1.0
    steps: Annotated[int, Field(ge=1, le=10_000)]
    learning_rate: Annotated[float, Field(ge=0, le=1e3)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    retry_allowance: Annotated[int, Field(ge=0, le=1000)] = 2
    augmentation: Literal["none", "flips"] = "none"
    aggregation: Literal["sum", "median", "trimmed-mean"] = "sum"
    colluders: Annotated[int, Field(ge=1)] | None = None
    dropouts: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _what_the_algorithm_needs(self) -> MechanismSettings:
        if self.algorithm == "least-squares":
            self._refuse_more_than_one_sum()
        elif not self.learning_rate:
            raise ValueError(f"{self.algorithm} needs a learning_rate above 0")
        if self.algorithm == "whitened" and (self.sampling, self.aggregation) != (1, "sum"):
            raise ValueError(
                "whitened first makes one sum over all patients: it needs sampling = 1 and "
                'aggregation = "sum"'
            )
        if self.algorithm != "fedavgm" and self.augmentation != "none":
            raise ValueError(f"{self.algorithm} does not support augmentation")
        return self

    def _refuse_more_than_one_sum(self) -> None:
        if (self.steps, self.sampling, self.aggregation) != (1, 1, "sum"):
            raise ValueError(
                "least-squares is one sum over all patients: it needs steps = 1, sampling = 1 and "
                'aggregation = "sum"'
            )
        if self.learning_rate or self.momentum:
            raise ValueError("least-squares has no learning_rate and no momentum")


class Evaluation(Document):
    """Settings of the one noisy release at the end, which measures the model on held-out patients.

    ``subgroups``: category columns whose codes get results of their own; k columns increase the
    noise by √k. ``bins``: score bins of studies of schema 1 and 2; None in later ones, which have
    none.
    """

    epsilon: Annotated[float, Field(ge=0.01, le=10)]
    bins: Annotated[int, Field(ge=2, le=8)] | None = None
    subgroups: Annotated[tuple[ColumnName, ...], Field(max_length=10)] = ()
    retry_allowance: Annotated[int, Field(ge=0, le=100)] = 1


class Survey(Document):
    """Settings of a release before a study: noisy counts of all patients by label and ``columns``.

    The counts touch every patient, so both sub-ledgers are charged. Numbers are counted in ``bins``
    equal ranges of their bounds.
    """

    epsilon: Annotated[float, Field(ge=0.01, le=10)]
    columns: Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=100)]
    bins: Annotated[int, Field(ge=2, le=50)] = 5
    retry_allowance: Annotated[int, Field(ge=0, le=100)] = 0


_HOURS = r"([1-9]|[1-9][0-9]|1[0-5][0-9]|16[0-8])h"


class Limits(Document):
    """Time that an attempt waits for its cohort, and the fewest hospitals that may form one.

    ``start_within``: hours after the last approval within which the run begins, when electricity is
    expected to be the cleanest; None: at once.
    """

    deadline_seconds: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    minimum_cohort: Annotated[int, Field(ge=1)]
    start_within: Annotated[str, spelt(_HOURS, "a number of hours from 1h to 168h")] | None = None

    @property
    def start_within_hours(self) -> int:
        """The hours of ``start_within``; 0 if the run begins at once."""
        return int(self.start_within[:-1]) if self.start_within else 0


def largest_delta(public_size: int) -> float:
    """Return δ = min(1e-6, 1/(100 n)) for a public number of patients ``n`` (DESIGN 5)."""
    return min(LARGEST_DELTA, 1 / (100 * public_size))


def round_size(size: int) -> int:
    """Round down to two significant digits, so that no patient's presence is revealed."""
    unit: int = 10 ** max(0, len(str(size)) - 2)
    return size // unit * unit
