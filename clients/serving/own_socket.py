"""The server's own socket in the site's folder, which only the site's user can open."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET = Path("answers") / "serve.sock"  # of a site's folder


def listening(folder: Path) -> socket.socket:
    """Open the socket, replacing what an earlier server left. The folder exists."""
    (folder / SOCKET).unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short(folder) as name:
        bound.bind(name)
    (folder / SOCKET).chmod(0o600)
    return bound


def connected(folder: Path, seconds: float) -> socket.socket:
    """Connect to a running server. Raises OSError if there is none."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found.settimeout(seconds)
    try:
        with _short(folder) as name:
            found.connect(name)
    except OSError:
        found.close()
        raise
    return found


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Yield a name of the socket of less than 108 bytes, the limit of Linux, for any folder."""
    file = os.open((folder / SOCKET).parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{file}/{SOCKET.name}"
    finally:
        os.close(file)
