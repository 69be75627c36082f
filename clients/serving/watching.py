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

from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import FILE as OPT_OUTS
from flo.clients.patients.opt_outs import OptOuts
from flo.clients.serving import seen
from flo.clients.watching import plan_decisions
from flo.clients.watching.kept import Arrived, KeptWatch, Watched
from flo.clients.watching.plan import USUAL_FOLLOW_UP, WatchPlan
from flo.clients.watching.responses import respond
from flo.errors import FloError, MessageError
from flo.privacy.patients.split import keyed_hash

log = logging.getLogger("flo.clients.serving.watching")

_MOST_WAITING = 20_000  # answers that are to be counted
_GATHER_SECONDS, _LOOK_SECONDS = 1.0, 5.0


@dataclass(frozen=True)
class Standing:
    """``alarms``: that nobody has settled. ``is_learning``: whether what is usual is still being
    counted."""

    health: float
    alarms: int
    is_learning: bool


@dataclass(frozen=True)
class _Waiting:
    id: str
    caller: str
    seconds: float
    seen: bytes


class Watching:
    """Used on the event loop; all files are read and written by one thread of its own.

    ``standing``: of each model that is watched, by its name. ``lost``: answers that were not
    counted.
    """

    def __init__(self, home: SiteHome) -> None:
        self._home, self._patients_key = home, home.open_patients_key()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="watching")
        self._watched = dict[str, Watched]()  # by model
        self._waiting = dict[str, deque[_Waiting]]()  # by watch
        self._open = dict[str, KeptWatch]()  # by watch; of that thread
        self._plans = dict[str, WatchPlan | None]()  # by model; read again at each look
        self._looked, self.lost, self._lost_before = 0.0, 0, 0
        self.standing = dict[str, Standing]()

    def health(self, name: str) -> float | None:
        """Return the health of a model; None if it is not watched."""
        standing = self.standing.get(name)
        return None if standing is None else standing.health

    def watch_only(self, several: Mapping[str, Watched]) -> None:
        """Watch these versions, by model, from now on."""
        if self._watched == several:
            return
        for name in [one for one in self.standing if self._watched[one] != several.get(one)]:
            del self.standing[name]
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
        if len(waiting) >= _MOST_WAITING:
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
        is_time = time.monotonic() - self._looked > _LOOK_SECONDS
        if is_time:
            self._looked = time.monotonic()
            self._plans.clear()
        for name, watched in self._watched.items():
            waiting = self._waiting.get(watched.id, deque())
            if is_time or waiting or name not in self.standing:
                self._guarded(name, watched, waiting)
        for watch in set(self._open) - {one.id for one in self._watched.values()}:
            self._open.pop(watch).close()
        if self.lost > self._lost_before:
            log.warning(f"{self.lost} answers were too many to be counted by monitors")
            self._lost_before = self.lost

    def _guarded(self, name: str, watched: Watched, waiting: deque[_Waiting]) -> None:
        try:
            self._count(name, watched, waiting)
        except Exception as error:  # noqa: BLE001 - a monitor must not end the answers
            log.warning(f"the monitors of {name} cannot count: {_words(error)}")
            opened = self._open.pop(watched.id, None)
            if opened is not None:
                opened.close()

    def _count(self, name: str, watched: Watched, waiting: deque[_Waiting]) -> None:
        if watched.id not in self._open:
            self._open[watched.id] = KeptWatch(self._home, watched)
        opened, several = self._open[watched.id], list[_Waiting]()
        while waiting:
            several.append(waiting.popleft())
        columns = [one.count for one in opened.watch.layout.study.columns]
        arrived = [found for one in several if (found := self._arrived(one, columns))]
        if name not in self._plans:
            self._plans[name] = self._plan(name)
        plan = self._plans[name]
        follow_up = plan.follow_up_days if plan else USUAL_FOLLOW_UP
        pending = opened.take(arrived, follow_up, time.time(), self._opted_out())
        watch = opened.watch
        is_learning = watch.hospital.rates is None
        self.standing[name] = Standing(watch.health, len(watch.alarms), is_learning)
        if pending:  # [3]
            numbers = [one.number for one in pending]
            log.warning(f"{name}: alarm {numbers}; flo model watch {name} says what it is")
            respond(self._home, name, watched, pending, plan)
            opened.answered(numbers)

    def _plan(self, name: str) -> WatchPlan | None:
        """Return the plan in force. One that cannot be read is none: alarms tell, and so does the
        log."""
        try:
            return plan_decisions.read(self._home, name)
        except FloError as error:
            log.error(f"the plan for alarms of {name} has no effect: {error}")
            return None

    def _arrived(self, one: _Waiting, columns: list[int]) -> Arrived | None:
        """Return what arrived; None if a worker cannot have seen it."""
        try:
            read = seen.read(one.seen, columns)
        except MessageError as error:
            log.error(str(error))
            return None
        patient = keyed_hash(self._patients_key, read.patient) if read.patient else ""
        return Arrived(
            *(one.id, one.caller, one.seconds, patient),
            *(read.ward, read.cells, read.broken, read.risk),
        )

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
