"""Several versions that are asked about one patient, of which one answers.

The front names the versions with each question; the first is the one in use. A worker scores the
patient with all of them, and draws whose answer is sent (``flo.clients.comparison.terms.shown``).
A version that cannot use the record leaves the answer to the one in use.

    a question's versions   count (1), digest (32) of each; if there are several: id of the
                            comparison (32, ASCII), share (1) of each but the first
    compared                JSON: [place of the version that answers, the patient's id, risks]
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from flo.clients.comparison import terms
from flo.clients.prediction.scorer import Scored
from flo.clients.serving.service import Answer, Question, Service
from flo.errors import MessageError

DIGEST, _ID, _LONGEST_PATIENT = 32, 32, 64


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


def drawn(
    several: Several, services: Sequence[Service], found: Sequence[Question | Answer], own_id: str
) -> tuple[int, str]:
    """Return the place of the version that answers, and the patient's id.

    ``found``: what each version makes of the request. ``own_id``: of the answer; it stands for the
    patient if the request names none.
    """
    asked = [one for one in found if isinstance(one, Question)]
    patient = (asked[0].patient if asked else "") or own_id
    others = services[1:]
    shares = {
        one.study_digest: share for one, share in zip(others, several.shares, strict=True) if share
    }
    study = terms.shown(several.comparison, patient, shares) if shares else None
    place = next((at for at, one in enumerate(services) if at and one.study_digest == study), 0)
    return (place if isinstance(found[place], Question) else 0), patient


def compared(place: int, patient: str, scored: Sequence[Scored | None]) -> bytes:
    """Return for the front what versions said of a patient; b"" if none could score them."""
    if not any(scored):
        return b""
    return json.dumps([place, patient, [one.risk if one else None for one in scored]]).encode()


def read_compared(data: bytes, count: int) -> Compared:
    """Read it in the front. ``count``: of the versions that were asked.

    Raises MessageError: a worker cannot have said that.
    """
    try:
        place, patient, risks = json.loads(data)
        sound = (
            *(type(place) is int, 0 <= place < count, isinstance(patient, str)),
            *(0 < len(patient) <= _LONGEST_PATIENT, isinstance(risks, list), len(risks) == count),
            *(risk is None or _is_share(risk) for risk in risks),
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise MessageError("a worker's comparison is not in its form") from error
    if not all(sound):
        raise MessageError("a worker's comparison is not in its form")
    return Compared(place, patient, tuple(risks))


def _is_share(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and 0 <= value <= 1
