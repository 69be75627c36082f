"""Encrypted backup of a folder in one file, shared by the ``backup`` and ``restore`` commands.

    flo-backup-1\\n | length of the header (4 bytes, big endian) | header (JSON) | sealed tar

The archive is sealed with AES-256-GCM under a key derived from a passphrase (scrypt, RFC 7914),
with the header as associated data: opening it also verifies that it was not changed. Databases are
copied with SQLite's online backup, so the processes that use them keep running.
"""

from __future__ import annotations

import io
import os
import re
import sqlite3
import tarfile
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.documents.framing import framed, split
from flo.errors import MessageError, TrustError, UsageError
from flo.keys.keystore import by_passphrase
from flo.storage.files import make_private_directory, write_private

BackupKind = Literal["site", "coordinator"]
_MAGIC, _HEADER_LIMIT = b"flo-backup-1\n", 4096
_LARGEST = (1 << 31) - 1  # bytes; limit of one AES-GCM call
# Upper bounds, in bytes: header, seal and tar trailer; tar overhead of one member.
_OF_THE_FRAME, _OF_A_MEMBER = 1 << 20, 2048
_SMALLER = (
    "a coordinator's folder grows by its models/: move old ones elsewhere; they are signed and "
    "need no secrecy"
)
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}){0,5}")
_OF_PROCESSES = (".lock", ".sqlite-wal", ".sqlite-shm")  # useless without the running process
_COST = 1 << 16


class Header(Document):
    """Unencrypted header of a backup."""

    schema_version: Literal[1] = 1
    kind: BackupKind
    name: Annotated[str, Field(max_length=63)]
    made: Annotated[str, Field(max_length=40)]
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    cost: Annotated[int, Field(ge=1 << 14, le=1 << 17)] = _COST  # scrypt's n: 16 to 128 MiB


@dataclass(frozen=True)
class Backup:
    """An opened backup. ``files``: path below the folder -> content."""

    header: Header
    files: dict[str, bytes]


def write(
    out: Path,
    kind: BackupKind,
    name: str,
    directory: Path,
    leave_out: Collection[str],
    secret: bytes,
) -> int:
    """Write the folder's files to ``out`` and return their number.

    ``leave_out``: top-level names of the folder that are not backed up.

    Raises:
        UsageError: ``out`` exists, the passphrase is too short, or the folder is too large.
    """
    if out.exists():
        raise UsageError(f"{out} already exists", hint="choose another name")
    header = Header(
        kind=kind,
        name=name,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        salt=os.urandom(16).hex(),
    )
    text = header.to_bytes()
    cipher = by_passphrase(secret, bytes.fromhex(header.salt), header.cost)
    archive, count, room = io.BytesIO(), 0, _LARGEST - _OF_THE_FRAME
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, data in _files(directory, leave_out):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            room -= len(data) + _OF_A_MEMBER
            if room < 0:
                raise UsageError(
                    f"{directory} is too large for a backup, limit {_LARGEST >> 20:,} MiB",
                    hint=_SMALLER,
                )
            tar.addfile(member, io.BytesIO(data))
            count += 1
    sealed = cipher.seal({"header": text.decode()}, archive.getvalue())
    write_private(out, framed(text, _MAGIC) + sealed)
    return count


def read(path: Path, kind: BackupKind, secret: bytes) -> Backup:
    """Read and decrypt a backup.

    Raises:
        UsageError: ``path`` is not a backup, is too large, or is a backup of another kind.
        TrustError: the passphrase is wrong, or the file was changed.
    """
    if not path.is_file():
        raise UsageError(f"no backup at {path}")
    if path.stat().st_size > _LARGEST:
        raise UsageError(f"{path} has {path.stat().st_size} bytes, limit {_LARGEST}", hint=_SMALLER)
    try:
        text, sealed = split(path.read_bytes(), limit=_HEADER_LIMIT, what=str(path), magic=_MAGIC)
    except MessageError as error:
        raise UsageError(f"{path} is not a backup made by FLO") from error
    header = parse(Header, canonical.decode(text, limit=_HEADER_LIMIT, what=str(path)), str(path))
    if header.kind != kind:
        raise UsageError(
            f"{path} is a backup of a {header.kind}", hint=f"flo {header.kind} restore"
        )
    cipher = by_passphrase(secret, bytes.fromhex(header.salt), header.cost, short=True)
    try:
        archive = cipher.open({"header": text.decode()}, bytes(sealed))
    except TrustError as error:
        raise TrustError(
            f"this passphrase does not open {path}, or the file was changed",
            hint="type it again; nothing was written",
        ) from error
    return Backup(header, dict(_members(archive)))


def unpack(backup: Backup, directory: Path, folders: Collection[str] = ()) -> None:
    """Write the backup's files into a new folder, readable by its owner only.

    ``folders``: empty folders to create in it.

    Raises:
        UsageError: the folder exists and is not empty.
    """
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(
            f"{directory} is not empty", hint="choose another --home, or move it out of the way"
        )
    make_private_directory(directory)
    for name in folders:
        make_private_directory(directory / name)
    for path, data in backup.files.items():
        make_private_directory((directory / path).parent)
        write_private(directory / path, data)


def _files(directory: Path, leave_out: Collection[str]) -> Iterator[tuple[str, bytes]]:
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if name.partition("/")[0] in leave_out or not _NAME.fullmatch(name):
            continue  # half-written files, and files that are not FLO's
        if path.is_symlink() or not path.is_file() or path.suffix in _OF_PROCESSES:
            continue
        data = _database(path) if path.suffix == ".sqlite" else path.read_bytes()
        if not data.startswith(_MAGIC):  # each backup would contain all earlier ones
            yield name, data


def _database(path: Path) -> bytes:
    with (
        closing(sqlite3.connect(path, timeout=30)) as source,
        closing(sqlite3.connect(":memory:")) as copy,
    ):
        source.backup(copy)
        return copy.serialize()


def _members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            if file is None or not _NAME.fullmatch(member.name):
                raise TrustError(f"the backup has an invalid entry, {member.name[:80]!r}")
            yield member.name, file.read()
