"""Stores of finished artifacts: saved states, models, audit copies. One interface, two backends.

``LocalArtifacts`` is a directory; ``flo.infra.aws.s3`` uses the same keys in a bucket. An artifact
is never overwritten: of two writers of one key, one is refused. The stores do not know which data
are secret: private data must be sealed before (``flo.keys.sealed``).
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
from flo.storage.files import flush_directory, make_private_directory, write_new

_KEY = re.compile(r"[a-z0-9][A-Za-z0-9._-]{0,199}(/[a-z0-9][A-Za-z0-9._-]{0,199}){0,5}")


class ArtifactStore(Protocol):
    """Stores bytes permanently under a key; a key is never written a second time.

    Besides the errors of each method, network stores raise NetworkError.
    """

    def put(self, key: str, data: Bytes) -> None:
        """Store ``data`` permanently; it is durable when this returns.

        Raises:
            RefusedError: the key already holds other data. UsageError: not a key.
        """

    def get(self, key: str, limit: int) -> bytes:
        """Return the stored bytes.

        Raises:
            UsageError: the key does not exist. TrustError: it has more than ``limit`` bytes.
        """

    def keys(self, prefix: str) -> list[str]:
        """Return all keys that begin with ``prefix``, sorted."""

    def remove(self, key: str) -> None:
        """Remove a key in all its versions; a missing key is no error."""


class LocalArtifacts:
    """A directory that only its owner may read; a key is a path below it."""

    def __init__(self, directory: Path) -> None:
        self._directory = make_private_directory(directory)

    def put(self, key: str, data: Bytes) -> None:
        """Store ``data``; the same bytes again, as after an interrupted attempt, are no error."""
        try:
            self.put_pieces(key, [data])
        except RefusedError:
            path = self._path(key)
            if path.read_bytes() != data:
                raise
            flush_directory(path.parent)  # an earlier attempt may have been interrupted before it

    def put_pieces(self, key: str, pieces: Iterable[Bytes]) -> None:
        """Store large data in pieces; refused if the key exists, even with the same bytes."""
        path = self._path(key)
        make_private_directory(path.parent)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
        try:
            write_new(temporary, pieces)
            os.link(temporary, path)  # atomic; fails if another writer was faster
        except FileExistsError as error:
            raise already_kept(key) from error
        finally:
            temporary.unlink(missing_ok=True)
        flush_directory(path.parent)

    def get(self, key: str, limit: int) -> bytes:
        """Return the stored bytes, reading at most ``limit`` + 1 of them."""
        try:
            with self._path(key).open("rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise not_kept(key) from error
        if len(data) > limit:
            raise too_large(key, limit)
        return data

    def keys(self, prefix: str) -> list[str]:
        """Return the keys that begin with ``prefix``; skips partial writes and foreign files."""
        found = (p.relative_to(self._directory) for p in self._directory.rglob("*") if p.is_file())
        return sorted(
            path.as_posix()
            for path in found
            if path.as_posix().startswith(prefix) and _KEY.fullmatch(path.as_posix())
        )

    def remove(self, key: str) -> None:
        """Remove the only version; the disk may hold its bytes until they are overwritten."""
        with contextlib.suppress(FileNotFoundError):
            self._path(key).unlink()

    def _path(self, key: str) -> Path:
        return self._directory / checked(key)


def checked(key: str) -> str:
    """Return the key if it is valid: plain words with slashes between. Raises UsageError."""
    if not _KEY.fullmatch(key):
        raise UsageError(f"{key[:80]!r} is not a valid key of a store")
    return key


def already_kept(key: str) -> RefusedError:
    """Return every store's error for a key that already exists."""
    return RefusedError(f"{key} already exists, written by another process; it was not overwritten")


def not_kept(key: str) -> UsageError:
    """Return every store's error for a key that does not exist."""
    return UsageError(f"{key} does not exist in the store")


def too_large(key: str, limit: int) -> TrustError:
    """Return every store's error for more bytes than the caller's limit."""
    return TrustError(f"{key} has more than {limit} bytes")
