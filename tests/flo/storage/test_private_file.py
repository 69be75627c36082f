"""A private file is whole or not there."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from flo.storage.files import private_file


def test_it_replaces_the_one_before_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"before")
    with private_file(path) as file:
        file.write(b"after")
        file.seek(0)
        assert file.read() == b"after"
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]


def test_whoever_fails_to_write_it_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"before")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"), private_file(path) as file:
        fail(file)
    assert path.read_bytes() == b"before"
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]
