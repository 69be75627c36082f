"""A child process that confines itself, and the frames on the pipe between it and its parent.

A frame is 4 bytes of header length, a JSON header, 8 bytes of body length, and a body. The child
reads frames on its standard input and answers on its standard output; its error output is copied to
the parent's. It gets no environment variable that could hold a secret.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from flo.documents import canonical
from flo.documents.framing import framed, length_in
from flo.documents.text import escape_for_terminal
from flo.errors import MessageError, RefusedError

LONGEST_SECONDS = 600.0  # to an answer

_HEADER_LIMIT = 1 << 20
_BODY_LIMIT = 1 << 32
_LONGEST_LINE = 65_536
_PIPE_BYTES = 1 << 20

Child = subprocess.Popen[bytes]


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


def start(module: str, *arguments: str) -> tuple[Child, threading.Thread]:
    """Start ``module`` as a child. Return it, and the thread that copies its error output."""
    child = subprocess.Popen(
        # -I: no code from the working directory, the user's folder or PYTHON* variables
        [sys.executable, "-I", "-W", "ignore", "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pipesize=_PIPE_BYTES,
        start_new_session=True,  # detached from our terminal
        env={name: value for name, value in os.environ.items() if may_know(name)},
    )
    listener = threading.Thread(target=_repeat, args=(child.stderr,), daemon=True)
    listener.start()
    return child, listener


def read_layers(child: Child) -> dict[str, bool]:
    """Return the layers of ``flo.clients.data_process.confinement`` that a new child saw hold.

    Raises:
        RefusedError: it did not report them.
    """
    hello = None
    if child.stdout is not None:
        with ended_after(LONGEST_SECONDS, child), contextlib.suppress(MessageError):
            hello = read_frame(child.stdout)
    if hello is None or not isinstance(hello[0].get("layers"), dict):
        raise RefusedError(
            "the process that holds the data did not start",
            hint="read the lines above; `flo site run -v` shows more",
        )
    return {str(name): held is True for name, held in hello[0]["layers"].items()}


def stop(child: Child, listener: threading.Thread | None) -> None:
    """Kill a child and close its pipes."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    _end(child)
    child.wait(timeout=10)
    if listener is not None:
        listener.join(timeout=10)


@contextlib.contextmanager
def ended_after(seconds: float, child: subprocess.Popen[bytes]) -> Iterator[None]:
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
