"""``init`` that is cut off anywhere, as by a power cut, can be run again; nothing is half made."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flo.clients.home.site_config import make_config
from flo.clients.home.site_home import SiteHome
from flo.errors import UsageError
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.storage.files import is_unfinished, made_whole

CUT_OFF = 77
CHANGES = {"os.mkdir", "os.rename", "os.remove", "shutil.rmtree", "sqlite3.connect"}


def site(directory: Path) -> None:
    config = make_config(
        "north",
        file=directory.parent / "patients.csv",
        id_column="patient_id",
        epsilon=0.9,
        declared_size=40,
        hold_out=0.3,
    )
    SiteHome.create(directory, config)


def coordinator(directory: Path) -> None:
    CoordinatorHome.create(directory, CoordinatorConfig())


def cut_off(make: Callable[[Path], None], directory: Path, change: int) -> bool:
    """Whether a process of its own ended at this change of the disk, before all was made."""
    child = os.fork()
    if child == 0:
        left = change

        def end(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            writes = event == "open" and bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))
            if event in CHANGES or writes:
                left -= 1
                if left == 0:
                    os._exit(CUT_OFF)

        sys.addaudithook(end)
        make(directory)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, CUT_OFF)
    return code == CUT_OFF


@pytest.mark.processes
@pytest.mark.parametrize(
    ("make", "home"),
    [(site, SiteHome), (coordinator, CoordinatorHome)],
    ids=["site", "coordinator"],
)
def test_it_is_cut_off_at_every_change_of_the_disk(
    make: Callable[[Path], None], home: type[SiteHome | CoordinatorHome], tmp_path: Path
) -> None:
    """And once more while it is made again; what somebody else put there stays."""
    change = 1
    while cut_off(make, tmp_path / f"{change}", change):
        directory = tmp_path / f"{change}"
        directory.mkdir(exist_ok=True)
        (directory / "notes.txt").write_text("ours")
        if is_unfinished(directory):
            with pytest.raises(UsageError, match=r"not a|was interrupted"):
                home.open(directory)
        cut_off(make, directory, change)
        if is_unfinished(directory) or not home(directory).config_path.exists():
            make(directory)
        opened = home.open(directory)
        assert opened.open_identity().fingerprint
        opened.open_audit_log().close()
        assert (directory / "notes.txt").read_text() == "ours"
        with pytest.raises(UsageError, match="already"):
            make(directory)
        change += 1
    assert change > 15


def test_a_folder_that_lost_its_configuration_is_not_written_over(tmp_path: Path) -> None:
    site(tmp_path / "site")
    ledger = (tmp_path / "site" / "ledger.sqlite").read_bytes()
    (tmp_path / "site" / "site.toml").unlink()
    with pytest.raises(UsageError, match=r"already contains .*ledger\.sqlite"):
        site(tmp_path / "site")
    assert (tmp_path / "site" / "ledger.sqlite").read_bytes() == ledger


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"):
        half_made(tmp_path / "home")
    assert list((tmp_path / "home").iterdir()) == []


def half_made(directory: Path) -> None:
    with made_whole(directory, ["a", "b", "c"]):
        (directory / "a").write_text("half")
        (directory / "b").mkdir()
        (directory / ".c.123.new").write_text("half")
        raise OSError("full")
