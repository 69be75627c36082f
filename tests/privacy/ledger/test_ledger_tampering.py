"""A ledger that was edited, cut, forked or restored is found out."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flo.errors import TrustError
from flo.keys.identity import Identity
from flo.privacy.ledger.ledger import Ledger
from tests.privacy.ledgers import fill, new_ledger, study_of


@pytest.fixture
def identity() -> Identity:
    return Identity.new()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path, identity: Identity) -> Iterator[Ledger]:
    with new_ledger(path, identity) as opened:
        yield opened


@pytest.fixture
def filled(path: Path, ledger: Ledger) -> Path:
    """A closed ledger of seven rows: birth, reserve, three releases, a repeat, settle."""
    fill(ledger)
    ledger.close()
    return path


def sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            assert database.execute(statement).rowcount != 0, statement


TOUCHED = {
    "more releases": (
        "UPDATE rows SET public = replace(public, '\"releases\":4', '\"releases\":9')"
        " WHERE sequence = 2",
    ),
    "a larger life": ("UPDATE rows SET public = replace(public, '0.9', '0.8') WHERE sequence = 1",),
    "another time": (
        "UPDATE rows SET public = replace(public, 'time\":\"20', 'time\":\"19') WHERE sequence = 4",
    ),
    "the same public part in another spelling": (
        "UPDATE rows SET public = replace(public, ',', ', ') WHERE sequence = 4",
    ),
    "another study": (
        "UPDATE rows SET private = replace(private, '\"round\":2', '\"round\":3')"
        " WHERE sequence = 4",
    ),
    "another study's name": (
        "UPDATE rows SET private = replace(private, 'tiny', 'huge') WHERE sequence = 2",
    ),
    "another salt": (
        "UPDATE rows SET salt = '00000000000000000000000000000000' WHERE sequence = 3",
    ),
    "another commitment": (
        "UPDATE rows SET commitment = (SELECT commitment FROM rows WHERE sequence = 3)"
        " WHERE sequence = 4",
    ),
    "a commitment that is no number": ("UPDATE rows SET commitment = 'zz' WHERE sequence = 4",),
    "another hash": (
        "UPDATE rows SET hash = (SELECT hash FROM rows WHERE sequence = 3) WHERE sequence = 4",
    ),
    "no birth": ("DELETE FROM rows WHERE sequence = 1",),
    "no release": ("DELETE FROM rows WHERE sequence = 4",),
    "a shortened middle": ("DELETE FROM rows WHERE sequence BETWEEN 3 AND 5",),
    "a middle closed up": (
        "DELETE FROM rows WHERE sequence = 4",
        "UPDATE rows SET sequence = sequence - 1 WHERE sequence > 4",
    ),
    "two rows swapped": (
        "UPDATE rows SET sequence = 40 WHERE sequence = 4",
        "UPDATE rows SET sequence = 4 WHERE sequence = 3",
        "UPDATE rows SET sequence = 3 WHERE sequence = 40",
    ),
    "two requests swapped": (
        "UPDATE rows SET request = 'aside' WHERE sequence = 4",
        "UPDATE rows SET request = 'request 2' WHERE sequence = 3",
        "UPDATE rows SET request = 'request 1' WHERE sequence = 4",
    ),
    "a row twice": (
        "INSERT INTO rows SELECT 8, public, private, salt, commitment, hash, signature, 'new'"
        " FROM rows WHERE sequence = 5",
    ),
    "the last signature": (
        "UPDATE rows SET signature = (SELECT signature FROM rows WHERE sequence = 6)"
        " WHERE sequence = 7",
    ),
    "a private part gone": ("UPDATE rows SET private = 'null' WHERE sequence = 4",),
    "a private part that is no JSON": ("UPDATE rows SET private = '{' WHERE sequence = 4",),
    "a salt that is no number": ("UPDATE rows SET salt = 'zz' WHERE sequence = 4",),
    "a forgotten request": ("UPDATE rows SET request = NULL WHERE sequence = 4",),
    "a request that was never answered": (
        "UPDATE rows SET request = 'request 9' WHERE sequence = 4",
    ),
    "an answer where there was no request": (
        "UPDATE rows SET request = 'request 9' WHERE sequence = 2",
    ),
}


def test_an_untouched_ledger_opens(filled: Path, identity: Identity) -> None:
    with closing(Ledger(filled, identity)) as ledger:
        assert ledger.head().sequence == 7


@pytest.mark.parametrize("how", TOUCHED)
def test_a_ledger_that_was_touched_does_not_open(
    filled: Path, identity: Identity, how: str
) -> None:
    sql(filled, *TOUCHED[how])
    with pytest.raises(TrustError):
        Ledger(filled, identity)


def test_another_keys_ledger_is_refused(filled: Path) -> None:
    with pytest.raises(TrustError, match="signature"):
        Ledger(filled, Identity.new())


def test_a_ledger_that_was_touched_while_open_writes_nothing_more(
    path: Path, ledger: Ledger
) -> None:
    sql(
        path,
        "INSERT INTO rows SELECT 2, public, private, salt, commitment, hash, signature, 'new'"
        " FROM rows WHERE sequence = 1",
    )
    with pytest.raises(TrustError):
        ledger.reserve(study_of(0.5), "main")


# -- copies and forks: each is a good ledger, and whoever saw the other one knows -----------------


def test_a_restored_copy_is_found_out_by_whoever_saw_the_newer_head(
    tmp_path: Path, path: Path, filled: Path, identity: Identity
) -> None:
    copy = tmp_path / "copy.sqlite"
    shutil.copy(filled, copy)
    with closing(Ledger(path, identity)) as ledger:
        old = ledger.head()
        ledger.reserve(study_of(0.1, "later"), "main")
        seen = ledger.head()
        ledger.confirm(seen)
        ledger.confirm(old)
    shutil.copy(copy, path)
    with closing(Ledger(path, identity)) as ledger:
        ledger.confirm(old)
        with pytest.raises(TrustError, match="rolled back"):
            ledger.confirm(seen)
        # Growing again over the lost row does not help.
        ledger.reserve(study_of(0.1, "other"), "main")
        with pytest.raises(TrustError, match="rolled back"):
            ledger.confirm(seen)


def test_rows_cut_off_the_end_are_found_out_by_whoever_saw_them(
    filled: Path, identity: Identity
) -> None:
    with closing(Ledger(filled, identity)) as ledger:
        seen = ledger.head()
    sql(filled, "DELETE FROM rows WHERE sequence > 5")
    with (
        closing(Ledger(filled, identity)) as ledger,
        pytest.raises(TrustError, match="rolled back"),
    ):
        ledger.confirm(seen)


def forks(tmp_path: Path, filled: Path, identity: Identity) -> tuple[Path, Path]:
    """The same ledger continued twice, in two ways, each by two rows."""
    fork = tmp_path / "fork.sqlite"
    shutil.copy(filled, fork)
    for path, name in ((filled, "one"), (fork, "two")):
        with closing(Ledger(path, identity)) as ledger:
            ledger.settle(ledger.reserve(study_of(0.1, name), "main"), name)
    return filled, fork


def test_a_fork_of_equal_length_is_found_out(
    tmp_path: Path, filled: Path, identity: Identity
) -> None:
    one, two = forks(tmp_path, filled, identity)
    with closing(Ledger(one, identity)) as ours, closing(Ledger(two, identity)) as theirs:
        assert ours.head().sequence == theirs.head().sequence
        for ledger, other in ((ours, theirs), (theirs, ours)):
            with pytest.raises(TrustError, match="forked"):
                ledger.confirm(other.head())


def test_rows_of_two_forks_do_not_make_one_ledger(
    tmp_path: Path, filled: Path, identity: Identity
) -> None:
    one, two = forks(tmp_path, filled, identity)
    with closing(sqlite3.connect(one)) as database, database:
        database.execute("ATTACH ? AS other", (str(two),))
        database.execute("DELETE FROM rows WHERE sequence = 9")
        database.execute("INSERT INTO rows SELECT * FROM other.rows WHERE sequence = 9")
    with pytest.raises(TrustError, match="row 9"):
        Ledger(one, identity)
