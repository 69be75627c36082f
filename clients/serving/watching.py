"""The monitors of the models that answer: what is counted of each answer, and what is done about
alarms.

    1. what was seen of a record is kept after the answer was sent, in batches, by a thread of its
       own. Answers never wait for it. A batch that cannot be counted is lost, and that is logged;
    2. every few seconds all monitors are looked at (``flo.clients.watching.watch``);
    3. the hospital's plan says what is done about a new alarm (``flo.clients.watching.plan``). What
       is done is a decision on the version like any other: the front obeys it within a second.

No error of a monitor reaches those who answer.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import FILE as OPT_OUTS
from flo.clients.patients.opt_outs import OptOuts
from flo.clients.prediction import versions
from flo.clients.serving import seen
from flo.clients.watching import plan_decisions
from flo.clients.watching.kept import Arrived, KeptWatch, Watched
from flo.clients.watching.models import sweep
from flo.clients.watching.plan import USUAL_FOLLOW_UP
from flo.clients.watching.responses import respond
from flo.errors import FloError
from flo.privacy.patients.split import keyed_hash

log = logging.getLogger("flo.clients.serving.watching")

_MOST_WAITING = 20_000  # answers that are to be counted
_LONGEST = 1 << 18  # bytes that were seen of a record
_GATHER_SECONDS, _LOOK_SECONDS, _SWEEP_SECONDS = 1.0, 5.0, 3600.0


@dataclass(frozen=True)
class Standing:
    """``alarms``: that nobody has settled. ``is_learning``: whether what is usual is still being
    counted."""

    health: float
    alarms: int
    is_learning: bool


class _Waiting(NamedTuple):
    id: str
    caller: str
    seconds: float
    seen: bytes


class Watching:
    """Used on the event loop; all files are read and written by one thread of its own.

    ``lost``: answers that were not counted.
    """

    def __init__(self, home: SiteHome) -> None:
        self._home, self._patients_key = home, home.open_patients_key()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="watching")
        self._watched = dict[str, Watched]()  # by model
        self._waiting = dict[str, deque[_Waiting]]()  # by watch
        self._standing = dict[str, tuple[Watched, Standing]]()  # by model; the thread replaces it
        self._open = dict[str, KeptWatch]()  # by watch; of that thread
        self._begun = dict[str, Watched]()  # by model; of that thread: what was counted last
        self._looked, self._swept, self.lost, self._lost_before = 0.0, 0.0, 0, 0

    def standing(self, name: str) -> Standing | None:
        """Return how a model stands; None if that is not known."""
        watched, found = self._standing.get(name, (None, None))
        return found if watched is not None and watched is self._watched.get(name) else None

    def watch_only(self, several: Mapping[str, Watched]) -> None:
        """Watch these versions, by model, from now on."""
        if self._watched == several:
            return
        self._watched = dict(several)
        known = {watched.id for watched in several.values()}
        self._waiting = {id_: self._waiting.get(id_, deque()) for id_ in known}
        self._thread.submit(self._count_all)

    def keep(
        self, watched: Watched, answer_id: str, caller: str, seconds: float, seen: bytes
    ) -> None:
        """Keep what was seen of a record whose answer was sent. [1]"""
        waiting = self._waiting.get(watched.id)
        if waiting is None:  # another version answers by now
            return
        if len(waiting) >= _MOST_WAITING or len(seen) > _LONGEST:
            self.lost += 1
            return
        waiting.append(_Waiting(answer_id, caller, seconds, seen))

    async def keep_counting(self) -> None:
        """Count what waits, every second, and look every few seconds. [1], [2]"""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_GATHER_SECONDS)
            if any(self._waiting.values()) or time.monotonic() - self._looked > _LOOK_SECONDS:
                await loop.run_in_executor(self._thread, self._count_all)

    def close(self) -> None:
        """Count what waits, and close all files."""
        self._thread.submit(self._count_all)
        self._thread.submit(self._close_all)
        self._thread.shutdown()

    # -- in the thread -------------------------------------------------------------------------

    def _count_all(self) -> None:
        try:
            is_time = time.monotonic() - self._looked > _LOOK_SECONDS
            if is_time:
                self._looked = time.monotonic()
            watched_now = dict(self._watched)
            for name, watched in watched_now.items():
                waiting = self._waiting.get(watched.id, deque())
                if is_time or waiting or name not in self._standing:
                    self._guarded(name, watched, waiting, is_time=is_time)
            known = {one.id for one in watched_now.values()}
            for watch in set(self._open) - known:
                self._open.pop(watch).close()
            if time.monotonic() - self._swept > _SWEEP_SECONDS or not self._swept:
                self._swept = time.monotonic()
                sweep(self._home, known)
            if self.lost > self._lost_before:
                log.warning(f"{self.lost} answers were too many to be counted by monitors")
                self._lost_before = self.lost
        except Exception as error:  # noqa: BLE001 - a monitor must not end the answers
            log.warning(f"monitors cannot count: {_words(error)}")

    def _guarded(
        self, name: str, watched: Watched, waiting: deque[_Waiting], *, is_time: bool
    ) -> None:
        try:
            standing = self._counted(name, watched, waiting, is_time=is_time)
            self._standing = self._standing | {name: (watched, standing)}
        except Exception as error:  # noqa: BLE001 - as above
            log.warning(f"the monitors of {name} cannot count: {_words(error)}")
            self._standing = {one: s for one, s in self._standing.items() if one != name}
            opened = self._open.pop(watched.id, None)
            if opened is not None:
                opened.close()

    def _counted(
        self, name: str, watched: Watched, waiting: deque[_Waiting], *, is_time: bool
    ) -> Standing:
        """Count what waits, look if it is time, and do what the plan says about alarms."""
        opened, several = self._opened(name, watched), list[_Waiting]()
        while waiting:
            several.append(waiting.popleft())
        columns = [one.count for one in opened.watch.layout.study.columns]
        arrived = self._arrived(several, columns)
        plan, unreadable = plan_decisions.told(self._home, name)
        follow_up = plan.follow_up_days if plan else USUAL_FOLLOW_UP
        given = follow_up, time.time(), self._opted_out()
        pending = opened.take(arrived, *given, is_time_to_look=is_time)
        if pending:  # a person may have put the version into use since they were raised
            since = self._put_into_use(name, watched)
            opened.settle_before(since)
            pending = [one for one in pending if one.time >= since]
        if pending and is_time:  # [3]
            numbers = [one.number for one in pending]
            log.warning(f"{name}: alarm {numbers[:9]}; flo model watch {name} says what it is")
            if unreadable:
                log.error(f"the plan for alarms of {name} cannot be read: {unreadable}")
            else:
                respond(self._home, name, watched, pending, plan)
                opened.answered(numbers)
        watch = opened.watch
        return Standing(watch.health, len(watch.alarms), watch.hospital.rates is None)

    def _opened(self, name: str, watched: Watched) -> KeptWatch:
        """Return a watch's file. Alarms of before a person put the version into use are settled."""
        if watched.id not in self._open:
            self._open[watched.id] = KeptWatch(self._home, watched)
            self._begun.pop(name, None)
        if self._begun.get(name) is not watched:
            self._open[watched.id].settle_before(self._put_into_use(name, watched))
            self._begun[name] = watched
        return self._open[watched.id]

    def _put_into_use(self, name: str, watched: Watched) -> float:
        """Return when a person put a version into use here (seconds since 1970); 0 if it is not."""
        if watched.finished:
            return 0.0
        last = versions.called(versions.read(self._home).own, name).last_on(watched.study.digest)
        if last is None or last.state != "current":
            return 0.0
        return datetime.fromisoformat(last.time).timestamp()

    def _arrived(self, several: list[_Waiting], columns: list[int]) -> list[Arrived]:
        """Return what arrived, without what no worker can have seen."""
        found = list[Arrived]()
        read = seen.read([one.seen for one in several], columns)
        for one, told in zip(several, read, strict=True):
            if told is None:
                log.error("what a worker saw of a record is not in its form")
                continue
            patient = keyed_hash(self._patients_key, told.patient) if told.patient else ""
            facts = told.ward, told.cells, told.broken, told.risk
            found.append(Arrived(one.id, one.caller, one.seconds, patient, *facts))
        return found

    def _close_all(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _opted_out(self) -> frozenset[str]:
        path = self._home.directory / OPT_OUTS
        listed = self._home.read_unchanged(lambda: OptOuts.load(self._home), path)
        return frozenset(listed.patients)


def _words(error: Exception) -> str:
    """Return an error for the log: FLO's and SQLite's name no patient; of others, the type only."""
    return str(error) if isinstance(error, FloError | sqlite3.Error) else type(error).__name__
