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
from functools import partial
from typing import Any

from flo.clients.serving.answer_log import AnswerLog, Line

log = logging.getLogger("flo.clients.serving.recorder")

GATHER_SECONDS = 0.005  # from the first answer of a group to its flush
_ANCHOR_SECONDS, _REFUSED_SECONDS = 3600.0, 60.0
_MOST_REASONS, _MOST_WAITING = 100, 10_000
_OTHER = "other reasons"


class Recorder:
    """A thread with the log. ``anchor``: writes the end of the log into the site's audit log."""

    def __init__(self, answers: AnswerLog, anchor: Callable[..., None]) -> None:
        self._answers, self._anchor = answers, anchor
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._lines = list[tuple[Line, asyncio.Future[None]]]()
        self._entries = list[tuple[str, dict[str, Any], asyncio.Future[None]]]()
        self._refused, self._stopping, self._ended = Counter[str](), False, False
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
            if self._is_full(done):
                return done
            self._lines.append((line, done))
        self._wake.set()
        return done

    def enter(self, kind: str, **facts: Any) -> asyncio.Future[None]:
        """Enter another fact, after the answers that wait; as ``record``."""
        done: asyncio.Future[None] = self._loop.create_future()
        with self._lock:
            if self._is_full(done):
                return done
            self._entries.append((kind, facts, done))
        self._wake.set()
        return done

    def refuse(self, why: str) -> None:
        """Count a refused request; once a minute the counts are entered."""
        with self._lock:
            is_known = why in self._refused or len(self._refused) < _MOST_REASONS
            self._refused[why if is_known else _OTHER] += 1

    def stop(self) -> None:
        """Write what is left, the end of the log into the audit log, and end the thread."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _is_full(self, done: asyncio.Future[None]) -> bool:
        if self._ended or len(self._lines) + len(self._entries) >= _MOST_WAITING:
            done.set_exception(OSError("the log of answers takes no more entries"))
            return True
        return False

    def _run(self) -> None:
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
                self._write()
                if now - anchored >= _ANCHOR_SECONDS:
                    anchored = now
                    self._guarded(lambda: self._anchor(**self._answers.head()))
        except Exception:  # a bug: from now on no answer is sent
            log.exception("the log of answers is written no more")
        with self._lock:
            self._ended = True
        self._count_refused()
        self._write()
        self._guarded(lambda: self._answers.append("ended"))
        self._guarded(lambda: self._anchor(**self._answers.head()))
        self._guarded(self._answers.close)

    def _count_refused(self) -> None:
        with self._lock:
            refused, self._refused = self._refused, Counter()
        if refused:
            self._guarded(lambda: self._answers.append("refused", reasons=dict(refused)))

    def _write(self) -> None:
        with self._lock:
            entries, self._entries = self._entries, []
            lines, self._lines = self._lines, []
        if lines:
            self.groups += 1
            failed = self._guarded(
                lambda: self._answers.append_answers([line for line, _ in lines])
            )
            self._loop.call_soon_threadsafe(_settle, [done for _, done in lines], failed)
        for kind, facts, done in entries:
            failed = self._guarded(partial(self._answers.append, kind, **facts))
            self._loop.call_soon_threadsafe(_settle, [done], failed)

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
            done.exception()  # whoever does not wait for it has it in the log
