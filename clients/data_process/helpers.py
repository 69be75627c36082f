"""Processes that share a site's training sums with the data process, each on a device of its own.

1. The data process forks them before it confines itself, and each confines itself the same way.
2. Each loads the same snapshot and takes its own blocks of patients (``Slot``).
3. The data process checks that all compute in the same manner: device, records at once, method and
   threads. Where one has less memory, all compute fewer records at once.
4. For a training release the data process sends the model and who takes part. Each process, the
   data process included, computes the exact sum of its blocks, as integers.
5. The data process adds the integers and draws noise once.

Exact sums travel only on pipes between these confined processes; the agent gets the noisy sum. If a
helper has ended, the data process ends at its next request to it, and the agent starts all again.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # numpy is imported only in a confined process
    from flo.arrays import Integers, Mask
    from flo.study.parameters import Vector

_PR_SET_PDEATHSIG = 1

Answer = tuple[dict[str, Any], memoryview]
_Done = TypeVar("_Done")


@dataclass(frozen=True)
class Pipes:
    """A pipe from another process, and a pipe to it."""

    reader: IO[bytes]
    writer: IO[bytes]


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_pipe(reader: IO[bytes]) -> None:
    """End this process as soon as the other end of the pipe is closed, also in the middle of work.

    For a helper: newer kernels let no signal of a confined parent reach it (Landlock's scope).
    """

    def wait() -> None:
        ends = select.poll()
        ends.register(reader.fileno(), 0)  # reports a closed pipe, and nothing else
        ends.poll()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@dataclass(frozen=True)
class Place:
    """One process's place among a site's.

    Number 0 is the data process, with its pipes to the agent and its ``helpers``. The pipes of the
    others lead to the data process.
    """

    number: int
    processes: int
    pipes: Pipes
    helpers: Helpers


def fork(processes: int) -> Place:
    """Fork ``processes`` - 1 helpers; return the place of this process, or as a helper its own.

    Call it while the process has one thread and has read no data.
    """
    lead, helpers = os.getpid(), list[Pipes]()
    for number in range(1, processes):
        (asked, ask), (answered, answer) = os.pipe(), os.pipe()
        if os.fork() == 0:
            end_with_parent()
            if os.getppid() != lead:
                os._exit(1)  # it died before the kernel was told
            for other in helpers:
                other.reader.close()
                other.writer.close()
            os.close(ask)
            os.close(answered)
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, 0)
            os.dup2(nothing, 1)
            pipes = Pipes(os.fdopen(asked, "rb"), os.fdopen(answer, "wb"))
            return Place(number, processes, pipes, Helpers([]))
        os.close(asked)
        os.close(answer)
        helpers.append(Pipes(os.fdopen(answered, "rb"), os.fdopen(ask, "wb")))
    pipes = Pipes(sys.stdin.buffer, sys.stdout.buffer)
    return Place(0, processes, pipes, Helpers(helpers))


class Helpers:
    """All helpers, from the data process. A request goes to each, and each answer is read."""

    def __init__(self, helpers: Sequence[Pipes]) -> None:
        self._helpers = helpers

    def along(
        self, header: dict[str, Any], work: Callable[[], _Done], body: bytes = b""
    ) -> tuple[_Done, list[Answer]]:
        """Do ``work`` here while every helper answers a request; return its result and theirs.

        Raises:
            RuntimeError: a helper could not answer. SystemExit: a helper has ended. What ``work``
                raises comes first.
        """
        from flo.clients.data_process.child_process import write_frame

        for helper in self._helpers:
            try:
                write_frame(helper.writer, header, body)
            except OSError as error:
                raise SystemExit(1) from error
        try:
            done = work()
        except Exception:  # of any kind: it is raised again once the pipes are empty
            with contextlib.suppress(RuntimeError):
                self.answers()
            raise
        return done, self.answers()

    def answers(self) -> list[Answer]:
        """Return every helper's answer. Raises as ``along``."""
        from flo.clients.data_process.child_process import read_frame

        try:
            read = [read_frame(helper.reader) for helper in self._helpers]
        except Exception as error:  # of any kind: pipes must not stay one answer behind
            raise SystemExit(1) from error
        given = [answer for answer in read if answer is not None]
        if len(given) < len(read):
            raise SystemExit(1)
        if any(header["status"] != "ok" for header, _ in given):
            raise RuntimeError("a helper could not answer")
        return given


class StudyHelpers:
    """The helpers' sums for one study on one snapshot."""

    def __init__(self, helpers: Helpers, study: str, snapshot: str) -> None:
        """``study`` and ``snapshot``: digests, of what the helpers were asked to load."""
        self._helpers, self._known = helpers, {"study": study, "snapshot": snapshot}

    def total(self, weights: Vector, chosen: Mask | None, work: Callable[[], Integers]) -> Integers:
        """Return the sum of ``work`` and of each helper, at ``weights``; integers (2, p).

        ``chosen``: the patients who take part; all if None. Raises as ``Helpers.along``.
        """
        import numpy as np

        who = b"" if chosen is None else chosen.tobytes()
        header = {"do": "sum", "weights": weights.nbytes, "kind": weights.dtype.str, **self._known}
        own, answers = self._helpers.along(header, work, weights.tobytes() + who)
        others = [np.frombuffer(body, dtype=np.int64).reshape(own.shape) for _, body in answers]
        return np.asarray(sum(others, start=own))
