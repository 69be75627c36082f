"""Documents that a remote aggregator and the coordinator exchange about one run.

take    the aggregator takes over the run: it gets the study, the last saved state's place, and a
        launch number; the coordinator refuses later calls of earlier launches
tell    the aggregator reports events, heads, the place of a new saved state, the end
look    part of the reply to ``take``, and the reply to ``tell``: nodes, how often each agent has
        connected, the highest heads, whether to stop
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from flo.documents.document import Document
from flo.keys.claims import LARGEST_COUNT, Digest, LedgerHead
from flo.privacy.releases.calibration import Calibration
from flo.published.evaluated import EvaluatedSums
from flo.published.golden import Golden
from flo.published.model_card import MOST_INPUTS, MOST_NOISE, Average, Variance
from flo.study.classes import MOST_CLASSES
from flo.study.document import MAX_STUDY_BYTES
from flo.study.quantity import MOST_LEVELS
from flo.study.statistics import MOST_CELLS, ROUNDS
from flo.study.terms import Identifier
from flo.study.time_to_event import MOST_HORIZONS

MAX_RUN_REPORT_BYTES = 8 << 20
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
_Node = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,20}$")]  # too large for a JSON number
_Text = Annotated[str, StringConstraints(max_length=500)]
_Hospitals = Annotated[tuple[Identifier, ...], Field(max_length=1000)]
_Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]


class Saved(Document):
    """Place of a sealed state. ``number`` increases; ``digest``: of the sealed bytes."""

    number: _Count
    digest: Digest
    phase: _Name
    round: _Count


class _Online(Document):
    hospitals: _Hospitals


class _Round(Document):
    phase: _Name
    round: _Count
    cohort: _Hospitals
    seconds: Annotated[float, Field(ge=0)]


class _AttemptFailed(Document):
    phase: _Name
    round: _Count
    attempt: _Count
    cohort: _Hospitals
    missing: _Hospitals
    why: _Text


class _OfAHospital(Document):
    hospital: Identifier
    why: _Text | None = None
    code: _Name | None = None


class _TooFew(Document):
    there: _Hospitals
    floor: _Count


class _Failed(Document):
    why: _Text


class _Paused(Document):
    round: _Count
    phase: _Name


class _Quality(Document):
    auc: float
    low: float
    high: float
    level: float
    noise_share: float
    bias: float = 0.0


class _Sum(Document):
    values: Annotated[tuple[float, ...], Field(max_length=MOST_CELLS)]
    hospitals: _Hospitals


class _RegressionRound(_Sum):
    asked: Annotated[tuple[float, ...], Field(max_length=MOST_CELLS)]


class _Statistics(_Sum):
    rounds: Annotated[tuple[_RegressionRound, ...], Field(max_length=ROUNDS)] = ()


class _AskedSum(_Sum):
    asked: Digest


class RunResult(Document):
    """Result of a run: a model with what its card states of it, or sums that it released."""

    rounds: _Count
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    estimate: _Quality | None = None
    subgroups: Annotated[dict[_Text, _Quality], Field(max_length=1000)] | None = None
    calibration: Calibration | None = None
    earlier_horizons: Annotated[tuple[Calibration, ...], Field(max_length=MOST_HORIZONS)] | None = (
        None
    )
    steps: Annotated[tuple[Calibration, ...], Field(max_length=MOST_LEVELS)] | None = None
    by_class: Annotated[tuple[Calibration, ...], Field(max_length=MOST_CLASSES)] | None = None
    statistics: _Statistics | None = None
    gate: _AskedSum | None = None
    monitor: _AskedSum | None = None
    evaluated: EvaluatedSums | None = None
    golden: Golden | None = None
    noise: Annotated[tuple[Variance, ...], Field(max_length=MOST_NOISE)] | None = None
    average: Annotated[tuple[Average, ...], Field(max_length=MOST_INPUTS)] | None = None
    average_deviation: Annotated[float, Field(ge=0)] | None = None
    model: _Text | None = None
    model_digest: Digest | None = None


_LONG = (
    *("statistics", "gate", "monitor"),
    *("earlier_horizons", "steps", "by_class", "evaluated", "golden"),
    *("noise", "average", "average_deviation"),
)


def facts_of(result: dict[str, Any]) -> dict[str, Any]:
    """Return what the event of a run's end states: its result without the long sums."""
    return {name: value for name, value in result.items() if name not in _LONG}


RUN_EVENT_FACTS: dict[str, type[Document]] = {
    "online": _Online,
    "round": _Round,
    "attempt-failed": _AttemptFailed,
    "bad-reply": _OfAHospital,
    "refused": _OfAHospital,
    "excluded": _OfAHospital,
    "too-few": _TooFew,
    "failed": _Failed,
    "paused": _Paused,
    "done": RunResult,
    "stopped": RunResult,
    "ended": RunResult,
}


class RunEvent(Document):
    """Event of a run, with the facts of its kind.

    Only the coordinator itself can add entries of other kinds to the audit log.
    """

    kind: str
    facts: dict[str, Any]

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in RUN_EVENT_FACTS:
            raise ValueError(f"must be one of {', '.join(RUN_EVENT_FACTS)}")
        return kind

    @field_validator("facts")
    @classmethod
    def _of_its_kind(cls, facts: dict[str, Any], given: ValidationInfo) -> dict[str, Any]:
        """Return the facts as parsed: a number that was sent as text becomes a number."""
        kind = given.data.get("kind")
        if kind is None:
            raise ValueError("its kind is unknown")
        checked = RUN_EVENT_FACTS[kind].model_validate(facts)
        return checked.model_dump(mode="json", exclude_unset=True)


class RunEnd(Document):
    """How the aggregator ended its work on the run; ``paused``: the run can continue later."""

    status: Literal["done", "stopped", "ended", "paused"]
    result: RunResult | None = None


class RunReport(Document):
    """Report of an aggregator. ``launch``: the number that ``take`` returned."""

    launch: _Count
    events: Annotated[tuple[RunEvent, ...], Field(max_length=1000)] = ()
    heads: Annotated[dict[Identifier, LedgerHead], Field(max_length=1000)]
    saved: Saved | None = None
    end: RunEnd | None = None


class RunStatus(Document):
    """The coordinator's current view of the run.

    ``nodes``: hospital -> Flower's node id, decimal. ``connections``: how often each agent has
    connected. ``heads``: the highest head seen of each hospital. ``stop``: whether the run is to
    end after this round.
    """

    nodes: dict[Identifier, _Node]
    connections: dict[Identifier, _Count]
    heads: dict[Identifier, LedgerHead]
    stop: bool


class ClaimedRun(Document):
    """Reply to ``take``: the study as canonical text, the launch's number, the last saved state."""

    study: Annotated[str, StringConstraints(max_length=MAX_STUDY_BYTES)]
    launch: _Count
    saved: Saved | None
    look: RunStatus
