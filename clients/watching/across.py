"""The monitor across hospitals, as this hospital's own monitors take it in.

Its evidence is in signed results, and its rate of false alarms is the one that its study states: no
local evidence counts for it, and it counts for no local monitor.
"""

from __future__ import annotations

from flo.published.monitor_series import Series, WatchedPeriod


class AcrossHospitals:
    """``series``: what is known of it; None if nothing. ``settled``: number of the last period that
    was known when somebody here settled an alarm."""

    def __init__(self, series: Series | None = None, settled: int = 0) -> None:
        self.series, self.settled = series, settled

    @property
    def alarms(self) -> list[WatchedPeriod]:
        """Periods whose alarms nobody here has settled."""
        periods = self.series.alarms if self.series else ()
        return [one for one in periods if one.number > self.settled]

    @property
    def health(self) -> float:
        """As of the series; 100 if nothing came since somebody settled."""
        if self.series is None or self.series.last.number <= self.settled:
            return 100.0
        return min(self.series.last.health, 85.0) if self.alarms else self.series.last.health

    def settle(self) -> None:
        """End all alarms that are known."""
        if self.series is not None:
            self.settled = self.series.last.number
