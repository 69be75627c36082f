"""A site's ledger never forgets a release, never overspends, and notices when it was touched."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from flo.errors import BudgetError, DataError, FloError, TrustError, UsageError
from flo.identity import Identity
from flo.messages import Head
from flo.privacy.ledger import Ledger
from flo.privacy.plan import Plan
from flo.privacy.rows import PURPOSES
from flo.study import Study
from tests.builders import small_study, study_document


def study_of(epsilon: float, name: str = "tiny", **mechanism: Any) -> Study:
    document = study_document(name=name)
    document["mechanism"].update(epsilon=epsilon, **mechanism)
    document["evaluation"].update(epsilon=epsilon)
    return small_study(**document)


def register(ledger: Ledger, name: str = "main", epsilon: float = 0.9) -> None:
    ledger.register_population(
        name, epsilon=epsilon, declared_size=40, hold_out=0.3, private={"id_column": "patient_id"}
    )


def facts(study: Study, round_: int = 1) -> dict[str, Any]:
    return {"study": study.digest, "run": "r", "round": round_, "attempt": 1} | dict.fromkeys(
        ("model", "cohort", "reply"), "0" * 64
    )


@pytest.fixture
def identity() -> Identity:
    return Identity.new()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path, identity: Identity) -> Iterator[Ledger]:
    with closing(Ledger(path, identity)) as opened:
        register(opened)
        yield opened


# -- arithmetic ----------------------------------------------------------------------------------


def test_a_reservation_takes_its_whole_plan_and_a_charge_takes_nothing_more(ledger: Ledger) -> None:
    study = study_of(0.5)
    life = ledger.balance().lives["main"]
    reservation = ledger.reserve(study, "main")
    for purpose in PURPOSES:
        cost = Plan.of(study).part(purpose).cost(life.order)
        assert ledger.balance().committed("main", purpose) == pytest.approx(cost, rel=1e-12)
    before = ledger.balance().committed("main", "training")
    ledger.charge(reservation, "training", "request 1", facts(study))
    assert ledger.balance().committed("main", "training") == before
    one = Plan.of(study).training.mechanism.rdp(life.order)
    assert ledger.balance().charged("main", "training") == pytest.approx(one, rel=1e-12)
    assert ledger.balance().charged("main", "evaluation") == 0


def test_a_settled_study_frees_what_it_did_not_use(ledger: Ledger) -> None:
    study = study_of(0.9)
    reservation = ledger.reserve(study, "main")
    ledger.charge(reservation, "training", "request 1", facts(study))
    ledger.settle(reservation, "ended early")
    balance = ledger.balance()
    assert balance.committed("main", "training") == balance.charged("main", "training") > 0
    assert balance.committed("main", "evaluation") == 0
    rows = len(list(ledger.rows()))
    ledger.settle(reservation, "again")
    assert len(list(ledger.rows())) == rows


def test_a_spent_budget_is_refused_with_what_remains_and_what_would_fit(ledger: Ledger) -> None:
    ledger.reserve(study_of(0.5), "main")
    rows = [row.hash for row in ledger.rows()]
    life, remaining = ledger.balance().lives["main"], ledger.balance().remaining("main", "training")
    with pytest.raises(BudgetError) as refusal:
        ledger.reserve(study_of(0.9, "greedy"), "main")
    assert f"{remaining / life.renyi:.1%} remains" in str(refusal.value)
    assert f"{life.largest_epsilon(remaining):.4f}" in str(refusal.value)
    assert [row.hash for row in ledger.rows()] == rows


def named_epsilon(ledger: Ledger) -> float:
    with pytest.raises(BudgetError) as refusal:
        ledger.reserve(study_of(0.9, "greedy"), "main")
    return float(str(refusal.value).rsplit(" ", 1)[1])


def test_a_study_of_the_largest_epsilon_fits(ledger: Ledger) -> None:
    ledger.reserve(study_of(0.5), "main")
    remaining = ledger.balance().remaining("main", "training")
    ledger.reserve(
        study_of(ledger.balance().lives["main"].largest_epsilon(remaining), "next"), "main"
    )


def test_the_largest_epsilon_that_a_refusal_names_really_fits(tmp_path: Path) -> None:
    for taken in (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6):
        with closing(Ledger(tmp_path / f"{taken}.sqlite", Identity.new())) as ledger:
            register(ledger)
            ledger.reserve(study_of(taken), "main")
            ledger.reserve(study_of(named_epsilon(ledger), "next"), "main")


def test_a_study_with_a_larger_delta_than_the_ledgers_is_refused(ledger: Ledger) -> None:
    ledger.register_population(
        "large", epsilon=0.9, declared_size=100_000, hold_out=0.3, private={}
    )
    with pytest.raises(BudgetError, match="delta"):
        ledger.reserve(study_of(0.5), "large")


def test_releases_beyond_steps_and_allowance_are_refused(ledger: Ledger) -> None:
    study = study_of(0.5)
    reservation = ledger.reserve(study, "main")
    for purpose in PURPOSES:
        releases = Plan.of(study).part(purpose).releases
        for n in range(releases):
            ledger.charge(reservation, purpose, f"{purpose} {n}", facts(study, n))
        with pytest.raises(BudgetError, match=f"all {releases} {purpose}"):
            ledger.charge(reservation, purpose, f"{purpose} more", facts(study))
    assert ledger.find_release("training more") is None


def test_the_same_request_is_never_charged_twice(ledger: Ledger) -> None:
    study = study_of(0.5)
    reservation = ledger.reserve(study, "main")
    ledger.charge(reservation, "training", "request 1", facts(study))
    with pytest.raises(TrustError, match="answered before"):
        ledger.charge(reservation, "training", "request 1", facts(study))
    assert ledger.balance().reservations[reservation].released["training"] == 1
    found = ledger.find_release("request 1")
    assert found is not None
    assert found.sequence == 3


def test_bits_sent_again_are_recorded_at_no_charge(ledger: Ledger) -> None:
    study = study_of(0.5)
    reservation = ledger.reserve(study, "main")
    ledger.charge(reservation, "training", "request 1", facts(study))
    first = ledger.find_release("request 1")
    assert first is not None
    ledger.repeat(reservation, first, "training", "request 2", facts(study))
    assert ledger.balance().reservations[reservation].released["training"] == 1
    assert ledger.find_release("request 2") is not None


def test_reserving_an_open_study_twice_is_reserving_once(ledger: Ledger) -> None:
    study = study_of(0.9)
    reservation = ledger.reserve(study, "main")
    assert ledger.reserve(study, "main") == reservation
    ledger.settle(reservation, "ended")
    assert ledger.reserve(study, "main") > reservation


def test_other_bits_are_no_repeat_and_write_nothing(ledger: Ledger) -> None:
    study = study_of(0.5)
    reservation = ledger.reserve(study, "main")
    ledger.charge(reservation, "training", "request 1", facts(study))
    first = ledger.find_release("request 1")
    assert first is not None
    other = facts(study) | {"reply": "1" * 64}
    with pytest.raises(TrustError):
        ledger.repeat(reservation, first, "training", "request 2", other)
    assert ledger.find_release("request 2") is None
    ledger.settle(reservation, "ended")
    with pytest.raises(BudgetError, match="no open reservation"):
        ledger.repeat(reservation, first, "training", "request 3", facts(study))


@pytest.mark.parametrize("reservation", [1, 99])
def test_a_charge_without_a_reservation_is_refused(ledger: Ledger, reservation: int) -> None:
    with pytest.raises(BudgetError, match="no open reservation"):
        ledger.charge(reservation, "training", "request", facts(study_of(0.5)))


def test_a_charge_after_the_settlement_is_refused(ledger: Ledger) -> None:
    study = study_of(0.5)
    reservation = ledger.reserve(study, "main")
    ledger.settle(reservation, "ended")
    with pytest.raises(BudgetError, match="no open reservation"):
        ledger.charge(reservation, "training", "request", facts(study))


def test_two_populations_have_two_budgets(ledger: Ledger) -> None:
    register(ledger, "other")
    ledger.reserve(study_of(0.9), "main")
    assert ledger.balance().committed("other", "training") == 0
    ledger.reserve(study_of(0.9, "second"), "other")
    with pytest.raises(BudgetError):
        ledger.reserve(study_of(0.1, "third"), "main")


def test_a_budget_is_born_once(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="registered already"):
        register(ledger, epsilon=5.0)
    with pytest.raises(UsageError, match="not registered"):
        ledger.reserve(study_of(0.5), "unknown")


def test_a_patient_known_to_another_population_is_found_and_nothing_is_kept(ledger: Ledger) -> None:
    register(ledger, "other")
    ledger.reserve(study_of(0.3, "first"), "main", {"a", "b", "c"})
    ledger.reserve(study_of(0.3, "second"), "main", {"b", "c", "d"})
    with pytest.raises(DataError, match="2 patients"):
        ledger.reserve(study_of(0.3, "third"), "other", {"c", "d", "e"})
    ledger.reserve(study_of(0.3, "third"), "main", {"e"})


# -- several processes ---------------------------------------------------------------------------

CONTENDER = """
import sys
from pathlib import Path
from flo.errors import BudgetError
from flo.identity import Identity
from flo.privacy.ledger import Ledger
from flo.study import from_canonical
folder = Path(sys.argv[1])
study = from_canonical(Path(sys.argv[2]).read_bytes())
from flo.privacy.plan import Plan
Plan.of(study)
ledger = Ledger(folder / "ledger.sqlite", Identity.load(folder / "identity.key"))
print("ready", flush=True)
sys.stdin.readline()
print("trying", flush=True)
try:
    ledger.reserve(study, "main")
    print("won", flush=True)
except BudgetError:
    print("refused", flush=True)
"""


@contextmanager
def process(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def say(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()


def hear(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_two_processes_that_want_the_last_budget_at_once_do_not_both_get_it(
    tmp_path: Path, path: Path, ledger: Ledger, identity: Identity
) -> None:
    identity.save(tmp_path / "identity.key")
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(study_of(0.9, name).canonical_bytes)
    with (
        process(CONTENDER, str(tmp_path), str(tmp_path / "one")) as one,
        process(CONTENDER, str(tmp_path), str(tmp_path / "two")) as two,
    ):
        assert (hear(one), hear(two)) == ("ready", "ready")
        # While another process writes, both come to the door; then it opens.
        with closing(sqlite3.connect(path, isolation_level=None)) as busy:
            busy.execute("BEGIN IMMEDIATE")
            say(one, "go")
            say(two, "go")
            assert (hear(one), hear(two)) == ("trying", "trying")
            busy.execute("ROLLBACK")
        assert sorted((hear(one), hear(two))) == ["refused", "won"]
    # The ledger that was open all the while sees it too.
    assert len(ledger.balance().reservations) == 1


CHARGER = """
import os, sys
from pathlib import Path
from flo.identity import Identity
from flo.privacy.ledger import Ledger
folder = Path(sys.argv[1])
identity = Identity.load(folder / "identity.key")
facts = dict.fromkeys(("study", "run", "round", "attempt", "model", "cohort", "reply"), "x")
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        ledger = Ledger(folder / "ledger.sqlite", identity)
        os.write(1, b"%d\\n" % os.getpid())
        for n in range(int(line), 10**6):
            ledger.charge(int(sys.argv[2]), "training", f"request {n}", facts)
            os.write(1, b"sending %d\\n" % n)
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


def test_a_kill_at_any_instant_forgets_no_release_that_may_have_been_sent(
    tmp_path: Path, path: Path, ledger: Ledger, identity: Identity
) -> None:
    identity.save(tmp_path / "identity.key")
    reservation = ledger.reserve(study_of(0.5, steps=10_000), "main")
    sent: list[int] = []
    with process(CHARGER, str(tmp_path), str(reservation)) as charger:
        for kill in range(15):
            say(charger, str(sent[-1] + 2 if sent else 0))
            victim = int(hear(charger))
            announced = [hear(charger) for _ in range(1 + kill % 4)]
            for _ in range(5000 * kill):  # each time another instant of the work that follows
                pass
            os.kill(victim, signal.SIGKILL)
            announced += iter(lambda: hear(charger), "dead")
            sent += [int(line.removeprefix("sending ")) for line in announced]
            with closing(Ledger(path, identity)) as reopened:  # checks the whole chain
                assert all(reopened.find_release(f"request {n}") for n in sent)
                assert reopened.balance().reservations[reservation].released["training"] >= len(
                    sent
                )
    assert len(sent) >= 15


# -- what was touched is found -------------------------------------------------------------------


@pytest.fixture
def filled(path: Path, ledger: Ledger) -> Path:
    """A closed ledger of seven rows: birth, reserve, three releases, a repeat, settle."""
    study = study_of(0.5)
    reservation = ledger.reserve(study, "main")
    for n in (1, 2, 3):
        ledger.charge(reservation, "training", f"request {n}", facts(study, n))
    released = ledger.find_release("request 3")
    assert released is not None
    ledger.repeat(reservation, released, "training", "request 4", facts(study, 3))
    ledger.settle(reservation, "ended")
    ledger.close()
    return path


def sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            assert database.execute(statement).rowcount != 0, statement


TOUCHED = {
    "a cheaper reservation": (
        "UPDATE rows SET public = replace(public, '\"releases\":4', '\"releases\":9')"
        " WHERE sequence = 2",
    ),
    "a larger life": ("UPDATE rows SET public = replace(public, '0.9', '0.8') WHERE sequence = 1",),
    "another time": (
        "UPDATE rows SET public = replace(public, 'time\":\"20', 'time\":\"19') WHERE sequence = 4",
    ),
    "another study": (
        "UPDATE rows SET private = replace(private, '\"round\":2', '\"round\":3')"
        " WHERE sequence = 4",
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
    "a row twice": (
        "INSERT INTO rows SELECT 8, public, private, salt, commitment, hash, signature, 'new'"
        " FROM rows WHERE sequence = 5",
    ),
    "the last signature": (
        "UPDATE rows SET signature = (SELECT signature FROM rows WHERE sequence = 6)"
        " WHERE sequence = 7",
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


MISSED = {
    "a private part gone": ("UPDATE rows SET private = 'null' WHERE sequence = 4",),
    "a private part that is no JSON": ("UPDATE rows SET private = '{' WHERE sequence = 4",),
    "a salt that is no number": ("UPDATE rows SET salt = 'zz' WHERE sequence = 4",),
    "a forgotten request": ("UPDATE rows SET request = NULL WHERE sequence = 4",),
}


@pytest.mark.parametrize("how", MISSED)
def test_a_ledger_that_was_touched_in_a_subtle_way_does_not_open(
    filled: Path, identity: Identity, how: str
) -> None:
    sql(filled, *MISSED[how])
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


def test_the_highest_head_of_a_partner_is_kept(ledger: Ledger) -> None:
    def head(sequence: int) -> Head:
        return Head(sequence=sequence, hash=f"{sequence:064x}", signature="ab", public="cd")

    for sequence in (3, 5, 4):
        ledger.witness("south", head(sequence))
    assert ledger.witnessed() == {"south": head(5)}


def test_an_empty_ledger_has_no_head(tmp_path: Path, identity: Identity) -> None:
    with closing(Ledger(tmp_path / "new.sqlite", identity)) as ledger:
        with pytest.raises(UsageError, match="empty"):
            ledger.head()
        assert (tmp_path / "new.sqlite").stat().st_mode & 0o077 == 0


REFUSED: list[tuple[str, Callable[[Ledger], Any]]] = [
    ("an unknown population", lambda ledger: ledger.reserve(study_of(0.5), "unknown")),
    ("a second birth", register),
    ("a greedy study", lambda ledger: ledger.reserve(study_of(3.0), "main")),
    ("no reservation", lambda ledger: ledger.charge(9, "training", "r", {})),
]


@pytest.mark.parametrize(("what", "act"), REFUSED, ids=[what for what, _ in REFUSED])
def test_a_refusal_writes_nothing(ledger: Ledger, what: str, act: Callable[[Ledger], Any]) -> None:
    before = [row.hash for row in ledger.rows()]
    with pytest.raises(FloError):
        act(ledger)
    assert [row.hash for row in ledger.rows()] == before, what
