"""Large files hold what was written, whether or not the file system writes past its cache."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from flo.storage import past_cache
from flo.storage.files import write_new, write_private
from flo.storage.past_cache import BLOCK, write_pieces


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 4097])
@pytest.mark.parametrize("at_once", [700_001, 3 * BLOCK])
def test_a_file_of_any_size_holds_all_its_pieces(tmp_path: Path, size: int, at_once: int) -> None:
    data = os.urandom(size)
    write_new(tmp_path / "kept", (data[i : i + at_once] for i in range(0, size, at_once)))
    assert (tmp_path / "kept").read_bytes() == data


def test_numbers_are_written_as_their_bytes(tmp_path: Path) -> None:
    numbers = memoryview(os.urandom(2 * BLOCK)).cast("i")
    write_new(tmp_path / "kept", [numbers])
    assert (tmp_path / "kept").read_bytes() == numbers.tobytes()


def test_blocks_that_the_disk_refuses_go_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk takes whole sectors only, so it refuses blocks of an odd size (EINVAL)."""
    monkeypatch.setattr(past_cache, "BLOCK", 5001)
    data = os.urandom(40_000)
    write_private(tmp_path / "kept", data)
    assert (tmp_path / "kept").read_bytes() == data


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space left"):
        write_pieces(full.fileno(), [bytes(2 * BLOCK)])


def test_later_writes_to_the_file_go_through_the_cache(tmp_path: Path) -> None:
    with (tmp_path / "kept").open("wb") as file:
        write_pieces(file.fileno(), [bytes(BLOCK)])
        assert not fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_DIRECT
