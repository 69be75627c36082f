"""Several versions that are asked about one patient, of which one answers.

The front names the versions with each question; the first is the one in use. A worker scores the
patient with all of them, and draws whose answer is sent (``flo.clients.comparison.terms.shown``);
the front draws again before it sends it. A version that cannot use the record leaves the answer to
the one in use, and so does every request that names no patient: it is not compared.

    a question's versions   count (1), digest (32) of each; if there are several: id of the
                            comparison (32, ASCII), share (1) of each but the first
    compared                JSON: [place of the version that answers, the patient's id, risks]
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flo.clients.comparison import terms
from flo.clients.prediction.scorer import Scored
from flo.clients.serving.service import Answer, Question
from flo.errors import MessageError
from flo.privacy.patients.split import normalise

DIGEST, _ID, _LONGEST_PATIENT = 32, 32, 64
_NOT_ITS_FORM = "a worker's comparison is not in its form"


@dataclass(frozen=True)
class Several:
    """``digests``: of the versions. ``comparison``: its id, and ``shares`` in percent of each
    version but the first; "" and () of one version alone."""

    digests: tuple[bytes, ...]
    comparison: str = ""
    shares: tuple[int, ...] = ()

    def packed(self) -> bytes:
        """Return the beginning of a question's body."""
        count = len(self.digests)
        head = bytes([count]) + b"".join(self.digests)
        return head if count == 1 else head + self.comparison.encode("ascii") + bytes(self.shares)

    @classmethod
    def unpacked(cls, body: bytes) -> tuple[Several, int]:
        """Return what begins a question's body, and its length."""
        count = body[0]
        end = 1 + count * DIGEST
        digests = tuple(body[place : place + DIGEST] for place in range(1, end, DIGEST))
        if count == 1:
            return cls(digests), end
        shares = end + _ID
        after = shares + count - 1
        return cls(digests, body[end:shares].decode("ascii"), tuple(body[shares:after])), after


@dataclass(frozen=True)
class Compared:
    """``place``: of the version that answers. ``risks``: of each version; None where it states
    none."""

    place: int
    patient: str
    risks: tuple[float | None, ...]


def place_of(comparison: str, patient: str, studies: Sequence[str], shares: Sequence[int]) -> int:
    """Return the place of the version whose answers a patient gets.

    ``studies``: of all versions; ``shares``: in percent, of each but the first. Spellings of an id
    that are one patient (``normalise``) get the same version.
    """
    others = {study: share for study, share in zip(studies[1:], shares, strict=True) if share}
    study = terms.shown(comparison, normalise(patient), others) if others else None
    return 0 if study is None else list(studies).index(study)


def patient_of(found: Sequence[Question | Answer | None]) -> str:
    """Return the patient whom a request names; "" if none, or if no version can use it."""
    return next((one.patient for one in found if isinstance(one, Question)), "")


def compared(place: int, patient: str, scored: Sequence[Scored | None]) -> bytes:
    """Return for the front what versions said of a patient; b"" if none could score them."""
    if not any(scored):
        return b""
    return json.dumps([place, patient, [one.risk if one else None for one in scored]]).encode()


def read_compared(data: bytes, count: int, drawn: Callable[[str], int]) -> Compared:
    """Read it in the front. ``count``: of the versions that were asked. ``drawn``: from a patient
    to the place of the version whose answers they get.

    Raises MessageError: a worker cannot have said that.
    """
    try:
        place, patient, risks = json.loads(data)
    except (ValueError, TypeError, RecursionError) as error:
        raise MessageError(_NOT_ITS_FORM) from error
    if type(place) is not int or not 0 <= place < count:
        raise MessageError(_NOT_ITS_FORM)
    if not isinstance(patient, str) or not 0 < len(patient) <= _LONGEST_PATIENT:
        raise MessageError(_NOT_ITS_FORM)
    if not isinstance(risks, list) or len(risks) != count:
        raise MessageError(_NOT_ITS_FORM)
    if not all(risk is None or _is_share(risk) for risk in risks):
        raise MessageError(_NOT_ITS_FORM)
    if place and place != drawn(patient):
        raise MessageError("a worker answered by another version than the patient gets")
    return Compared(place, patient, tuple(risks))


def of_the_first(packed: bytes) -> bytes:
    """Return the beginning of a question's body for the version in use alone."""
    return bytes([1]) + packed[1 : 1 + DIGEST]


def _is_share(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and 0 <= value <= 1
