"""An audit log that was edited, cut or forked is found out, by one log or by two side by side."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flo.audit.chain import Cosigned, Receipt, is_export, verify
from flo.audit.log import AuditLog
from flo.documents import canonical
from flo.errors import FloError, MessageError, TrustError, UsageError
from flo.keys.identity import Identity
from tests.flo.audit_logs import (
    COORDINATOR,
    NEXT,
    NORTH,
    STRANGER,
    STUDY,
    Json,
    check,
    exported,
    head_of,
    meet,
    opened,
    replaced,
    sealed,
    signed_anew,
)


@dataclass
class Logs:
    """What two parties exported after they met: parsed, to be tampered with."""

    site: Json
    coordinator: Json


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """Four entries of a site, of which the coordinator saw three; one of the coordinator."""
    folder = tmp_path_factory.mktemp("honest")
    with opened(folder / "n") as site, opened(folder / "c", COORDINATOR) as coordinator:
        site.append("site-made", fingerprint=NORTH.fingerprint)
        site.append("budget-born", population="main", epsilon=0.9)
        site.append("approved", STUDY, people=["Ada (steward)"])
        coordinator.append("coordinator-made", fingerprint=COORDINATOR.fingerprint)
        meet(site, coordinator)
        site.append("withdrawn", STUDY, reason="A partner left.")
        return Logs(exported(site, "north"), exported(coordinator, "coordinator"))


@pytest.fixture
def logs(honest: Logs) -> Logs:
    return deepcopy(honest)


SEEN = Cosigned(COORDINATOR.fingerprint, "coordinator", 3)


def test_two_logs_that_saw_each_other_verify(logs: Logs) -> None:
    site, coordinator = check(logs.site, logs.coordinator)
    assert (site.owner, site.fingerprint, site.entries) == ("north", NORTH.fingerprint, 4)
    assert site.countersigned == (SEEN,)
    assert coordinator.countersigned == (Cosigned(NORTH.fingerprint, "north", 1),)
    assert (site.first[:19], site.last[:19]) == ("2026-11-24T12:00:00", "2026-11-24T12:00:03")
    assert check(logs.coordinator, logs.site) == [coordinator, site]
    (alone,) = check(logs.site)
    assert alone.countersigned == (Cosigned(COORDINATOR.fingerprint, None, 3),)
    assert is_export(logs.site)
    assert not is_export([logs.site])


# -- what can be done to a log ---------------------------------------------------------------------


def by_owner(*steps: Callable[[Logs], None], **changes: Any) -> Callable[[Logs], None]:
    """The site does all of this to its own log, and signs the export."""

    def do(logs: Logs) -> None:
        for step in steps:
            step(logs)
        logs.site.update(changes)
        sealed(logs.site)

    return do


def edit(number: int, **changes: Any) -> Callable[[Logs], None]:
    return lambda logs: logs.site["entries"][number - 1].update(changes)


def rewrite(number: int, signer: Identity = NORTH, **changes: Any) -> Callable[[Logs], None]:
    def do(logs: Logs) -> None:
        edit(number, **changes)(logs)
        signed_anew(logs.site, signer, start=number)

    return do


def drop(*numbers: int) -> Callable[[Logs], None]:
    def do(logs: Logs) -> None:
        kept = [e for e in logs.site["entries"] if e["number"] not in numbers]
        logs.site["entries"] = kept

    return do


def drop_and_renumber(logs: Logs) -> None:
    drop(2)(logs)
    for number, entry in enumerate(logs.site["entries"], start=1):
        entry["number"] = number


def swap(logs: Logs) -> None:
    entries = logs.site["entries"]
    entries[1], entries[2] = entries[2], entries[1]


def borrow_signature(logs: Logs) -> None:
    entries = logs.site["entries"]
    entries[2]["signature"] = entries[1]["signature"]


def hold_receipt(signer: Identity, owner: Identity, number: int) -> Callable[[Logs], None]:
    """The owner puts this receipt into its log."""

    def do(logs: Logs) -> None:
        entries = logs.site["entries"]
        hash_ = entries[number - 1]["hash"] if number <= len(entries) else STUDY
        receipt = Receipt.given(signer, head_of(owner, number, hash_))
        logs.site["receipts"] = [receipt.model_dump(mode="json")]

    return do


def change_receipt(logs: Logs) -> None:
    logs.site["receipts"][0].update(number=2, hash=logs.site["entries"][1]["hash"])


def rewrite_history(logs: Logs) -> None:
    logs.site["entries"][1]["facts"]["epsilon"] = 0.1
    signed_anew(logs.site)


def second_log(logs: Logs) -> None:
    """The site shows this auditor another log than that one; both came to the same table."""
    other = deepcopy(logs.site)
    other["entries"] = other["entries"][:3]
    other["entries"][2]["facts"] = {"people": ["Bob (steward)"]}
    other["receipts"] = []
    signed_anew(other, start=3)
    sealed(other)
    logs.coordinator = other


def make_up_a_head(logs: Logs) -> None:
    """The coordinator claims to have seen what the site never signed."""
    logs.coordinator["witnessed"][0]["number"] = 99
    sealed(logs.coordinator, COORDINATOR)


OUTSIDE = "truncated at its end, or edited outside its entries"
KEY = COORDINATOR.fingerprint[:12]


TAMPERED: list[tuple[str, Callable[[Logs], object], str]] = [
    ("edited facts", edit(2, facts={"epsilon": 0.1}), "north: entry 2 was edited"),
    ("edited time", edit(3, time="2026-11-24T11:00:00.000+00:00"), "entry 3 was edited"),
    ("edited kind", edit(3, kind="refused"), "entry 3 was edited"),
    ("edited study", edit(3, study="b" * 64), "entry 3 was edited"),
    ("edited hash", edit(1, hash="c" * 64), "entry 1 was edited"),
    ("cut at the start", drop(1), "entry 1 is missing, or not in its place"),
    ("cut in the middle", drop(3), "entry 3 is missing, or not in its place"),
    ("cut and renumbered", drop_and_renumber, "entry 2 was edited, or one before it removed"),
    ("swapped", swap, "entry 2 is missing, or not in its place"),
    ("signature of another entry", borrow_signature, "entry 3 is not signed by its owner"),
    ("no key", lambda logs: logs.site.update(public="ab"), "entry 1 is not signed by"),
    (
        "in another's name",
        lambda logs: logs.site.update(public=COORDINATOR.public.hex()),
        "entry 1 is not signed by its owner",
    ),
    ("wrong signer", rewrite(4, STRANGER, kind="approved"), "entry 4 is not signed by its"),
    ("salt changed", edit(3, salt="0" * 32), "entry 3 was edited"),
    ("cut at the end by a thief", drop(4), f"north: {OUTSIDE}"),
    ("renamed", lambda logs: logs.site.update(owner="south"), f"south: {OUTSIDE}"),
    ("receipt left out by a thief", lambda logs: logs.site.update(receipts=[]), OUTSIDE),
    (
        "head left out by a thief",
        lambda logs: logs.coordinator.update(witnessed=[]),
        f"coordinator: {OUTSIDE}",
    ),
    ("cut by its owner", by_owner(drop(3, 4)), f"truncated after entry 2; key {KEY} countersigned"),
    (
        "cut by its owner with the receipt",
        by_owner(drop(3, 4), receipts=[]),
        "north: truncated after entry 2; coordinator countersigned entry 3",
    ),
    ("all cut", by_owner(drop(1, 2, 3, 4), receipts=[]), "truncated after entry 0; coordinator"),
    (
        "rewritten",
        by_owner(rewrite_history),
        f"north: forked at or before entry 3; key {KEY} countersigned a different",
    ),
    (
        "rewritten without the receipt",
        by_owner(rewrite_history, receipts=[]),
        "north: forked at or before entry 3; coordinator countersigned a different",
    ),
    ("two logs of one key", second_log, "two logs of one key differ from entry 3 on"),
    ("own receipt", by_owner(hold_receipt(NORTH, NORTH, 3)), "a receipt is by its own key"),
    ("receipt ahead", by_owner(hold_receipt(COORDINATOR, NORTH, 99)), "truncated after entry 4"),
    (
        "receipt for another",
        by_owner(hold_receipt(COORDINATOR, STRANGER, 3)),
        "its own key, or for another log",
    ),
    ("changed receipt", by_owner(change_receipt), "this audit-receipt does not match"),
    ("head made up by the other side", make_up_a_head, "this audit-entry does not match"),
]


@pytest.mark.parametrize(
    ("do", "words"), [case[1:] for case in TAMPERED], ids=[case[0] for case in TAMPERED]
)
def test_what_was_done_to_a_log_is_named(
    logs: Logs, do: Callable[[Logs], object], words: str
) -> None:
    do(logs)
    with pytest.raises(TrustError, match=words):
        check(logs.site, logs.coordinator)


def test_only_the_other_side_shows_a_cut_at_the_end(logs: Logs) -> None:
    by_owner(drop(4))(logs)
    assert check(logs.site)[0].entries == 3
    assert check(logs.site, logs.coordinator)[0].entries == 3  # what it saw is all there
    by_owner(drop(3), receipts=[])(logs)
    assert check(logs.site)[0].entries == 2
    with pytest.raises(TrustError, match="truncated after entry 2"):
        check(logs.coordinator, logs.site)


def test_every_field_of_every_entry_counts(logs: Logs) -> None:
    for number, entry in enumerate(logs.site["entries"]):
        for name in entry:
            changed = deepcopy(logs.site)
            value = changed["entries"][number][name]
            changed["entries"][number][name] = (
                {**value, "more": 1}
                if isinstance(value, dict)
                else value + 1
                if isinstance(value, int)
                else STUDY[:-1] + "b"
                if value is None
                else ("1" if value[0] != "1" else "2") + value[1:]
            )
            with pytest.raises(FloError):
                check(changed)


@pytest.mark.parametrize(
    ("document", "error"),
    [(b"", MessageError), (b"[]", UsageError), (b'{"log":"audit"}', UsageError)],
)
def test_what_is_no_export_is_refused(document: bytes, error: type[Exception]) -> None:
    with pytest.raises(error, match="audit log"):
        verify([document])


def test_an_export_counts_only_as_it_was_written(logs: Logs) -> None:
    with pytest.raises(MessageError, match="not in canonical form"):
        verify([canonical.encode(logs.site) + b"\n"])


# -- a new key -------------------------------------------------------------------------------------


def test_a_log_whose_owner_replaced_its_key_goes_on_and_verifies(tmp_path: Path) -> None:
    with opened(tmp_path / "n") as site, opened(tmp_path / "c", COORDINATOR) as coordinator:
        site.append("site-made")
        coordinator.append("coordinator-made")
        meet(site, coordinator)
        seen = exported(site, "north")
    replaced(tmp_path / "c", COORDINATOR, NEXT)
    with pytest.raises(TrustError), opened(tmp_path / "c", STRANGER):
        pass
    with opened(tmp_path / "c", NEXT) as log:
        log.append("key-in-use")
        after = exported(log, "coordinator")
    with pytest.raises(TrustError), opened(tmp_path / "c", COORDINATOR):
        pass
    found, _ = check(after, seen)
    assert (found.fingerprint, found.entries) == (NEXT.fingerprint, 3)
    assert found.countersigned == (Cosigned(NORTH.fingerprint, "north", 1),)
    del after["entries"][1:]
    after["entries"][0]["facts"] = {"another": "past"}
    after.update(public=COORDINATOR.public.hex(), receipts=[])
    signed_anew(after, COORDINATOR)
    sealed(after, COORDINATOR)
    with pytest.raises(TrustError, match="forked at or before entry 1; north countersigned"):
        check(after, seen)  # what the earlier key signed is held against the log, too


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (COORDINATOR, STRANGER, "entry 2 names a key that is not the next one"),
        (STRANGER, NEXT, "entry 1 is not signed by its owner"),
        (NEXT, COORDINATOR, "entry 1 is not signed by its owner"),
    ],
)
def test_a_log_that_names_a_wrong_next_key_is_refused(
    tmp_path: Path, old: Identity, new: Identity, words: str
) -> None:
    with opened(tmp_path / "c", COORDINATOR) as log:
        log.append("coordinator-made")
    replaced(tmp_path / "c", COORDINATOR, NEXT)
    with opened(tmp_path / "c", NEXT) as log:
        log.append("key-in-use")
        document = exported(log, "coordinator")
    document["entries"][1]["facts"] = {"old": old.public.hex(), "new": new.public.hex()}
    signed_anew(document, COORDINATOR, start=2)
    signed_anew(document, NEXT, start=3)
    with pytest.raises(TrustError, match=words):
        check(document)


def test_a_key_that_signed_no_entry_owns_no_log(tmp_path: Path) -> None:
    """A stranger writes a log, hands it over to a victim's key, and shows it as the victim's."""
    with opened(tmp_path / "n", STRANGER) as log:
        log.append("approved", STUDY)
    replaced(tmp_path / "n", STRANGER, NORTH)
    with closing(AuditLog(tmp_path / "n", NORTH)) as log:
        document = exported(log, "north")
    try:
        (found,) = check(document)
    except TrustError:
        return
    assert found.fingerprint != NORTH.fingerprint
