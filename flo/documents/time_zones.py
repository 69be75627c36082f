"""Names of time zones, as in the IANA database: "Europe/Berlin", "UTC"."""

from __future__ import annotations

from typing import Annotated
from zoneinfo import available_timezones

from pydantic import AfterValidator, StringConstraints

from flo.errors import UsageError


def refuse_unknown_zone(name: str) -> None:
    """Raise UsageError: no such time zone."""
    if name not in available_timezones():
        raise UsageError(
            f"the time zone {name!r} is not known", hint="name it as in Europe/Berlin or UTC"
        )


def _known(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"{name!r} is no time zone; name it as in Europe/Berlin or UTC")
    return name


ZoneName = Annotated[str, StringConstraints(max_length=60), AfterValidator(_known)]
