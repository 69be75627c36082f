"""Files that must survive a crash or stay private: written whole, flushed, with the right mode."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path
from typing import Any, TypeVar

from flo.errors import RefusedError, UsageError
from flo.storage import past_cache

ReadT = TypeVar("ReadT")
_Stamp = tuple[int, int, int, int, int]  # device, inode, size, both times
_LOOK_SECONDS = 0.01
_CACHED_SECONDS = 60.0
_RACY_SECONDS = 0.02  # a tick of the kernel is 10 ms at most
_UNFINISHED = ".unfinished"


def write_private(path: Path, data: bytes) -> None:
    """Write ``data`` atomically, readable by the owner only (0600), flushed to the disk."""
    _write(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Write ``data`` atomically with the ordinary mode 0644, flushed to the disk."""
    _write(path, data, 0o644)


def make_private_directory(path: Path) -> Path:
    """Create ``path`` (and parents) readable by the owner only (0700)."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


@contextmanager
def made_whole(directory: Path, names: Collection[str]) -> Iterator[None]:
    """Let the caller fill a private folder with ``names``, files and folders: all or none of them.

    After an interruption, even a power cut, the next call starts again; until then
    ``refuse_unfinished`` refuses the folder. Other content of the folder stays.

    Raises:
        UsageError: some of these names exist, and not from an interrupted call.
    """
    marker = directory / _UNFINISHED
    make_private_directory(directory)
    if marker.exists():
        _remove(directory, names)
    elif there := [name for name in names if (directory / name).exists()]:
        raise UsageError(
            f"{directory} already contains {', '.join(there)}",
            hint="choose another --home; if a file is missing in this one, restore a backup",
        )
    write_private(marker, b"")
    try:
        yield
    except BaseException:
        _remove(directory, names)
        marker.unlink()
        raise
    marker.unlink()


def is_unfinished(directory: Path) -> bool:
    """Return whether ``made_whole`` started to fill this folder and did not finish."""
    return (directory / _UNFINISHED).exists()


def refuse_unfinished(directory: Path) -> None:
    """Raises UsageError for a folder that ``made_whole`` did not finish."""
    if is_unfinished(directory):
        raise UsageError(
            f"{directory} is incomplete: `init` was interrupted", hint="run the same `init` again"
        )


def _remove(directory: Path, names: Collection[str]) -> None:
    """Remove these names, journals of databases, and partial writes."""
    for path in directory.iterdir():
        name = path.name
        journal = name.removesuffix("-wal").removesuffix("-shm").removesuffix("-journal")
        if journal not in names and not (name.startswith(".") and name.endswith(".new")):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def refuse_anothers(folder: Path) -> None:
    """Refuse root in another user's folder, whose agent could not use the files that root makes.

    Raises:
        UsageError: this is root, and the folder belongs to another user.
    """
    owner = folder.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        raise UsageError(
            f"{folder} belongs to user {owner}, and this is root, whose files that user could not "
            "use",
            hint=f"run it as the owner: sudo -u '#{owner}' flo ...",
        )


class UnchangedFiles:
    """Cache of data read from files, valid for a minute while none of the files has changed.

    A file counts as unchanged if inode, size and both times are. A file that was written within the
    last 20 ms is not cached: a second write in the same tick would not be detected.
    """

    def __init__(self) -> None:
        self._read: dict[tuple[Path, ...], tuple[list[_Stamp], float, Any]] = {}

    def get(self, read: Callable[[], ReadT], *paths: Path) -> ReadT:
        """Return what ``read`` returned for these files before, or call it now."""
        begun = time.time()
        try:
            found = [path.stat() for path in paths]
        except OSError:
            self._read.pop(paths, None)
            return read()
        stamps = [(f.st_dev, f.st_ino, f.st_size, f.st_mtime_ns, f.st_ctime_ns) for f in found]
        now, cached = time.monotonic(), self._read.get(paths)
        if cached is not None and cached[0] == stamps and now - cached[1] < _CACHED_SECONDS:
            known: ReadT = cached[2]
            return known
        result = read()
        if begun - max(f.st_ctime for f in found) > _RACY_SECONDS:
            self._read[paths] = (stamps, now, result)
        return result


# Seconds to wait for a lock that its holder keeps until it ends: ``is_locked`` takes it for a
# moment, and a process that was killed may still be ending.
UNTIL_ENDED = 0.5


@contextmanager
def locked(path: Path, why: str, *, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock, which ends with this process at the latest.

    Raises:
        RefusedError: with ``why``, if it is still held after ``patience`` seconds.
    """
    import fcntl  # POSIX only, while `flo audit verify` also runs on other systems

    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() >= end:
                    hint = "stop it first, or wait for it to end"
                    raise RefusedError(why, hint=hint) from error
            time.sleep(_LOOK_SECONDS)
        yield
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Return whether another process holds this lock.

    A process that tries to take the lock during this check has to try again.
    """
    import fcntl

    if not path.exists():
        return False
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def in_memory(data: bytes) -> Iterator[str]:
    """Yield a path under which this user's processes can read ``data`` without a disk (Linux)."""
    handle = os.memfd_create("flo", os.MFD_CLOEXEC)
    try:
        os.fchmod(handle, 0o600)
        os.write(handle, data)
        yield f"/proc/{os.getpid()}/fd/{handle}"
    finally:
        os.close(handle)


def write_new(path: Path, pieces: Iterable[bytes | memoryview], mode: int = 0o600) -> None:
    """Write a new file, flushed to the disk; a crash may leave a part of it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        past_cache.write_pieces(handle, pieces)
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def private_file(path: Path) -> Iterator[BufferedRandom]:
    """Yield a file to write and read; afterwards it is ``path``, as ``write_private`` makes it.

    If the caller raises, there is no such file.
    """
    with _replacing(path) as temporary:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(handle)


def _write(path: Path, data: bytes, mode: int) -> None:
    with _replacing(path) as temporary:
        write_new(temporary, [data], mode)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a temporary file that becomes ``path``, flushed, unless writing fails."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        yield temporary
        temporary.replace(path)
    except Exception:
        temporary.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)


def flush_directory(directory: Path) -> None:
    """Flush the names in a directory to the disk, such as of a file that was just written."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
