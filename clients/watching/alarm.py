"""What an alarm of a monitor is about, and since when."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flo.clients.watching.calibration import ALL
from flo.clients.watching.naming import Rated

WARD = "ward "  # before a ward's name, of a group of patients


@dataclass(frozen=True)
class Key:
    """What an alarm is about. ``kind``: "column", "risk", "slow", "outcomes", "late", or
    "hospitals" for outcomes at all hospitals together.

    ``name``: of the column or the group of patients; "" of the others. ``ward``: "" of the whole
    hospital.
    """

    kind: str
    name: str = ""
    ward: str = ""

    @property
    def public(self) -> dict[str, str]:
        """What an audit log says of it: a ward's name is free text of a record system."""
        is_ward = bool(self.ward) or (self.kind == "outcomes" and self.name.startswith(WARD))
        name = "" if self.kind == "outcomes" and is_ward else self.name
        return {"about": self.kind, "of": name} | ({"where": "a ward"} if is_ward else {})


@dataclass(frozen=True)
class Alarm:
    """``number``: for whoever settles it. ``since``: the day (an ordinal) on which it is estimated
    to have begun; ``found``: the day of the alarm. ``rate``: of a column's rates, which one.
    ``time``: seconds since 1970; of an alarm across hospitals, when its period's result was signed.
    ``is_answered``: whether what the hospital's plan says was done.
    """

    number: int
    key: Key
    since: int
    found: int
    rate: Rated = "values"
    time: float = 0.0
    is_answered: bool = False


def of_the_whole_hospital(key: Key) -> Key:
    """Return what of the whole hospital an alarm of a ward or of a group is about."""
    return replace(key, ward="", name=ALL if key.kind == "outcomes" else key.name)
