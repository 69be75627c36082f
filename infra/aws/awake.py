"""When a coordinator in AWS is awake: days and hours of a week, in a named time zone.

EventBridge Scheduler wakes it and puts it to sleep; it follows changes to summer time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flo.documents.time_zones import refuse_unknown_zone
from flo.errors import UsageError

DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_WEEKS = 365 / 7 / 12  # in a month
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_CRON = re.compile(r"cron\(([0-9]{1,2}) ([0-9]{1,2}) \? \* ([A-Z,]+) \*\)")


@dataclass(frozen=True)
class Calendar:
    """``days``: of ``DAYS``. ``wake``, ``sleep``: minutes after midnight, on each of these days."""

    days: tuple[str, ...]
    wake: int
    sleep: int
    zone: str

    @staticmethod
    def parse(days: str, wake: str, sleep: str, zone: str) -> Calendar:
        """Read "mon-fri" or "mon,wed", "08:00", "18:00", and a name such as "Europe/Berlin".

        Raises:
            UsageError: one of them is not that, or it would go to sleep before it wakes.
        """
        refuse_unknown_zone(zone)
        found = Calendar(_days(days), _minutes(wake, "--from"), _minutes(sleep, "--to"), zone)
        if found.wake >= found.sleep:
            raise UsageError(
                f"--to {sleep} is not after --from {wake}",
                hint="both are of the same day: at night the coordinator sleeps",
            )
        return found

    @staticmethod
    def from_cron(wake: str, sleep: str, zone: str) -> Calendar | None:
        """Return the calendar of a stack's two schedules; None if it has none, or another kind."""
        first, last = _CRON.fullmatch(wake), _CRON.fullmatch(sleep)
        if first is None or last is None or first[3] != last[3]:
            return None
        begin, end = (int(one[2]) * 60 + int(one[1]) for one in (first, last))
        return Calendar(tuple(first[3].split(",")), begin, end, zone)

    @property
    def cron(self) -> tuple[str, str]:
        """EventBridge's expressions for waking and for going to sleep."""
        days = ",".join(self.days)
        return tuple(  # type: ignore[return-value]
            f"cron({at % 60} {at // 60} ? * {days} *)" for at in (self.wake, self.sleep)
        )

    @property
    def wakings(self) -> float:
        """How often it wakes in a month, on average."""
        return len(self.days) * _WEEKS

    @property
    def hours(self) -> float:
        """How many hours of a month it is awake, on average."""
        return self.wakings * (self.sleep - self.wake) / 60

    def __str__(self) -> str:
        begin, end = (f"{at // 60:02}:{at % 60:02}" for at in (self.wake, self.sleep))
        return f"{', '.join(self.days).lower()} from {begin} to {end} ({self.zone})"


def _days(text: str) -> tuple[str, ...]:
    found = set[str]()
    for part in text.upper().split(","):
        first, _, last = part.strip().partition("-")
        last = last or first
        if first not in DAYS or last not in DAYS or DAYS.index(first) > DAYS.index(last):
            raise UsageError(
                f"--days {text!r} is not understood",
                hint="write mon-fri, or mon,wed,fri; a week begins with mon",
            )
        found.update(DAYS[DAYS.index(first) : DAYS.index(last) + 1])
    return tuple(day for day in DAYS if day in found)


def _minutes(text: str, option: str) -> int:
    matched = _TIME.fullmatch(text)
    if matched is None:
        raise UsageError(f"{option} {text!r} is not a time", hint="write it as 08:00 or 17:30")
    return int(matched[1]) * 60 + int(matched[2])
