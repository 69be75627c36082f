"""Warm child process that holds data, model and GPU, and the pipe between it and the agent.

The parent (network, ledger, approvals) never loads patients or torch. The child has no network and
no ledger: it gets a study, a snapshot and a model, and answers with a release that already has
noise. A frame on the pipe is 4 bytes of header length, a JSON header, 8 bytes of body length, and a
body. A child that dies is started again; the agent answers "not ready" meanwhile. A child that does
not answer within ten minutes, or twice a round's deadline if that is longer, is killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from flo.arrays import Integers
from flo.documents import canonical
from flo.documents.framing import framed, length_in
from flo.documents.text import escape_for_terminal
from flo.errors import MessageError, RefusedError
from flo.privacy.secure_sum.ring import Int32Array
from flo.study.document import Study
from flo.study.parameters import Vector
from flo.study.terms import Purpose

log = logging.getLogger("flo.clients.data_process.worker")

_HEADER_LIMIT = 1 << 20
_BODY_LIMIT = 1 << 32
_LONGEST_LINE = 65_536
_PIPE_BYTES = 1 << 20
_LONGEST_SECONDS, _DEADLINES = 600.0, 2.0


def write_frame(pipe: IO[bytes], header: dict[str, Any], body: bytes | memoryview = b"") -> None:
    """Write one frame and flush it: length and JSON of the header, length and bytes of the body.

    The lengths have 4 and 8 bytes, big-endian. Counterpart of ``read_frame``.
    """
    head = canonical.encode(header)
    pipe.write(framed(head) + len(body).to_bytes(8, "big"))
    pipe.write(body)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> tuple[dict[str, Any], memoryview] | None:
    """Return the next frame, or None if the other side has closed the pipe.

    Raises:
        MessageError: header or body exceeds its limit, or the header is not a JSON object.
    """
    prefix = pipe.read(4)
    if len(prefix) < 4:
        return None
    size = length_in(prefix, _HEADER_LIMIT, "a frame's header")
    header = canonical.decode(pipe.read(size), limit=_HEADER_LIMIT, what="frame")
    if not isinstance(header, dict):
        raise MessageError("a frame's header is a JSON object")
    announced = pipe.read(8)
    if len(announced) < 8:
        return None
    length = length_in(announced, _BODY_LIMIT, "a frame's body")
    body = np.empty(length, dtype=np.uint8).data
    there = 0
    while there < length:
        size = pipe.readinto(body[there:])  # type: ignore[attr-defined]
        if not size:
            return None
        there += size
    return header, body


class DataProcess:
    """The parent's handle of the child process."""

    def __init__(
        self,
        device: str,
        snapshots: Path,
        forbidden: Path,
        required: Callable[[], Collection[str]],
        on_restart: Callable[[int], None] = lambda code: None,
        *,
        processes: int = 1,
    ) -> None:
        """Prepare a child, without starting it.

        Args:
            device: auto, cpu or cuda.
            snapshots: folder of frozen patients, the only files of this site that it may read.
            forbidden: a file to check that with.
            required: returns the layers of confinement that must hold.
            on_restart: called with the return code of an ended child (negative: signal).
            processes: processes that share a training sum, the child included.
        """
        self._required, self._on_restart = required, on_restart
        self._places = (str(snapshots.resolve()), str(forbidden.resolve()))
        self._how = (device, str(processes))
        self._child: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        self._loaded: dict[str, str] = {}  # study -> snapshot, as digests
        self._one_at_a_time = threading.RLock()  # one request at a time on the pipe
        self._layers: dict[str, bool] | None = None

    def start(self) -> None:
        """Start the child, so that it is warm when the first request arrives."""
        self.stop()
        self._child = subprocess.Popen(
            # -I: no code from the working directory, the user's folder or PYTHON* variables
            [
                *(sys.executable, "-I", "-W", "ignore", "-m", "flo.clients.data_process.child"),
                *(*self._how, *self._places),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pipesize=_PIPE_BYTES,
            start_new_session=True,  # detached from our terminal
            env={name: value for name, value in os.environ.items() if may_know(name)},
        )
        self._listener = threading.Thread(target=_repeat, args=(self._child.stderr,), daemon=True)
        self._listener.start()
        self._loaded.clear()
        self._layers = None

    @property
    def missing(self) -> list[str]:
        """Layers that the site's policy requires and the child did not find in force.

        Raises:
            RefusedError: no child has reported its layers.
        """
        held = self.layers
        return sorted(name for name in self._required() if not held.get(name))

    @property
    def layers(self) -> dict[str, bool]:
        """Layers of ``flo.clients.data_process.confinement``, and whether the child saw each hold.

        Raises:
            RefusedError: no child has reported its layers.
        """
        if self._layers is None:
            child, hello = self._child, None
            if child is not None and child.stdout is not None:
                with _ended_after(_LONGEST_SECONDS, child), contextlib.suppress(MessageError):
                    hello = read_frame(child.stdout)
            if hello is None or not isinstance(hello[0].get("layers"), dict):
                raise RefusedError(
                    "the process that holds the data did not start",
                    hint="read the lines above; `flo site run -v` shows more",
                )
            self._layers = {str(name): held is True for name, held in hello[0]["layers"].items()}
        return self._layers

    def stop(self) -> None:
        """Kill the child, if there is one, and close its pipes."""
        child, self._child = self._child, None
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        _end(child)
        child.wait(timeout=10)
        if self._listener is not None:
            self._listener.join(timeout=10)

    def release(
        self,
        study: Study,
        snapshot: Path,
        snapshot_digest: str,
        purpose: Purpose,
        weights: Vector,
        cohort_size: int,
    ) -> Integers | Int32Array:
        """Return a noisy release from the child.

        Raises:
            RefusedError: the child could not answer. The message is only "not ready", so that a
            failure reveals no information about the data.
        """
        wish = {
            "do": "release",
            "study": study.digest,
            "purpose": purpose,
            "cohort_size": cohort_size,
            "kind": weights.dtype.str,
        }
        with self._one_at_a_time:
            self._prepare(study, snapshot, snapshot_digest)
            sent = np.ascontiguousarray(weights).data.cast("B")
            answer, body = self._ask(wish, sent, _patience(study))
        if answer.get("kind") == "<i4":
            return np.frombuffer(body, dtype=np.int32)
        return np.frombuffer(body, dtype=np.int64)

    def warm_up(self, study: Study, snapshot: Path, snapshot_digest: str) -> None:
        """Load the study in the child, unless it has a snapshot of the study loaded already.

        A snapshot that replaced it after an opt-out is not loaded here: a remote party can cause
        this call at no charge, and its duration would reveal the opt-out. Raises RefusedError, see
        ``release``.
        """
        with self._one_at_a_time:
            if study.digest not in self._loaded or self._child is None:
                self._prepare(study, snapshot, snapshot_digest)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Digests of the studies that the child has loaded."""
        return tuple(self._loaded)

    def reload(self, study: Study, snapshot: Path, snapshot_digest: str) -> None:
        """Load the snapshot that replaced a loaded one; called outside of releases.

        Raises RefusedError, see ``release``.
        """
        with self._one_at_a_time:
            known = self._loaded.get(study.digest, snapshot_digest)
            if known != snapshot_digest and self._child is not None:
                self._prepare(study, snapshot, snapshot_digest)

    def _prepare(self, study: Study, snapshot: Path, snapshot_digest: str) -> None:
        ended = self._child.poll() if self._child is not None else None
        if self._child is None or ended is not None:
            self.start()
        if ended is not None:
            log.error("the process that holds the data ended", extra={"fields": {"code": ended}})
            self._on_restart(ended)
        if self.missing:
            log.error(f"the data process is not confined by {', '.join(self.missing)}")
            raise RefusedError("not ready")
        if self._loaded.get(study.digest) != snapshot_digest:
            self._loaded.pop(study.digest, None)
            self._ask(
                {
                    "do": "load",
                    "study": study.canonical_bytes.decode(),
                    "path": str(snapshot),
                    "digest": snapshot_digest,
                },
                seconds=_patience(study),
            )
            self._loaded[study.digest] = snapshot_digest

    def unload(self, study: str) -> None:
        """Remove a study's patients from the child's memory."""
        with self._one_at_a_time:
            self._loaded.pop(study, None)
            if self._child is None:
                return
            try:
                self._ask({"do": "forget", "study": study})
            except RefusedError:
                self.start()  # a new child has no patients loaded

    def _ask(
        self,
        header: dict[str, Any],
        body: bytes | memoryview = b"",
        seconds: float = _LONGEST_SECONDS,
    ) -> tuple[dict[str, Any], memoryview]:
        child = self._child
        if child is None or child.stdin is None or child.stdout is None:
            raise RefusedError("not ready")
        try:
            with _ended_after(seconds, child):
                write_frame(child.stdin, header, body)
                answer = read_frame(child.stdout)
        except (OSError, MessageError) as error:
            raise RefusedError("not ready") from error
        if answer is None or answer[0].get("status") != "ok":
            raise RefusedError("not ready")
        return answer


def _patience(study: Study) -> float:
    """Return the seconds allowed for an answer."""
    return max(_LONGEST_SECONDS, _DEADLINES * study.limits.deadline_seconds)


@contextlib.contextmanager
def _ended_after(seconds: float, child: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the child, and all in its session, if the work takes longer."""
    too_late = threading.Timer(seconds, _end, (child,))
    too_late.start()
    try:
        yield
    finally:
        too_late.cancel()


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _repeat(lines: IO[bytes] | None) -> None:
    """Copy the child's error output to ours, with terminal control characters escaped."""
    if lines is None:
        return
    with lines:
        while line := lines.readline(_LONGEST_LINE):
            sys.stderr.write(escape_for_terminal(line.decode(errors="replace")))
            sys.stderr.flush()


def may_know(name: str) -> bool:
    """Return whether the child may see this environment variable, which must hold no secret."""
    return name in ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH") or name.startswith(
        ("OMP_", "OPENBLAS_", "MKL_", "CUDA_", "NVIDIA_")
    )
