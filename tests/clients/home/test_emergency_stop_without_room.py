"""The red button on a disk with no byte, no inode, no right to write, and without descriptors."""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flo.clients.home.emergency_stop import be_ready, halt, halted, refuse_halted, resume
from flo.clients.home.site_home import SiteHome
from flo.errors import RefusedError
from tests.builders import make_site
from tests.commands import flo

pytestmark = pytest.mark.processes


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SiteHome]:
    """A site on a file system of its own, as its agent leaves it after a start."""
    place = tmp_path / "small"
    place.mkdir()
    options = "size=3m,nr_inodes=60"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place])
    if mounted.returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        made = make_site(tmp_path / "site")
        shutil.copytree(made.directory, place / "site")
        home = SiteHome.open(place / "site")
        be_ready(home)
        yield home
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def no_byte_is_left(home: SiteHome) -> None:
    with contextlib.suppress(OSError), (home.directory.parent / "filling").open("wb") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()


def no_inode_is_left(home: SiteHome) -> None:
    with contextlib.suppress(OSError):
        for number in range(1000):
            (home.directory.parent / f"empty-{number}").touch()


@pytest.mark.parametrize("lacking", [no_byte_is_left, no_inode_is_left])
def test_it_stops_on_a_full_disk(lacking: object, small: SiteHome) -> None:
    lacking(small)  # type: ignore[operator]
    done = flo("site", "stop", "--home", small.directory)
    assert (done.returncode, "everything is stopped" in done.stdout) == (0, True), done.stderr
    assert halted(small) is not None
    with pytest.raises(RefusedError, match="everything is stopped here"):
        refuse_halted(small)


def test_where_nothing_can_be_changed_it_says_in_capitals_that_it_did_not(small: SiteHome) -> None:
    place = small.directory.parent
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    done = flo("site", "stop", "--home", small.directory)
    assert done.returncode == 3
    assert (
        f"NOT STOPPED: {small.directory} CANNOT BE CHANGED (Read-only file system)" in done.stderr
    )
    assert "END THE AGENT: systemctl stop flo-site" in done.stderr
    assert "everything is stopped" not in done.stdout
    assert halted(small) is None


def test_it_stops_without_a_file_descriptor(tmp_path: Path) -> None:
    home = make_site(tmp_path / "site")
    be_ready(home)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(Path("/dev/null").open("rb"))  # noqa: SIM115 - all that there are
        found, said = halt(home)
    finally:
        for file in held:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found.time != "an unknown time"
    assert "could not be entered in the audit log" in said
    assert halted(home) is not None
    resume(home)
    assert halted(home) is None
    assert halt(home)[1] == ""
