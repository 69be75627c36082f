"""An audit log is entered once, in order, by its owner only; others sign what it grew by."""

from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flo.audit.chain import ZERO_HASH, Cosigned, LogExtension, Receipt, chained
from flo.documents import canonical
from flo.errors import TrustError, UsageError
from flo.keys.identity import Identity
from flo.storage.files import write_private
from tests.flo.audit_logs import (
    BEGAN,
    COORDINATOR,
    NEXT,
    NORTH,
    STRANGER,
    STUDY,
    check,
    exported,
    head_of,
    meet,
    opened,
    replaced,
)

# -- countersigning --------------------------------------------------------------------------------


def growth_of(signer: Identity, number: int, after: int = 0, story: str = "a") -> LogExtension:
    """What a log with this story shows at this height."""
    digests = [canonical.digest(f"{story}{n}".encode()) for n in range(1, number + 1)]
    hash_ = ZERO_HASH
    for digest in digests:
        hash_ = chained(hash_, digest)
    head = head_of(signer, number, hash_)
    return LogExtension(head=head, after=after, digests=tuple(digests[after:]))


SEEN = growth_of(NORTH, 7, after=5)
SHORT = growth_of(NORTH, 9, after=7)
SKIPPED = chained(SEEN.head.hash, SHORT.digests[1])  # entry 9 straight behind entry 7


@pytest.mark.parametrize(
    ("what", "growth"),
    [
        ("older", growth_of(NORTH, 6)),
        ("forked at the same height", growth_of(NORTH, 7, story="b")),
        ("forked and longer", growth_of(NORTH, 9, after=7, story="b")),
        ("forked, told from its birth", growth_of(NORTH, 9, story="b")),
        ("a gap", growth_of(NORTH, 9, after=8)),
        ("a digest left out", SHORT.model_copy(update={"digests": SHORT.digests[1:]})),
        ("a digest too many", SHORT.model_copy(update={"digests": SHORT.digests * 2})),
        (
            "more entries than digests",
            SHORT.model_copy(update={"head": head_of(NORTH, 20, SHORT.head.hash)}),
        ),
        (
            "an entry left out",
            LogExtension(head=head_of(NORTH, 9, SKIPPED), after=8, digests=SHORT.digests[1:]),
        ),
        ("no digests", SHORT.model_copy(update={"digests": ()})),
    ],
)
def test_what_did_not_grow_out_of_the_head_that_was_seen_is_not_countersigned(
    tmp_path: Path, what: str, growth: LogExtension
) -> None:
    with opened(tmp_path / "c", COORDINATOR) as log:
        for good in (growth_of(NORTH, 5), growth_of(NORTH, 7), SEEN, SEEN):
            receipt = log.cosign(good)
            receipt.check(COORDINATOR.fingerprint)
            assert (receipt.owner, receipt.number) == (NORTH.fingerprint, good.head.number)
        with pytest.raises(TrustError, match="truncated or forked: entry 7 was seen with hash"):
            log.cosign(growth)
        assert log.witnessed() == [SEEN.head]
        log.cosign(growth_of(STRANGER, 1))  # another party's log has a height of its own
        log.cosign(SHORT)


def test_a_log_is_seen_from_its_birth_on(tmp_path: Path) -> None:
    with opened(tmp_path / "c", COORDINATOR) as log:
        with pytest.raises(TrustError, match="truncated or forked"):
            log.cosign(growth_of(NORTH, 7, after=3))
        assert log.witnessed() == []


def test_a_log_under_a_new_key_grows_out_of_what_the_earlier_one_signed(tmp_path: Path) -> None:
    later = growth_of(NEXT, 9, after=7)
    with opened(tmp_path / "c", COORDINATOR) as log:
        log.cosign(growth_of(NORTH, 7))
        for earlier in ((), {STRANGER.fingerprint}):
            with pytest.raises(TrustError, match="truncated or forked"):
                log.cosign(later, earlier)
        with pytest.raises(TrustError, match="truncated or forked: entry 7"):
            log.cosign(growth_of(NEXT, 9, after=7, story="b"), {NORTH.fingerprint})
        log.cosign(later, {NORTH.fingerprint})


def test_a_head_that_its_key_did_not_sign_is_not_countersigned(tmp_path: Path) -> None:
    good = growth_of(NORTH, 7)
    for changes in ({"number": 8}, {"hash": "c" * 64}, {"public": STRANGER.public.hex()}):
        forged = good.model_copy(update={"head": good.head.model_copy(update=changes)})
        with opened(tmp_path / "c", COORDINATOR) as log:
            with pytest.raises(TrustError, match="does not match"):
                log.cosign(forged)
            assert log.witnessed() == []


def test_a_receipt_counts_for_one_log_and_one_signer(tmp_path: Path) -> None:
    with opened(tmp_path / "n") as log:
        assert log.growth({COORDINATOR.fingerprint}) is None
        log.append("site-made")
        growth = log.growth({COORDINATOR.fingerprint})
        assert growth is not None
        head = growth.head
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
        assert log.receipts() == []
        log.keep_receipt(good, COORDINATOR.fingerprint)
        assert log.receipts() == [good]
        assert len(list(log.entries())) == 1
        found = check(exported(log, "north"))[0].countersigned
        assert found == (Cosigned(COORDINATOR.fingerprint, None, 1),)


def test_a_receipt_for_what_an_earlier_key_signed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flo.audit.log.MOST_DIGESTS", 2)
    with opened(tmp_path / "c", COORDINATOR) as log:
        for kind in ("coordinator-made", "invited", "enrolled"):
            log.append(kind)
    replaced(tmp_path / "c", COORDINATOR, NEXT)
    owners = {COORDINATOR.fingerprint, NEXT.fingerprint}
    with opened(tmp_path / "c", NEXT) as log, opened(tmp_path / "n") as site:
        log.append("key-in-use")
        seen = []
        while (growth := log.growth({NORTH.fingerprint})) is not None:
            seen.append((growth.head.fingerprint == NEXT.fingerprint, growth.head.number))
            log.keep_receipt(site.cosign(growth, owners), NORTH.fingerprint)
        assert seen == [(False, 2), (False, 4), (True, 5)]
        (found,) = check(exported(log, "coordinator"))
        assert found.countersigned == (Cosigned(NORTH.fingerprint, None, 5),)


def test_the_latest_receipt_is_kept(tmp_path: Path) -> None:
    with opened(tmp_path / "n") as log:
        receipts = []
        for kind in ("site-made", "approved"):
            log.append(kind)
            growth = log.growth({COORDINATOR.fingerprint})
            assert growth is not None
            receipts.append(Receipt.given(COORDINATOR, growth.head))
        for receipt in reversed(receipts):
            log.keep_receipt(receipt, COORDINATOR.fingerprint)
        assert log.receipts() == receipts[1:]


def test_a_log_shows_what_was_added_since_the_last_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flo.audit.log.MOST_DIGESTS", 3)
    them = {COORDINATOR.fingerprint}
    with opened(tmp_path / "n") as log, opened(tmp_path / "c", COORDINATOR) as coordinator:
        for number in range(7):
            log.append("round", number=number)
        shown = []
        while (growth := log.growth(them)) is not None:
            shown.append((growth.after, growth.head.number, len(growth.digests)))
            log.keep_receipt(coordinator.cosign(growth), COORDINATOR.fingerprint)
        assert shown == [(0, 3, 3), (3, 6, 3), (6, 7, 1)]
        alone = log.growth({STRANGER.fingerprint})
        assert alone is not None
        assert (alone.after, alone.head.number) == (0, 3)


def test_a_log_that_was_cut_and_went_on_shows_itself_to_whoever_saw_more(tmp_path: Path) -> None:
    with opened(tmp_path / "n") as log, opened(tmp_path / "c", COORDINATOR) as coordinator:
        for kind in ("site-made", "approved", "withdrawn"):
            log.append(kind)
        coordinator.append("coordinator-made")
        meet(log, coordinator)
        with closing(sqlite3.connect(tmp_path / "n", isolation_level=None)) as raw:
            raw.execute("DELETE FROM entries WHERE number > 1")
        for kind in ("refused", "left"):
            log.append(kind)
        growth = log.growth({COORDINATOR.fingerprint})
        assert growth is not None
        assert growth.after == 0
        with pytest.raises(TrustError, match="truncated or forked: entry 3 was seen with hash"):
            coordinator.cosign(growth)


# -- the file --------------------------------------------------------------------------------------


def test_a_log_is_for_its_owner_only_and_goes_on_where_it_was(tmp_path: Path) -> None:
    with opened(tmp_path / "n") as log:
        log.append("site-made")
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    with opened(tmp_path / "n") as log:
        log.append("approved", STUDY, epsilon=0.9)
        log.append("approved", "b" * 64)
        assert [(e.number, e.kind) for e in log.latest(9, study=STUDY)[0]] == [(2, "approved")]
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
    fits, long = {"x": "y" * (16_384 - 8)}, {"x": "y" * (16_384 - 7)}
    with opened(tmp_path / "n") as log:
        log.append("report", None, **fits)
        log.append("report", None, **long)
        whole, digest = (entry.facts for entry in log.entries())
        assert whole == fits
        assert digest == {"digest": canonical.digest(canonical.encode(long)), "bytes": 16_385}
        check(exported(log, "north"))


def at(second: int) -> str:
    return (BEGAN + timedelta(seconds=second)).isoformat()


def test_each_source_event_is_taken_over_once_and_in_order(tmp_path: Path) -> None:
    outbox: list[Any] = [(n, at(n), "round", STUDY, {"round": n}) for n in range(1, 6)]
    with opened(tmp_path / "c", COORDINATOR) as log:
        assert log.last_source() == 0
        log.append_from(outbox[:3])
        log.append("countersigned-later")  # an entry of the log's own has no source
        log.append_from(outbox[1:])
        log.append_from(outbox)
        assert log.last_source() == 5
        taken = [(e.time, e.facts["round"]) for e in log.entries() if e.study == STUDY]
        assert taken == [(at(n), n) for n in range(1, 6)]


def test_an_entry_that_fails_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    with opened(tmp_path / "c", COORDINATOR) as log:
        log.append("coordinator-made")
        bad: list[Any] = [
            (1, at(1), "round", None, {}),
            (2, at(2), "round", None, {"x": float("nan")}),
        ]
        with pytest.raises(ValueError, match="not JSON compliant"):
            log.append_from(bad)
        assert [entry.number for entry in log.entries()] == [1]
        log.append_from(bad[:1])
        assert [entry.number for entry in log.entries()] == [1, 2]
        check(exported(log, "coordinator"))


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
from flo.audit.log import AuditLog
from flo.keys.identity import Identity
folder, name = Path(sys.argv[1]), sys.argv[2]
log = AuditLog(folder / "n", Identity.read((folder / "identity.key").read_bytes(), "key"))
print("ready", flush=True)
for line in sys.stdin:
    for number in range(int(line)):
        log.append("round", writer=name, number=number)
        time = "2026-11-24T12:00:00"
        log.append_from([(n, time, "event", None, {}) for n in range(1, number + 2)])
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


@pytest.mark.processes
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


@pytest.mark.processes
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
