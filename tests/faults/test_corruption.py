"""Whatever a disk makes of a folder's files: an error with a way out, and never a wrong count.

``FLO_CORRUPTIONS=300 pytest tests/faults/test_corruption.py`` tries as many.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from flo.clients.home.site_home import SiteHome
from flo.errors import EXIT_BUG, EXIT_OK, EXIT_TRUST, EXIT_USAGE, FloError
from flo.host.machine_errors import of_the_machine
from tests.clients.approving_site import enrolled_site
from tests.commands import flo
from tests.server.real_coordinator import new_home

SITE = (
    *("ledger.sqlite", "audit.sqlite", "identity.key", "split.key", "patients.key"),
    *("keystore.key", "site.toml", "policy.toml", "policy.signed.json"),
)
COORDINATOR = (
    *("coordinator.sqlite", "audit.sqlite", "identity.key", "ca.key", "ca.pem", "chain.pem"),
    *("keystore.key", "coordinator.toml", "server.pem"),
)
pytestmark = pytest.mark.slow
PAGE = 4096
WANTED = int(os.environ.get("FLO_CORRUPTIONS", "18"))


def damaged(data: bytes, chosen: random.Random) -> bytes:
    """A bit, some bytes, the end, a page of zeros, or two pages in each other's place."""
    changed, place = bytearray(data), chosen.randrange(len(data))
    page, other = (chosen.randrange(-(-len(data) // PAGE)) * PAGE for _ in range(2))
    match chosen.randrange(5):
        case 0:
            changed[place] ^= 1 << chosen.randrange(8)
        case 1:
            changed[place : place + 64] = chosen.randbytes(len(changed[place : place + 64]))
        case 2:
            del changed[place:]
        case 3:
            changed[page : page + PAGE] = bytes(len(changed[page : page + PAGE]))
        case _:
            one, two = changed[page : page + PAGE], changed[other : other + PAGE]
            if len(one) == len(two):
                changed[page : page + PAGE], changed[other : other + PAGE] = two, one
    return bytes(changed)


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.sqlite-*", "*.lock"))
    return to


def spent(home: SiteHome) -> object:
    with closing(home.open_ledger()) as ledger:
        return ledger.balance(), ledger.head()


def spent_or_refused(folder: Path) -> object:
    try:
        return spent(SiteHome.open(folder))
    except FloError:
        return None
    except sqlite3.Error as error:
        if of_the_machine(error) is None:
            raise
        return None


def test_a_damaged_site_counts_right_or_not_at_all(tmp_path: Path) -> None:
    site = enrolled_site(tmp_path / "whole")
    site.approve(site.offer())
    right = spent(site.home)
    for seed in range(WANTED):
        chosen, folder = random.Random(seed), copied(site.home.directory, tmp_path / f"{seed}")
        name = SITE[seed % len(SITE)] if seed % 2 else chosen.choice(SITE[:2])
        (folder / name).write_bytes(damaged((folder / name).read_bytes(), chosen))
        commands: list[tuple[str, ...]] = [("site", "budget", "--home"), ("audit", "log", "--home")]
        commands += [("doctor",)] if seed % 4 == 0 else []  # it starts a process each time
        _ends_well(commands, folder, f"{name}, seed {seed}")
        assert spent_or_refused(folder) in (right, None), (name, seed)


def test_a_damaged_coordinator_says_what_to_do(tmp_path: Path) -> None:
    home = new_home(tmp_path / "whole")
    for seed in range(WANTED):
        chosen, folder = random.Random(seed), copied(home.directory, tmp_path / f"{seed}")
        name = COORDINATOR[seed % len(COORDINATOR)]
        (folder / name).write_bytes(damaged((folder / name).read_bytes(), chosen))
        commands = [
            ("coordinator", "invite", "north", "--out", tmp_path / f"{seed}.json", "--home"),
            ("audit", "export", "--out", tmp_path / f"{seed}.log", "--home"),
            ("doctor",),
        ]
        _ends_well(commands, folder, f"{name}, seed {seed}")


def _ends_well(commands: Sequence[tuple[object, ...]], folder: Path, what: str) -> None:
    for command in commands:
        done = flo(*map(str, command), folder)
        said = done.stdout + done.stderr
        assert done.returncode != EXIT_BUG, (what, command, said)
        if command[0] != "doctor" and done.returncode != EXIT_OK:
            assert done.returncode in (EXIT_TRUST, EXIT_USAGE, 3), (what, command, said)
            assert "what to do:" in said or "was edited" in said, (what, command, said)
