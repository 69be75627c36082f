"""Where finished things are kept: saved states, models, audit copies. One interface, two homes.

``LocalArtifacts`` is a directory; ``flo.infra.aws.s3`` keeps the same keys in a bucket. What is
kept is never overwritten: of two who put the same key, one is refused. The stores know nothing of
secrets: what must stay private is sealed before (``flo.keys.sealed``).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from flo.documents.canonical import Bytes
from flo.errors import RefusedError, TrustError, UsageError
from flo.storage.files import make_private_directory, write_new

_KEY = re.compile(r"[a-z0-9][A-Za-z0-9._-]{0,199}(/[a-z0-9][A-Za-z0-9._-]{0,199}){0,5}")


class ArtifactStore(Protocol):
    """Keeps bytes under a key, once and for good; a key is never written a second time.

    Besides what stands at each method, the network's stores raise NetworkError.
    """

    def put(self, key: str, data: Bytes) -> None:
        """Keep ``data`` for good, durably when this returns.

        Raises:
            RefusedError: something else is kept under it already. UsageError: not a key.
        """

    def get(self, key: str, limit: int) -> bytes:
        """What was put.

        Raises:
            UsageError: nothing is kept there. TrustError: it has more than ``limit`` bytes.
        """

    def keys(self, prefix: str) -> list[str]:
        """All keys that begin so, sorted."""

    def remove(self, key: str) -> None:
        """Remove it, in every version there is; nothing happens if it is not there."""


class LocalArtifacts:
    """A directory that only its owner may read; a key is a path below it."""

    def __init__(self, directory: Path) -> None:
        self._directory = make_private_directory(directory)

    def put(self, key: str, data: Bytes) -> None:
        """The same bytes again, as after a cut-off try, are no error."""
        try:
            self.put_pieces(key, [data])
        except RefusedError:
            path = self._path(key)
            if path.read_bytes() != data:
                raise
            _flush(path.parent)  # an earlier try of ours was cut off before this

    def put_pieces(self, key: str, pieces: Iterable[Bytes]) -> None:
        """The same of what is large, piece by piece; refused if anything is kept there already."""
        path = self._path(key)
        make_private_directory(path.parent)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
        try:
            write_new(temporary, pieces)
            os.link(temporary, path)  # atomic, and fails if another one was quicker
        except FileExistsError as error:
            raise already_kept(key) from error
        finally:
            temporary.unlink(missing_ok=True)
        _flush(path.parent)

    def get(self, key: str, limit: int) -> bytes:
        """Reads no more than ``limit`` bytes and one."""
        try:
            with self._path(key).open("rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise not_kept(key) from error
        if len(data) > limit:
            raise too_large(key, limit)
        return data

    def keys(self, prefix: str) -> list[str]:
        """Files that are cut off or not ours are passed over."""
        found = (p.relative_to(self._directory) for p in self._directory.rglob("*") if p.is_file())
        return sorted(
            path.as_posix()
            for path in found
            if path.as_posix().startswith(prefix) and _KEY.fullmatch(path.as_posix())
        )

    def remove(self, key: str) -> None:
        """There is one version only; the disk may hold its bytes until they are written over."""
        with contextlib.suppress(FileNotFoundError):
            self._path(key).unlink()

    def _path(self, key: str) -> Path:
        return self._directory / checked(key)


def checked(key: str) -> str:
    """The key, if it is one: words of plain letters with slashes between. Raises UsageError."""
    if not _KEY.fullmatch(key):
        raise UsageError(f"{key[:80]!r} is not a key of a store")
    return key


def already_kept(key: str) -> RefusedError:
    """The error of every store where a key is taken."""
    return RefusedError(f"{key} is kept already, by another process; nothing was overwritten")


def not_kept(key: str) -> UsageError:
    """The error of every store where a key is not there."""
    return UsageError(f"nothing is kept under {key}")


def too_large(key: str, limit: int) -> TrustError:
    """The error of every store where there is more than the caller is ready to read."""
    return TrustError(f"{key} has more than {limit} bytes")


def _flush(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
