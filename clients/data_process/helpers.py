"""Processes that share a site's training sums with the data process, each on a device of its own.

1. The data process forks them before it confines itself, and each confines itself the same way.
2. Each loads the same snapshot and takes its own blocks of patients (``Slot``).
3. For a training release the data process sends the model and who takes part. Each process, the
   data process included, computes the exact sum of its blocks, as integers.
4. The data process adds the integers and draws noise once.

Exact sums travel only on pipes between these confined processes; the agent gets the noisy sum. A
helper that ends, ends the data process, and the agent starts all of them again.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:  # numpy is imported only in a confined process
    from flo.arrays import Integers, Mask
    from flo.study.parameters import Vector

_PR_SET_PDEATHSIG = 1

Answer = tuple[dict[str, Any], memoryview]


@dataclass(frozen=True)
class Pipes:
    """What a process reads from another one, and writes to it."""

    reader: IO[bytes]
    writer: IO[bytes]


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


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

    def begin(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Send a request; the helpers work while the caller does. ``answers`` must follow.

        Raises:
            SystemExit: a helper has ended.
        """
        from flo.clients.data_process.worker import write_frame

        for helper in self._helpers:
            try:
                write_frame(helper.writer, header, body)
            except OSError as error:
                raise SystemExit(1) from error

    def answers(self) -> list[Answer]:
        """Return every helper's answer.

        Raises:
            RuntimeError: a helper could not answer. SystemExit: a helper has ended.
        """
        from flo.clients.data_process.worker import read_frame

        read = [read_frame(helper.reader) for helper in self._helpers]
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

    def begin(self, weights: Vector, chosen: Mask | None) -> None:
        """Ask for the sums at ``weights`` of the patients ``chosen``, or of all."""
        who = b"" if chosen is None else chosen.tobytes()
        header = {"do": "sum", "weights": weights.nbytes, "kind": weights.dtype.str, **self._known}
        self._helpers.begin(header, weights.tobytes() + who)

    def sums(self) -> list[Integers]:
        """Return each helper's sum, integers (2, p). Raises as ``Helpers.answers`` does."""
        import numpy as np

        return [
            np.frombuffer(body, dtype=np.int64).reshape(2, -1)
            for _, body in self._helpers.answers()
        ]
