"""An audit log that was edited, cut or forked is found out, by one log or by two side by side."""

from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flo import canonical
from flo.audit_log import ZERO_HASH, AuditLog, LogHead, Receipt, Verified, is_export, verify
from flo.claims import row_statement
from flo.errors import FloError, MessageError, TrustError, UsageError
from flo.files import write_private
from flo.identity import Identity

NORTH, COORDINATOR, STRANGER, NEXT = (Identity.new() for _ in range(4))
STUDY = "a" * 64
BEGAN = datetime(2026, 11, 24, 12, tzinfo=UTC)
Json = dict[str, Any]


def clock(began: datetime = BEGAN) -> Callable[[], datetime]:
    """A clock that goes on by a second with every look."""
    seconds = iter(range(1_000_000))
    return lambda: began + timedelta(seconds=next(seconds))


@contextmanager
def opened(path: Path, identity: Identity = NORTH) -> Iterator[AuditLog]:
    with closing(AuditLog(path, identity, clock())) as log:
        yield log


def exported(log: AuditLog, owner: str) -> Json:
    document: Json = canonical.decode(log.export(owner), limit=1 << 24, what="export")
    return document


def check(*documents: Json) -> list[Verified]:
    return verify([canonical.encode(document) for document in documents])


def meet(site: AuditLog, coordinator: AuditLog) -> None:
    """Each side countersigns the other's head, as an agent and its coordinator do."""
    ours, theirs = site.head(), coordinator.head()
    assert ours is not None
    assert theirs is not None
    site.keep_receipt(coordinator.countersign(ours), COORDINATOR.fingerprint)
    coordinator.keep_receipt(site.countersign(theirs), NORTH.fingerprint)


@dataclass
class Logs:
    """What two parties exported after they met: parsed, to be tampered with."""

    site: Json
    coordinator: Json


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """Five entries of a site, of which the coordinator saw three; two of the coordinator."""
    folder = tmp_path_factory.mktemp("honest")
    with opened(folder / "n") as site, opened(folder / "c", COORDINATOR) as coordinator:
        site.append("site-made", fingerprint=NORTH.fingerprint)
        site.append("budget-born", population="main", epsilon=0.9)
        site.append("approved", STUDY, people=["Ada (steward)"])
        coordinator.append("coordinator-made", fingerprint=COORDINATOR.fingerprint)
        meet(site, coordinator)  # entry 4 is the coordinator's receipt for entry 3
        site.append("withdrawn", STUDY, reason="A partner left.")
        return Logs(exported(site, "north"), exported(coordinator, "coordinator"))


@pytest.fixture
def logs(honest: Logs) -> Logs:
    return deepcopy(honest)


def test_two_logs_that_saw_each_other_verify(logs: Logs) -> None:
    site, coordinator = check(logs.site, logs.coordinator)
    assert (site.owner, site.fingerprint, site.entries) == ("north", NORTH.fingerprint, 5)
    assert (site.countersigned, coordinator.countersigned) == (3, 1)
    assert (site.first[:19], site.last[:19]) == ("2026-11-24T12:00:00", "2026-11-24T12:00:04")
    assert check(logs.coordinator, logs.site) == [coordinator, site]
    assert check(logs.site, logs.site) == [site, site]
    assert is_export(logs.site)
    assert not is_export([logs.site])


# -- what can be done to a log ---------------------------------------------------------------------


def signed_anew(log: Json, signer: Identity = NORTH, start: int = 1) -> None:
    """Make chain and signatures hold again from entry ``start`` on, as a log's owner could."""
    entries = log["entries"]
    previous = ZERO_HASH if start == 1 else entries[start - 2]["hash"]
    for number, entry in enumerate(entries[start - 1 :], start=start):
        content = [previous, number, *(entry[name] for name in ("time", "kind", "study", "facts"))]
        previous = canonical.digest(canonical.encode(content))
        signature = signer.sign("audit-entry", row_statement(number, previous))
        entry.update(number=number, hash=previous, signature=signature)


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


def receipt_of(signer: Identity, owner: Identity, number: int, hash_: str) -> Json:
    statement = canonical.encode([owner.fingerprint, number, hash_])
    return {
        "owner": owner.fingerprint,
        "number": number,
        "hash": hash_,
        "public": signer.public.hex(),
        "signature": signer.sign("audit-receipt", statement),
    }


def hold_receipt(signer: Identity, owner: Identity, number: int) -> Callable[[Logs], None]:
    """The owner puts this receipt into its entry 4."""

    def do(logs: Logs) -> None:
        entries = logs.site["entries"]
        hash_ = entries[number - 1]["hash"] if number <= len(entries) else STUDY
        rewrite(4, facts=receipt_of(signer, owner, number, hash_))(logs)

    return do


def change_receipt(logs: Logs) -> None:
    facts = logs.site["entries"][3]["facts"]
    rewrite(4, facts={**facts, "number": 2, "hash": logs.site["entries"][1]["hash"]})(logs)


def rewrite_all_but_the_receipt(logs: Logs) -> None:
    logs.site["entries"][1]["facts"]["epsilon"] = 0.1
    signed_anew(logs.site)


def fork(logs: Logs) -> None:
    """Rewrite what the coordinator saw, and leave its receipt out."""
    drop(4)(logs)
    rewrite_all_but_the_receipt(logs)


def second_log(logs: Logs) -> None:
    """The site shows this auditor another log than that one; both came to the same table."""
    other = deepcopy(logs.site)
    other["entries"] = other["entries"][:3]
    other["entries"][2]["facts"] = {"people": ["Bob (steward)"]}
    signed_anew(other, start=3)
    logs.coordinator = other


def make_up_a_head(logs: Logs) -> None:
    """The coordinator claims to have seen what the site never signed."""
    logs.coordinator["witnessed"][0]["number"] = 99


@pytest.mark.parametrize(
    ("what", "do", "words"),
    [
        ("edited facts", edit(2, facts={"epsilon": 0.1}), "north: entry 2 was edited"),
        ("edited time", edit(3, time="2026-11-24T11:00:00.000+00:00"), "entry 3 was edited"),
        ("edited kind", edit(3, kind="refused"), "entry 3 was edited"),
        ("edited study", edit(3, study="b" * 64), "entry 3 was edited"),
        ("edited hash", edit(1, hash="c" * 64), "entry 1 was edited"),
        ("cut at the start", drop(1), "entry 1 was cut out, or moved"),
        ("cut in the middle", drop(3), "entry 3 was cut out, or moved"),
        ("cut and renumbered", drop_and_renumber, "entry 2 was edited, or one before it cut out"),
        ("swapped", swap, "entry 2 was cut out, or moved"),
        ("signature of another entry", borrow_signature, "entry 3 is not signed by its owner"),
        ("no key", lambda logs: logs.site.update(public="ab"), "entry 1 is not signed by"),
        (
            "in another's name",
            lambda logs: logs.site.update(public=COORDINATOR.public.hex()),
            "entry 1 is not signed by its owner",
        ),
        ("wrong signer", rewrite(5, STRANGER, kind="approved"), "entry 5 is not signed by its"),
        ("cut at the end", drop(3, 4, 5), "north: cut behind entry 2; coordinator countersigned"),
        ("all cut", drop(1, 2, 3, 4, 5), "cut behind entry 0"),
        ("forked", fork, "north: forked at or before entry 3; coordinator countersigned another"),
        (
            "forked against its own receipt",
            rewrite_all_but_the_receipt,
            "forked before entry 4, whose countersigned entry 3 is another one",
        ),
        ("two logs of one key", second_log, "two logs of one key differ from entry 3 on"),
        ("own receipt", hold_receipt(NORTH, NORTH, 3), "entry 4 is its own receipt"),
        ("receipt ahead", hold_receipt(COORDINATOR, NORTH, 99), "forked before entry 4"),
        ("receipt for another", hold_receipt(COORDINATOR, STRANGER, 3), "forked before entry 4"),
        ("changed receipt", change_receipt, "this audit-receipt does not match"),
        ("head made up by the other side", make_up_a_head, "this audit-entry does not match"),
    ],
)
def test_what_was_done_to_a_log_is_named(
    logs: Logs, what: str, do: Callable[[Logs], None], words: str
) -> None:
    do(logs)
    with pytest.raises(TrustError, match=words):
        check(logs.site, logs.coordinator)


def test_only_the_other_side_shows_a_cut_at_the_end(logs: Logs) -> None:
    drop(4, 5)(logs)
    assert check(logs.site)[0].entries == 3
    assert check(logs.site, logs.coordinator)[0].entries == 3  # what it saw is all there
    drop(3)(logs)
    assert check(logs.site)[0].entries == 2
    with pytest.raises(TrustError, match="cut behind entry 2"):
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
    [(b"", MessageError), (b"[]", UsageError), (b'{"log": "audit"}', UsageError)],
)
def test_what_is_no_export_is_refused(document: bytes, error: type[Exception]) -> None:
    with pytest.raises(error, match="audit log"):
        verify([document])


# -- countersigning --------------------------------------------------------------------------------


def head_of(signer: Identity, number: int, hash_: str = "b" * 64) -> LogHead:
    signature = signer.sign("audit-entry", row_statement(number, hash_))
    return LogHead(number=number, hash=hash_, public=signer.public.hex(), signature=signature)


@pytest.mark.parametrize(
    ("what", "head"),
    [("older", head_of(NORTH, 6)), ("forked at the same height", head_of(NORTH, 7, "c" * 64))],
)
def test_an_older_or_forked_head_is_not_countersigned(
    tmp_path: Path, what: str, head: LogHead
) -> None:
    with opened(tmp_path / "c", COORDINATOR) as log:
        for good in (head_of(NORTH, 5), head_of(NORTH, 7), head_of(NORTH, 7)):
            receipt = log.countersign(good)
            receipt.check(COORDINATOR.fingerprint)
            assert (receipt.owner, receipt.number) == (NORTH.fingerprint, good.number)
        with pytest.raises(TrustError, match="cut or forked: entry 7 was seen before"):
            log.countersign(head)
        (kept,) = exported(log, "coordinator")["witnessed"]
        assert (kept["number"], kept["hash"]) == (7, "b" * 64)
        log.countersign(head_of(STRANGER, 1))  # another party's log has a height of its own


def test_a_head_that_its_key_did_not_sign_is_not_countersigned(tmp_path: Path) -> None:
    with opened(tmp_path / "c", COORDINATOR) as log:
        with pytest.raises(TrustError, match="does not match"):
            log.countersign(head_of(NORTH, 7).model_copy(update={"number": 8}))
        assert exported(log, "coordinator")["witnessed"] == []


def test_a_receipt_counts_for_one_log_and_one_signer(tmp_path: Path) -> None:
    with opened(tmp_path / "n") as log:
        assert log.head() is None
        log.append("site-made")
        head = log.head()
        assert head is not None
        good = Receipt.given(COORDINATOR, head)
        refused = [
            (good, STRANGER, "another key"),
            (good.model_copy(update={"hash": "c" * 64}), COORDINATOR, "does not match"),
            (
                Receipt.given(COORDINATOR, head_of(STRANGER, 1, head.hash)),
                COORDINATOR,
                "not in this log",
            ),
            (Receipt.given(COORDINATOR, head_of(NORTH, 1)), COORDINATOR, "not in this log"),
            (Receipt.given(COORDINATOR, head_of(NORTH, 2)), COORDINATOR, "not in this log"),
        ]
        for receipt, signer, words in refused:
            with pytest.raises(TrustError, match=words):
                log.keep_receipt(receipt, signer.fingerprint)
        assert len(list(log.entries())) == 1
        log.keep_receipt(good, COORDINATOR.fingerprint)
        assert check(exported(log, "north"))[0].countersigned == 1


# -- the file --------------------------------------------------------------------------------------


def test_a_log_is_for_its_owner_only_and_goes_on_where_it_was(tmp_path: Path) -> None:
    with opened(tmp_path / "n") as log:
        log.append("site-made")
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    with opened(tmp_path / "n") as log:
        log.append("approved", STUDY, epsilon=0.9)
        log.append("approved", "b" * 64)
        assert [(e.number, e.kind) for e in log.entries(after=1, study=STUDY)] == [(2, "approved")]
        check(exported(log, "north"))


def test_a_log_is_not_opened_with_another_key(tmp_path: Path) -> None:
    with opened(tmp_path / "n") as log:
        log.append("site-made")
    with pytest.raises(TrustError, match="does not match"), opened(tmp_path / "n", STRANGER):
        pass
    with opened(tmp_path / "empty", STRANGER):
        pass  # nobody's yet
    with opened(tmp_path / "empty"):
        pass


def test_a_log_of_a_later_version_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "n") as log:
        log.append("site-made")
    with closing(sqlite3.connect(tmp_path / "n", isolation_level=None)) as raw:
        raw.execute("UPDATE meta SET value = '2' WHERE name = 'schema'")
    with (
        pytest.raises(UsageError, match="audit log schema 2; this version reads 1"),
        opened(tmp_path / "n"),
    ):
        pass


def test_facts_that_are_too_long_are_named_by_their_digest(tmp_path: Path) -> None:
    fits, long = {"x": "y" * (4096 - 8)}, {"x": "y" * (4096 - 7)}
    with opened(tmp_path / "n") as log:
        log.append("report", None, **fits)
        log.append("report", None, **long)
        whole, digest = (entry.facts for entry in log.entries())
        assert whole == fits
        assert digest == {"digest": canonical.digest(canonical.encode(long)), "bytes": 4097}
        check(exported(log, "north"))


def test_each_source_event_is_taken_over_once_and_in_order(tmp_path: Path) -> None:
    outbox: list[Any] = [(n, f"t{n}", "round", STUDY, {"round": n}) for n in range(1, 6)]
    with opened(tmp_path / "c", COORDINATOR) as log:
        assert log.last_source() == 0
        log.append_from(outbox[:3])
        log.append("countersigned-later")  # an entry of the log's own has no source
        log.append_from(outbox[1:])
        log.append_from(outbox)
        assert log.last_source() == 5
        taken = [(e.time, e.facts["round"]) for e in log.entries(study=STUDY)]
        assert taken == [(f"t{n}", n) for n in range(1, 6)]


def test_an_entry_that_fails_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    with opened(tmp_path / "c", COORDINATOR) as log:
        log.append("coordinator-made")
        bad: list[Any] = [(1, "t", "round", None, {}), (2, "t", "round", None, {"x": float("nan")})]
        with pytest.raises(ValueError, match="not JSON compliant"):
            log.append_from(bad)
        assert [entry.number for entry in log.entries()] == [1]
        log.append_from(bad[:1])
        assert [entry.number for entry in log.entries()] == [1, 2]
        check(exported(log, "coordinator"))


# -- a new key -------------------------------------------------------------------------------------


def replaced(path: Path, old: Identity, new: Identity) -> None:
    with opened(path, old) as log:
        log.append("key-replaced", old=old.public.hex(), new=new.public.hex())


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
    assert (found.fingerprint, found.entries, found.countersigned) == (NEXT.fingerprint, 4, 1)
    del after["entries"][1:]
    after["entries"][0]["facts"] = {"another": "past"}
    after["public"] = COORDINATOR.public.hex()
    signed_anew(after, COORDINATOR)
    with pytest.raises(TrustError, match="forked at or before entry 1; north countersigned"):
        check(after, seen)  # what the earlier key signed is held against the log, too


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (COORDINATOR, STRANGER, "entry 2 names another key than the one after it"),
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


def test_a_log_that_was_open_while_its_key_was_replaced_adds_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "c", COORDINATOR) as late:
        late.append("coordinator-made")
        replaced(tmp_path / "c", COORDINATOR, NEXT)
        with pytest.raises(TrustError):
            late.append("invited", hospital="north")


# -- several processes, and one that dies ----------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from flo.audit_log import AuditLog
from flo.identity import Identity
folder, name = Path(sys.argv[1]), sys.argv[2]
log = AuditLog(folder / "n", Identity.read((folder / "identity.key").read_bytes(), "key"))
print("ready", flush=True)
for line in sys.stdin:
    for number in range(int(line)):
        log.append("round", writer=name, number=number)
        log.append_from([(n, "t", "event", None, {}) for n in range(1, number + 2)])
        print(number, flush=True)
"""


@contextmanager
def writer(folder: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    write_private(folder / "identity.key", NORTH.pem())
    command = [sys.executable, "-c", WRITER, str(folder), name]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as child:
        try:
            yield child
        finally:
            child.kill()


def hear(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def say(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line + "\n")


def test_several_processes_keep_one_chain(tmp_path: Path) -> None:
    with (
        writer(tmp_path, "one") as one,
        writer(tmp_path, "two") as two,
        opened(tmp_path / "n") as log,
    ):
        writers = (one, two)
        assert [hear(child) for child in writers] == ["ready", "ready"]
        for child in writers:
            say(child, "20")
        for number in range(20):
            log.append("round", writer="this", number=number)
        for child in writers:
            assert [hear(child) for _ in range(20)] == [str(n) for n in range(20)]
        rounds = [e.facts for e in log.entries() if e.kind == "round"]
        for name in ("one", "two", "this"):
            assert [f["number"] for f in rounds if f["writer"] == name] == list(range(20))
        assert sum(entry.kind == "event" for entry in log.entries()) == 20
        assert check(exported(log, "north"))[0].entries == 80


def test_a_kill_in_the_middle_leaves_an_unbroken_chain(tmp_path: Path) -> None:
    entered = 0
    for kill in range(3):
        with writer(tmp_path, str(kill)) as child:
            assert hear(child) == "ready"
            say(child, "1000000")
            told = [hear(child) for _ in range(7 + kill)]
            child.send_signal(signal.SIGKILL)
            child.wait()
        with opened(tmp_path / "n") as log:
            mine = [e.facts["number"] for e in log.entries() if e.facts.get("writer") == str(kill)]
            assert mine == list(range(len(mine)))
            assert len(mine) >= len(told)  # what was said to be entered is there
            log.append("restarted")
            (found,) = check(exported(log, "north"))
            assert found.entries > entered
            entered = found.entries
