"""Rules and fixtures for every test.

* No test fails because the machine was slow.
* Its files are on a memory file system where there is one: flushing them to a disk would take half
  of the time. ``on_disk`` is a folder for tests about the disk itself.
* A test that starts a process is marked ``pytest.mark.processes`` and left out of `make test`; one
  without the mark fails.
* Two slow results are computed once in this process: the digest of FLO's code, and the key of one
  passphrase, salt and cost. The functions are the product's own, so that files
  of another process or release open, too.
"""

from __future__ import annotations

import functools
import gc
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from flo.host import environment
from flo.keys import keystore
from tests import made_once

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 4 << 30
_LONGEST = (  # the longest first
    *("packaging/test_upgrade", "infra/aws/test_aggregation", "infra/aws/test_job_failures"),
    *("end_to_end/test_restart", "packaging/test_bundle", "test_docs", "end_to_end", "faults"),
)

if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ENOUGH_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

environment.code_digest = functools.cache(environment.code_digest)
# Libraries that report their use to their makers are silent where they see this: a hospital has it
# not.
os.environ.pop("CI", None)

keystore._stretched = functools.cache(keystore._stretched)


def _started_processes() -> list[str]:
    """Every process that this one starts from now on."""
    found: list[str] = []
    starts = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty"}

    def note(event: str, arguments: tuple[object, ...]) -> None:
        # matplotlib, which Captum loads, asks for the fonts of a machine once.
        if event in starts and arguments[:1] != ("fc-list",):
            found.append(f"{event} {arguments[:2]}")

    sys.addaudithook(note)
    return found


_started = _started_processes()


def _watched(item: pytest.Item) -> Generator[None]:
    before = len(_started)
    yield
    if len(_started) > before and not any(
        map(item.get_closest_marker, ("processes", "slow", "examples"))
    ):
        pytest.fail(f"mark it with pytest.mark.processes: it starts {_started[before]}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out a module whose own mark leaves out all its tests: importing it takes time."""
    left_out = set(re.findall(r"(?:^| and )not (\w+)", config.option.markexpr))
    if collection_path.suffix != ".py" or not left_out:
        return None
    marks = re.search(r"^pytestmark = (.*)", collection_path.read_text(), flags=re.MULTILINE)
    return bool(marks and left_out & set(re.findall(r"mark\.(\w+)", marks[1]))) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the files that take minutes first, so that no worker is idle at the end."""
    last = len(_LONGEST)

    def place(item: pytest.Item) -> int:
        file = item.nodeid.removeprefix("tests/")
        return next((n for n, start in enumerate(_LONGEST) if file.startswith(start)), last)

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Keep the garbage collector from searching what collection makes: all of it stays.

    In `make test` it searches seldom later: at Python's own rate it takes a twentieth of the time.
    Elsewhere what a browser's driver leaves open is found late then, in another test.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        made_once.make_declared()
        gc.freeze()
        if "not processes" in session.config.option.markexpr:
            gc.set_threshold(50_000, 20, 50)
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    made_once.begin_test()
    yield from _watched(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    yield from _watched(item)


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A folder on the machine's disk."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks are ten times faster so where other tests run on the same cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
