"""Writes answers to the log in groups: one signature and one flush for all that arrive together.

An answer is sent once its group is on disk. If the disk is full, no answer is sent.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from flo.clients.serving.answer_log import AnswerLog, Line

log = logging.getLogger("flo.clients.serving.recorder")

GATHER_SECONDS = 0.005  # from the first answer of a group to its flush
_ANCHOR_SECONDS, _REFUSED_SECONDS = 3600.0, 60.0
_MOST_REASONS = 100


class Recorder:
    """A thread with the log. ``anchor``: writes the end of the log into the site's audit log.

    ``opened``: opens the log, in that thread.
    """

    def __init__(self, opened: Callable[[], AnswerLog], anchor: Callable[..., None]) -> None:
        self._opened, self._anchor = opened, anchor
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._lines = list[tuple[Line, asyncio.Future[None]]]()
        self._entries = list[tuple[str, dict[str, Any]]]()
        self._refused, self._stopping = Counter[str](), False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self.groups = 0

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def record(self, line: Line) -> asyncio.Future[None]:
        """Enter an answer; the future is done when it is on disk. Called on the event loop."""
        done: asyncio.Future[None] = self._loop.create_future()
        with self._lock:
            self._lines.append((line, done))
        self._wake.set()
        return done

    def enter(self, kind: str, **facts: Any) -> None:
        """Enter another fact, with the next group."""
        with self._lock:
            self._entries.append((kind, facts))
        self._wake.set()

    def refuse(self, why: str) -> None:
        """Count a refused request; once a minute the counts are entered."""
        with self._lock:
            if why in self._refused or len(self._refused) < _MOST_REASONS:
                self._refused[why] += 1

    def stop(self) -> None:
        """Write what is left, the end of the log into the audit log, and end the thread."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        answers = self._opened()
        anchored = counted = time.monotonic()
        try:
            while not self._stopping:
                self._wake.wait(1.0)
                self._wake.clear()
                if self._lines and not self._stopping:
                    time.sleep(GATHER_SECONDS)
                now = time.monotonic()
                if now - counted >= _REFUSED_SECONDS:
                    counted = now
                    self._count_refused()
                self._write(answers)
                if now - anchored >= _ANCHOR_SECONDS:
                    anchored = now
                    self._guarded(lambda: self._anchor(**answers.head()))
            self._count_refused()
            self._write(answers)
            self._guarded(lambda: answers.append("ended"))
            self._guarded(lambda: self._anchor(**answers.head()))
        finally:
            answers.close()

    def _count_refused(self) -> None:
        with self._lock:
            refused, self._refused = self._refused, Counter()
            if refused:
                self._entries.append(("refused", {"reasons": dict(refused)}))

    def _write(self, answers: AnswerLog) -> None:
        with self._lock:
            entries, self._entries = self._entries, []
            lines, self._lines = self._lines, []
        for kind, facts in entries:
            self._guarded(lambda kind=kind, facts=facts: answers.append(kind, **facts))  # type: ignore[misc]
        if not lines:
            return
        self.groups += 1
        failed = self._guarded(lambda: answers.append_answers([line for line, _ in lines]))
        self._loop.call_soon_threadsafe(_settle, [done for _, done in lines], failed)

    def _guarded(self, work: Callable[[], None]) -> Exception | None:
        try:
            work()
        except Exception as error:  # a full disk, a file that was taken away: no answer then
            log.exception("the log of answers cannot be written")
            return error
        return None


def _settle(several: list[asyncio.Future[None]], failed: Exception | None) -> None:
    for done in several:
        if done.done():
            continue
        if failed is None:
            done.set_result(None)
        else:
            done.set_exception(failed)
