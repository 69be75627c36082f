"""What was read from files is cached while none of them has changed, and not a moment longer."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flo.storage.files import UnchangedFiles, write_private

SETTLE_SECONDS = 0.05


class Reader:
    """Reads two files, and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.paths, self.times, self.cache = (folder / "a", folder / "b"), 0, UnchangedFiles()
        for path in self.paths:
            write_private(path, b"one")

    def read(self) -> bytes:
        self.times += 1
        return b" ".join(path.read_bytes() for path in self.paths)

    def get(self) -> bytes:
        return self.cache.get(self.read, *self.paths)


def test_unchanged_files_are_read_once(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    time.sleep(SETTLE_SECONDS)
    assert [reader.get() for _ in range(5)] == [b"one one"] * 5
    assert reader.times == 1


@pytest.mark.parametrize("which", [0, 1])
def test_a_change_of_either_file_is_seen_even_of_the_same_size(tmp_path: Path, which: int) -> None:
    reader = Reader(tmp_path)
    time.sleep(SETTLE_SECONDS)
    reader.get()
    reader.paths[which].write_bytes(b"two")
    assert b"two" in reader.get()
    write_private(reader.paths[which], b"six")
    assert b"six" in reader.get()


def test_a_second_write_in_the_same_tick_is_seen(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    for n in range(300):
        text = f"{n:03d}".encode()
        reader.paths[0].write_bytes(text)
        assert reader.get() == text + b" one"


def test_old_times_put_back_do_not_hide_a_change(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    time.sleep(SETTLE_SECONDS)
    reader.get()
    before = reader.paths[0].stat()
    reader.paths[0].write_bytes(b"two")
    os.utime(reader.paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reader.get() == b"two one"


def test_a_file_that_is_gone_is_read_for_and_the_error_is_the_readers(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    time.sleep(SETTLE_SECONDS)
    reader.get()
    reader.paths[1].unlink()
    with pytest.raises(FileNotFoundError):
        reader.get()
