"""What the machine refuses is no bug of ours: it is named, with the way out."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flo.errors import EXIT_TRUST, EXIT_USAGE
from flo.host.machine_errors import of_the_machine
from flo.server.home.coordinator_home import CoordinatorHome
from tests.builders import make_site
from tests.commands import flo
from tests.server.real_coordinator import new_home


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A file system of three MiB with a site and a coordinator, and no byte left."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small]).returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        shutil.copytree(make_site(tmp_path / "made").directory, small / "site")
        shutil.copytree(new_home(tmp_path / "coordinator").directory, small / "coordinator")
        with contextlib.suppress(OSError), (small / "filling").open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
        yield small
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


@pytest.mark.processes
@pytest.mark.parametrize(
    "command",
    [
        "coordinator invite north --home {place}/coordinator --out {place}/north.json",
        "coordinator token Vera --role viewer --home {place}/coordinator --out {place}/token",
        "coordinator init --home {place}/another",
        "site init north --data {place}/filling --declared-size 40 --home {place}/north",
        "site budget --home {place}/site --json {place}/budget.json",
        "site policy --sign --home {place}/site",
        "audit export --home {place}/coordinator --out {place}/log.json",
    ],
)
def test_a_full_disk_is_named_with_the_way_out(command: str, place: Path) -> None:
    done = flo(*command.format(place=place).split())
    said = done.stdout + done.stderr
    assert "bug" not in said
    if done.returncode:
        assert done.returncode == EXIT_USAGE, said
        assert "free space on that disk" in said or "free disk space" in said
    home = CoordinatorHome.open(place / "coordinator")
    assert home.open_identity().fingerprint


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EDQUOT])
def test_an_error_without_a_file_is_told_too(number: int) -> None:
    found = of_the_machine(OSError(number, os.strerror(number)))
    assert found is not None
    assert (str(found), bool(found.hint)) == (os.strerror(number), True)


def test_a_damaged_page_ends_in_4_and_a_fault_of_ours_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (a TEXT)")
        db.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 100)
        db.commit()
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(data)
    with contextlib.closing(sqlite3.connect(path)) as db:
        try:
            db.execute("SELECT * FROM t").fetchall()
        except sqlite3.Error as error:
            found = of_the_machine(error)
    assert found is not None
    assert found.exit_code == EXIT_TRUST
    assert "restore its newest backup" in found.hint
    assert of_the_machine(ValueError("ours")) is None
    assert of_the_machine(sqlite3.ProgrammingError("ours")) is None
