"""Several real processes on one ledger file, and a process that dies: nothing is overspent or lost.

``tests/end_to_end/test_kill.py`` kills a whole site; here it is the ledger alone.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from flo.keys.identity import Identity
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.ledger import Ledger
from flo.storage.files import write_private
from flo.study.document import Study
from tests.privacy.ledgers import new_ledger, study_of, survey_of

pytestmark = pytest.mark.processes


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    made = Identity.new()
    write_private(tmp_path / "identity.key", made.pem())
    return made


@pytest.fixture
def ledger(tmp_path: Path, identity: Identity) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger.sqlite", identity) as opened:
        yield opened


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


CONTENDER = """
import sys
from pathlib import Path
from flo.errors import BudgetError
from flo.storage.files import write_private
from flo.keys.identity import Identity
from flo.privacy.ledger.ledger import Ledger
from flo.study.loading import from_canonical
folder = Path(sys.argv[1])
study = from_canonical(Path(sys.argv[2]).read_bytes())
from flo.privacy.accounting.plan import Plan
Plan.of(study)
identity = Identity.read((folder / "identity.key").read_bytes(), "key")
ledger = Ledger(folder / "ledger.sqlite", identity)
print("ready", flush=True)
sys.stdin.readline()
print("trying", flush=True)
try:
    ledger.reserve(study, "main")
    print("won", flush=True)
except BudgetError:
    print("refused", flush=True)
"""


@pytest.mark.parametrize(
    "studies",
    [(study_of(0.9, "one"), study_of(0.9, "two")), (study_of(0.8, "one"), survey_of(0.8, "two"))],
    ids=["two studies", "a study and a survey"],
)
def test_two_processes_that_want_the_last_budget_at_once_do_not_both_get_it(
    tmp_path: Path, ledger: Ledger, studies: tuple[Study, Study]
) -> None:
    for study in studies:
        (tmp_path / study.name).write_bytes(study.canonical_bytes)
    with (
        process(CONTENDER, str(tmp_path), str(tmp_path / "one")) as one,
        process(CONTENDER, str(tmp_path), str(tmp_path / "two")) as two,
    ):
        assert (hear(one), hear(two)) == ("ready", "ready")
        # While another process writes, both come to the door; then it opens.
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as busy:
            busy.execute("BEGIN IMMEDIATE")
            say(one, "go")
            say(two, "go")
            assert (hear(one), hear(two)) == ("trying", "trying")
            busy.execute("ROLLBACK")
        assert sorted((hear(one), hear(two))) == ["refused", "won"]
    # The ledger that was open all the while sees it too.
    assert len(ledger.balance().reservations) == 1
    assert all(ledger.balance().remaining("main", name) >= 0 for name in SUB_LEDGERS)


SPENDER = """
import sys
from pathlib import Path
from flo.errors import BudgetError
from flo.storage.files import write_private
from flo.keys.identity import Identity
from flo.privacy.ledger.ledger import Ledger
folder, reservation, name = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
identity = Identity.read((folder / "identity.key").read_bytes(), "key")
ledger = Ledger(folder / "ledger.sqlite", identity)
facts = dict.fromkeys(("study", "run", "round", "attempt", "model", "cohort", "reply"), "x")
facts["study"] = sys.argv[4]
print("ready", flush=True)
sys.stdin.readline()
sent = 0
try:
    while True:
        ledger.charge(reservation, "training", f"{name} {sent}", facts)
        sent += 1
except BudgetError:
    print(sent, flush=True)
"""


def test_two_processes_that_spend_one_reservation_together_get_what_was_reserved(
    tmp_path: Path, ledger: Ledger
) -> None:
    study = study_of(0.9, steps=60)
    reservation = ledger.reserve(study, "main")
    with (
        process(SPENDER, str(tmp_path), str(reservation), "one", study.digest) as one,
        process(SPENDER, str(tmp_path), str(reservation), "two", study.digest) as two,
    ):
        assert (hear(one), hear(two)) == ("ready", "ready")
        say(one, "go")
        say(two, "go")
        sent = int(hear(one)) + int(hear(two))
    releases = Plan.of(study).purpose("training").releases
    assert sent == releases == ledger.balance().reservations[reservation].released["training"]
    assert ledger.balance().remaining("main", "training") >= 0


def test_two_studies_at_once_charge_each_its_own_reservation(
    tmp_path: Path, ledger: Ledger
) -> None:
    studies = [study_of(0.5, "one", steps=20), study_of(0.5, "two", steps=30)]
    held = [ledger.reserve(study, "main") for study in studies]
    with (
        process(SPENDER, str(tmp_path), str(held[0]), "one", studies[0].digest) as one,
        process(SPENDER, str(tmp_path), str(held[1]), "two", studies[1].digest) as two,
    ):
        assert (hear(one), hear(two)) == ("ready", "ready")
        say(one, "go")
        say(two, "go")
        assert (int(hear(one)), int(hear(two))) == (21, 31)  # steps and one retry
    balance, order = ledger.balance(), ledger.balance().lives["main"].order
    spent = sum(Plan.of(study).purpose("training").cost(order) for study in studies)
    assert balance.charged("main", "training") == pytest.approx(spent, rel=1e-12)


APPROVER = """
import os, sys, time
from pathlib import Path
from flo.keys.identity import Identity
from flo.privacy.ledger.ledger import Ledger
from tests.privacy.ledger.life_histories import study_of
folder = Path(sys.argv[1])
identity = Identity.read((folder / "identity.key").read_bytes(), "key")
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        ledger = Ledger(folder / "ledger.sqlite", identity)
        os.write(1, b"%d\\n" % os.getpid())
        for n in range(int(line), int(line) + 2):
            number = ledger.reserve(study_of(n, 0.02), "main", [f"p{p}" for p in range(3 * n + 3)])
            os.write(1, b"approved %d %d\\n" % (n, number))
            ledger.settle(number, "ended")
        time.sleep(60)
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


def test_a_kill_at_any_instant_of_an_approval_gives_nobody_two_births(
    tmp_path: Path, ledger: Ledger, identity: Identity
) -> None:
    """``FLO_KILL_POINTS=200`` kills more often. In each approval three patients are new."""
    kills = int(os.environ.get("FLO_KILL_POINTS", "15"))
    approved: dict[int, int] = {}
    with process(APPROVER, str(tmp_path)) as approver:
        for kill in range(kills):
            say(approver, str(max(approved, default=-1) + 1))
            victim = int(hear(approver))
            announced = [hear(approver) for _ in range(1 + kill % 2)]
            for _ in range(
                3000 * (kill % 40)
            ):  # each time another instant of the work that follows
                pass
            os.kill(victim, signal.SIGKILL)
            announced += iter(lambda: hear(approver), "dead")
            for line in announced:
                _, study, number = line.split()
                approved[int(study)] = int(number)
            with closing(Ledger(tmp_path / "ledger.sqlite", identity)) as reopened:
                balance = reopened.balance()
                assert set(approved.values()) <= set(balance.generations("main"))
                last = max(balance.generations("main"))
                born = reopened.participants(last).generations
                assert {f"p{p}" for p in range(3 * len(approved))} <= set(born)
                for one, opened in approved.items():  # each in the approval that saw them first
                    assert {born[f"p{3 * one + n}"] for n in range(3)} == {opened}
    assert len(approved) >= kills


CHARGER = """
import os, sys
from pathlib import Path
from flo.storage.files import write_private
from flo.keys.identity import Identity
from flo.privacy.ledger.ledger import Ledger
folder = Path(sys.argv[1])
identity = Identity.read((folder / "identity.key").read_bytes(), "key")
facts = dict.fromkeys(("study", "run", "round", "attempt", "model", "cohort", "reply"), "x")
facts["study"] = sys.argv[3]
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
    tmp_path: Path, ledger: Ledger, identity: Identity
) -> None:
    study = study_of(0.5, steps=10_000)
    reservation = ledger.reserve(study, "main")
    sent: list[int] = []
    with process(CHARGER, str(tmp_path), str(reservation), study.digest) as charger:
        for kill in range(15):
            say(charger, str(sent[-1] + 2 if sent else 0))
            victim = int(hear(charger))
            announced = [hear(charger) for _ in range(1 + kill % 4)]
            for _ in range(5000 * kill):  # each time another instant of the work that follows
                pass
            os.kill(victim, signal.SIGKILL)
            announced += iter(lambda: hear(charger), "dead")
            sent += [int(line.removeprefix("sending ")) for line in announced]
            with closing(Ledger(tmp_path / "ledger.sqlite", identity)) as reopened:
                assert all(reopened.find_release(f"request {n}") for n in sent)
                assert reopened.balance().reservations[reservation].released["training"] >= len(
                    sent
                )
    assert len(sent) >= 15
