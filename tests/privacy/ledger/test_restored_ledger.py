"""A ledger from a backup: whatever may have happened since counts, never less than what did."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flo.errors import BudgetError, TrustError, UsageError
from flo.keys.claims import LedgerHead
from flo.keys.identity import Identity
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.ledger.admission import Approved
from flo.privacy.ledger.ledger import Ledger
from flo.study.document import Study
from tests.partners import signed
from tests.privacy.ledgers import facts, new_ledger, register, study_of

KEY = Identity.new()
FIRST, SECOND = study_of(0.3, "first"), study_of(0.3, "second")


def approved(*studies: Study) -> list[Approved]:
    return [Approved(study, "main", worst_case=False) for study in studies]


def copied(path: Path) -> Path:
    """The ledger as a backup has it."""
    out = path.with_name("backup.sqlite")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(out)) as copy:
        source.backup(copy)
    return out


def release(ledger: Ledger, study: Study, number: int) -> None:
    reservation = ledger.reserve(study, "main")
    ledger.charge(reservation, "training", f"{study.digest}/r/{number}", facts(study, number))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """One study with one release of four; what follows is lost."""
    with new_ledger(tmp_path / "ledger.sqlite", KEY) as made:
        release(made, FIRST, 1)
        copied(tmp_path / "ledger.sqlite")
        yield made


@pytest.fixture
def backup(ledger: Ledger, tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "backup.sqlite", KEY)) as opened:
        yield opened


def charged(ledger: Ledger) -> dict[str, float]:
    return {name: ledger.balance().charged("main", name) for name in SUB_LEDGERS}


# -- what counts -----------------------------------------------------------------------------------


def test_what_was_open_counts_as_released_in_full_and_is_over(
    ledger: Ledger, backup: Ledger
) -> None:
    for number in (2, 3):
        release(ledger, FIRST, number)
    restored = backup.restore(approved(FIRST), ledger.head())
    assert (restored.lost, restored.studies, restored.exhausted) == (2, (), ())
    (held,) = backup.balance().reservations.values()
    assert (held.released["training"], held.unseen["training"]) == (4, 3)
    assert held.settled
    with pytest.raises(BudgetError):
        release(backup, FIRST, 5)
    assert all(charged(backup)[name] >= charged(ledger)[name] for name in SUB_LEDGERS)


def test_what_was_approved_since_counts_in_full(ledger: Ledger, backup: Ledger) -> None:
    ledger.settle(ledger.reserve(FIRST, "main"), "ended")
    release(ledger, SECOND, 1)
    restored = backup.restore(approved(FIRST, SECOND), ledger.head())
    assert (restored.lost, restored.studies) == (3, (SECOND.digest,))
    assert [h.remaining("training") for h in backup.balance().reservations.values()] == [0, 0]
    with pytest.raises(BudgetError, match="run and settled here"):
        backup.reserve(SECOND, "main")


def test_what_does_not_fit_takes_all_that_is_left(ledger: Ledger, backup: Ledger) -> None:
    """It fitted once, as the first study gave back what it did not use."""
    large = study_of(0.85, "large")
    ledger.settle(ledger.reserve(FIRST, "main"), "ended")
    release(ledger, large, 1)
    restored = backup.restore(approved(FIRST, large), ledger.head())
    assert (restored.studies, restored.exhausted) == ((large.digest,), ())
    for name in SUB_LEDGERS:
        assert backup.balance().remaining("main", name) <= 0
        assert charged(backup)[name] >= charged(ledger)[name]
    with pytest.raises(BudgetError):
        backup.reserve(study_of(0.02, "tiny"), "main")


def test_rows_that_nothing_explains_leave_nothing(ledger: Ledger, backup: Ledger) -> None:
    """The coordinator hides an approval: more rows are missing than what it shows can make."""
    far = signed(KEY, ledger.head().sequence + 1 + 6 * 16)
    assert backup.restore(approved(FIRST), far).exhausted == ("main",)


def test_a_population_that_was_lost_is_not_born_again(ledger: Ledger, backup: Ledger) -> None:
    register(ledger, "research")
    ledger.reserve(SECOND, "research")
    found = [*approved(FIRST), Approved(SECOND, "research", worst_case=False)]
    assert backup.restore(found, ledger.head()).exhausted == ("research",)
    for name in ("research", "another"):  # perhaps of the same patients: who they are is lost, too
        with pytest.raises(UsageError, match="lost rows, and the lost rows may hold a budget"):
            register(backup, name)


def test_a_restored_ledger_that_lost_nothing_takes_new_populations(backup: Ledger) -> None:
    backup.restore(approved(FIRST), backup.head())
    register(backup, "research")


def test_one_lost_row_alone_was_no_release(tmp_path: Path) -> None:
    """A site that has nothing open is restored twice from one backup."""
    with new_ledger(tmp_path / "ledger.sqlite", KEY) as ledger:
        copied(tmp_path / "ledger.sqlite")
        ledger.restore([], None)
        with closing(Ledger(tmp_path / "backup.sqlite", KEY)) as backup:
            assert backup.restore([], ledger.head()).exhausted == ()


def test_two_lost_rows_that_nothing_explains_may_have_been_a_release(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "ledger.sqlite", KEY) as ledger:
        copied(tmp_path / "ledger.sqlite")
        release(ledger, FIRST, 1)
        with closing(Ledger(tmp_path / "backup.sqlite", KEY)) as backup:
            assert backup.restore([], ledger.head()).exhausted == ("main",)


def test_rows_of_distributed_noise_cannot_have_been_repeated(tmp_path: Path) -> None:
    """One row a release: a coordinator that hides a study has little to hide it behind."""
    masked = study_of(0.1, "masked", masking="on", noise="distributed")
    with new_ledger(tmp_path / "ledger.sqlite", KEY) as ledger:
        ledger.reserve(masked, "main")
        copied(tmp_path / "ledger.sqlite")
        far = signed(KEY, ledger.head().sequence + 12)
        with closing(Ledger(tmp_path / "backup.sqlite", KEY)) as backup:
            assert backup.restore(approved(masked), far).exhausted == ("main",)


def test_what_an_earlier_recovery_closed_explains_no_later_loss(ledger: Ledger) -> None:
    """Else a hospital could close a large study in one recovery and lose as many rows later."""
    ledger.restore(approved(FIRST), None)
    assert ledger.balance().unaccounted_rows < 0
    far = signed(KEY, ledger.head().sequence + 20).model_dump(mode="json")
    with ExitStack() as stack:
        stack.enter_context(
            pytest.raises(TrustError, match="the charged studies do not account for")
        )
        stack.enter_context(ledger._transaction())
        ledger._append({"kind": "restored", "head": far, "exhausted": []}, {})
        ledger._append({"kind": "restored", "head": None, "exhausted": []}, {})


@pytest.mark.parametrize("after", ["release", "birth", "settle", "restored"])
def test_a_ledger_that_lost_more_than_its_studies_explain_takes_nothing_else(
    ledger: Ledger, after: str
) -> None:
    far = signed(KEY, 1_000_000).model_dump(mode="json")
    row: dict[str, Any] = {"kind": after, "head": None, "exhausted": []}
    with ExitStack() as stack:
        stack.enter_context(
            pytest.raises(TrustError, match="the charged studies do not account for")
        )
        stack.enter_context(ledger._transaction())
        ledger._append({"kind": "restored", "head": far, "exhausted": []}, {})
        ledger._append(row, {})
    assert "restored" not in [found.public["kind"] for found in ledger.rows()]


def test_an_approval_that_names_no_population_of_several_leaves_nothing_of_any(
    tmp_path: Path,
) -> None:
    with new_ledger(tmp_path / "ledger.sqlite", KEY) as ledger:
        register(ledger, "research")
        restored = ledger.restore([Approved(SECOND, None, worst_case=False)], None)
    assert restored.exhausted == ("main", "research")


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_history_costs_more_than_what_its_backup_is_charged(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("history")
    studies = [study_of(0.2, f"study-{n}") for n in range(3)]
    numbers = dict.fromkeys((s.digest for s in studies), 0)

    def step(ledger: Ledger) -> None:
        study = data.draw(st.sampled_from(studies))
        what = data.draw(st.sampled_from(["approve", "release", "release", "settle"]))
        try:
            reservation = ledger.reserve(study, "main")
            if what == "release":
                numbers[study.digest] += 1
                release(ledger, study, numbers[study.digest])
            elif what == "settle":
                ledger.settle(reservation, "ended")
        except BudgetError:
            return

    with new_ledger(folder / "ledger.sqlite", KEY) as ledger:
        for _ in range(data.draw(st.integers(0, 6))):
            step(ledger)
        copy = copied(folder / "ledger.sqlite")
        for _ in range(data.draw(st.integers(0, 8))):
            step(ledger)
        ever = {(row.private or {}).get("study") for row in ledger.rows()}
        known = approved(*(study for study in studies if study.digest in ever))
        with closing(Ledger(copy, KEY)) as backup:
            backup.restore(known, ledger.head())
            for name in SUB_LEDGERS:
                assert charged(backup)[name] >= charged(ledger)[name] * (1 - 1e-12)


# -- the chain goes on behind what was lost --------------------------------------------------------


def test_the_chain_goes_on_behind_the_lost_rows_and_opens_again(
    ledger: Ledger, backup: Ledger, tmp_path: Path
) -> None:
    release(ledger, FIRST, 2)
    seen = ledger.head()
    backup.restore(approved(FIRST), seen)
    assert backup.head().sequence == seen.sequence + 1
    release(backup, SECOND, 1)
    with closing(Ledger(tmp_path / "backup.sqlite", KEY)) as again:
        assert again.head() == backup.head()
        assert [row.sequence for row in again.rows()] == [1, 2, 3, 5, 6, 7]
        again.confirm(seen)
        again.confirm(again.head())


def test_heads_of_lost_rows_are_believed_and_others_are_not(ledger: Ledger, backup: Ledger) -> None:
    heads = [ledger.head()]
    for number in (2, 3):
        release(ledger, FIRST, number)
        heads.append(ledger.head())
    backup.restore(approved(FIRST), heads[-1])
    for head in heads:
        backup.confirm(head)
    for wrong in (signed(KEY, heads[-1].sequence, "a" * 64), signed(KEY, 99)):
        with pytest.raises(TrustError, match="rolled back or forked"):
            backup.confirm(wrong)


def test_a_head_that_a_partner_shows_later_is_charged_by_another_restore(
    ledger: Ledger, backup: Ledger
) -> None:
    """The coordinator hid what it saw; the partner's head is remembered when it is refused."""
    for number in (2, 3, 4):
        release(ledger, FIRST, number)
    backup.restore(approved(FIRST), None)
    newer = ledger.head()
    assert newer.sequence > backup.head().sequence
    with pytest.raises(TrustError):
        backup.confirm(newer)
    assert backup.restore(approved(FIRST), None).lost == newer.sequence - 4
    backup.confirm(newer)


def test_two_copies_in_use_cannot_be_mended(ledger: Ledger, backup: Ledger) -> None:
    release(ledger, FIRST, 2)
    fork = ledger.head()
    release(backup, FIRST, 7)
    before = list(backup.rows())
    with pytest.raises(TrustError, match="two copies of it were in use"):
        backup.restore(approved(FIRST), fork)
    assert list(backup.rows()) == before


def test_a_head_of_another_key_is_no_head_of_ours(backup: Ledger) -> None:
    before = list(backup.rows())
    with pytest.raises(TrustError):
        backup.restore(approved(FIRST), signed(Identity.new(), 9))
    assert list(backup.rows()) == before


def test_restoring_twice_changes_nothing_more(ledger: Ledger, backup: Ledger) -> None:
    release(ledger, FIRST, 2)
    backup.restore(approved(FIRST), ledger.head())
    first = charged(backup)
    assert backup.restore(approved(FIRST), ledger.head()).lost == 0
    assert charged(backup) == first


@pytest.mark.parametrize(
    "change",
    [
        {"head": {"sequence": 3}},
        {"head": None},
        {"exhausted": None},
        {"exhausted": [7]},
    ],
    ids=str,
)
def test_a_restored_row_that_was_edited_is_found(
    ledger: Ledger, backup: Ledger, tmp_path: Path, change: dict[str, Any]
) -> None:
    import json

    release(ledger, FIRST, 2)
    backup.restore(approved(FIRST), ledger.head())
    path = tmp_path / "edited.sqlite"
    shutil.copy(copied(tmp_path / "backup.sqlite"), path)
    with closing(sqlite3.connect(path)) as database, database:
        (sequence, text) = database.execute(
            "SELECT sequence, public FROM rows ORDER BY sequence DESC LIMIT 1"
        ).fetchone()
        public = json.loads(text) | change
        database.execute(
            "UPDATE rows SET public = ? WHERE sequence = ?", (json.dumps(public), sequence)
        )
    with pytest.raises(TrustError):
        Ledger(path, KEY)


def test_a_lost_head_must_be_signed_by_the_ledgers_own_key(tmp_path: Path) -> None:
    """Whoever writes rows with our key could; nobody else, and no row names another's head."""
    with new_ledger(tmp_path / "ledger.sqlite", KEY) as ledger:
        forged: LedgerHead = signed(Identity.new(), 9)
        with pytest.raises(TrustError), ledger._transaction():
            ledger._append(
                {"kind": "restored", "head": forged.model_dump(mode="json"), "exhausted": []}, {}
            )
        assert [row.public["kind"] for row in ledger.rows()] == ["birth"]
