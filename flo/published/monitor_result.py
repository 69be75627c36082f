"""A monitor's noisy sums of one period, as a signed result, ``NAME-RUN.monitor.json``.

Anyone can compute from the results of a series what ``flo.published.monitor_series`` says.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from flo.documents import canonical
from flo.documents.document import Document, parse, read_json
from flo.keys.claims import Digest
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import monitor
from flo.published.signed_result import SignedResult
from flo.scores.drift import Period
from flo.study.document import MAX_STUDY_BYTES, Study
from flo.study.monitor import MOST_PERIODS
from flo.study.terms import Identifier

MAX_MONITOR_BYTES = 2 * MAX_STUDY_BYTES + (1 << 17)  # a study in JSON text, and the sums
MONITOR = ".monitor.json"  # ending of the file
_LARGEST_VALUE = 1e9
_VALUES = 5000  # of a result's JSON, at most
_Value = Annotated[float, Field(ge=-_LARGEST_VALUE, le=_LARGEST_VALUE)]


class MonitorSums(Document):
    """The noisy sum of a period's releases.

    ``hospitals``: those whose releases were added. ``values``: S and c·W, as in
    ``flo.privacy.releases.monitor``. ``asked``: digest of the request, which carried the model.
    """

    asked: Digest
    hospitals: Annotated[tuple[Identifier, ...], Field(max_length=1000)]
    values: tuple[_Value, _Value]

    def follow_from(self, study: Study) -> bool:
        """Return whether these sums can be of this study's monitor."""
        return (
            study.monitor is not None
            and bool(study.monitor.models)
            and study.may_sum(self.hospitals)
        )

    def period(self, study: Study) -> Period:
        """Return the sums with the variance of their noise; they must ``follow_from`` the study."""
        noise = combined_variance(study, Plan.of(study).purpose("monitor"), len(self.hospitals))
        more, variance = self.values
        return Period(more, variance / monitor.OF_VARIANCE, noise, noise / monitor.OF_VARIANCE**2)


class MonitorResult(SignedResult):
    """One period of a monitor."""

    signed_as: ClassVar[str] = "monitor-result"
    what: ClassVar[str] = "this monitor's result"

    sums: MonitorSums

    def follows_from(self, study: Study) -> bool:
        """Return whether the study watches a model, and these are its sums."""
        return self.sums.follow_from(study)


def read_monitor(path: Path) -> MonitorResult:
    """Read a monitor's result without checking it. Raises UsageError or MessageError."""
    return read_json(MonitorResult, path, limit=MAX_MONITOR_BYTES)


def to_list(results: Iterable[MonitorResult]) -> bytes:
    """Return several results as one JSON text."""
    return b"[" + b",".join(one.to_bytes() for one in results) + b"]"


def from_list(data: bytes) -> list[MonitorResult]:
    """Read what ``to_list`` wrote, without checking it. Raises MessageError."""
    limit = MOST_PERIODS * MAX_MONITOR_BYTES
    found = canonical.decode(data, limit=limit, what="monitor", values=MOST_PERIODS * _VALUES)
    return [parse(MonitorResult, one, "monitor") for one in found]
