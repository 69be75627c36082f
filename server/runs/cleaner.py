"""A study whose run may wait for cleaner electricity, and what a run emitted.

A study with ``start_within`` in its limits starts within so many hours of its last approval, in the
hour that is expected to be the cleanest for its hospitals (``flo.carbon.starting``). The window
begins when the scheduler first sees that everybody approved; the plan's event keeps that over
restarts. It never waits beyond the day on which the study expires. Whatever is wrong with a file of
intensities, the run starts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from flo.carbon.grams import SECONDS, emitted
from flo.carbon.intensity import Grid, Intensity
from flo.carbon.readers import read_intensity
from flo.carbon.starting import Start, best_start
from flo.errors import FloError
from flo.server.home.carbon_config import CarbonConfig, GridConfig
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.store.store import Store
from flo.server.studies.progress import StudyProgress
from flo.study.document import Study

log = logging.getLogger("flo.server")

_HOUR = timedelta(hours=1)


class CleanerElectricity:
    """Used by the scheduler, in its thread."""

    def __init__(self, home: CoordinatorHome, store: Store) -> None:
        self._home, self._store = home, store
        self._planned: dict[str, tuple[int, Start]] = {}  # study -> hour of the plan, and the plan
        self._files: dict[tuple[Path, int, str], Intensity | FloError] = {}  # path, changed, zone

    def waits(self, study: Study, now: datetime | None = None) -> bool:
        """Return whether a study that everybody approved waits for a cleaner hour.

        A changed plan becomes an event of the study. Each hour it is planned again.
        """
        try:
            return self._waits(study, now or datetime.now(UTC))
        except Exception:  # whatever it is, one study must not keep others waiting
            log.exception(f"{study.name} starts without looking at its electricity")
            return False

    def _waits(self, study: Study, now: datetime) -> bool:
        window, hour = study.limits.start_within_hours, _hour(now)
        if not window:
            return False
        before = self._planned.get(study.digest)
        if before is None or before[0] != hour:
            since = self._since(study, now)
            latest = min(since + window * _HOUR, _end_of(study) - _HOUR)
            start = self._best(study, hour, _hour(latest))
            self._planned[study.digest] = hour, start
            if start.hour > hour:
                self._say_postponed(study, start, since)
        waits = self._planned[study.digest][1].hour > hour
        if not waits:
            del self._planned[study.digest]
        return waits

    def _since(self, study: Study, now: datetime) -> datetime:
        """Return when the window began: as the first plan since the last refusal says."""
        told = self._store.last_event(study.digest, "postponed")
        refused = self._store.last_time(study.digest, "declined")
        since = datetime.fromisoformat(told["since"]) if told else now
        return now if refused is not None and refused > since else since

    def _say_postponed(self, study: Study, start: Start, since: datetime) -> None:
        until = datetime.fromtimestamp(start.hour * 3600, UTC).isoformat(timespec="minutes")
        facts = {"until": until, "since": since.isoformat(timespec="seconds")}
        told = self._store.last_event(study.digest, "postponed") or {}
        if {name: told.get(name) for name in facts} != facts:
            saves = round(start.saves, 2)
            self._store.add_event(study.digest, "postponed", **facts, saves=saves)

    def say_emitted(self, study: Study) -> None:
        """Add to a study's events what its rounds emitted, if coordinator.toml has [carbon]."""
        try:
            self._say_emitted(study)
        except Exception:  # grams are not worth a card
            log.exception(f"what {study.name} emitted is not known")

    def _say_emitted(self, study: Study) -> None:
        config = self._home.read_config().carbon
        if config is None or self._store.last_event(study.digest, "emitted") is not None:
            return
        story = StudyProgress(study)
        while events := self._store.events(study.digest, story.last):
            for event in events:
                story.apply(event)
        rounds = [
            (datetime.fromisoformat(one.time), one.seconds, one.cohort) for one in story.rounds
        ]
        found = emitted(rounds, self._grids(study, config), config.watts)
        facts = {"kwh": round(found.kwh, 6), "grams": round(found.grams, 6)}
        self._store.add_event(study.digest, "emitted", **facts)

    def _best(self, study: Study, hour: int, latest: int) -> Start:
        config = self._home.read_config().carbon
        if config is None:
            return Start(hour, 0.0)
        hours = study.mechanism.steps * SECONDS / 3600
        return best_start(self._grids(study, config).values(), hour, latest, hours)

    def _grids(self, study: Study, config: CarbonConfig) -> Mapping[str, Grid]:
        """Return the grids that are known of a study's hospitals; no error if one is not."""
        found = dict[str, Grid]()
        for hospital in study.hospitals:
            named = config.grids.get(hospital.id, config.grid)
            if named is None:
                continue
            try:
                found[hospital.id] = self._grid(named)
            except FloError as error:
                log.warning(f"the grid of {hospital.id} does not count: {error}")
        return found

    def _grid(self, named: GridConfig) -> Grid:
        past = self._read(named.past, named.zone)
        return Grid(past, self._read(named.ahead, named.zone)) if named.ahead else Grid(past)

    def _read(self, name: str, zone: str) -> Intensity:
        path = self._home.directory / name
        changed = path.stat().st_mtime_ns if path.exists() else 0
        key = path, changed, zone
        if key not in self._files:
            self._files = {k: one for k, one in self._files.items() if k[0] != path}
            try:
                self._files[key] = read_intensity(path, zone)
            except FloError as error:
                self._files[key] = error
        found = self._files[key]
        if isinstance(found, FloError):  # of many hospitals, say; it was read once
            raise found
        return found


def _hour(at: datetime) -> int:
    return int(at.timestamp() // 3600)


def _end_of(study: Study) -> datetime:
    """Return when the day on which a study expires is over, to the second."""
    return datetime.combine(study.expires, time(23, 59, 59), UTC)
