"""Copies of the audit log, where nobody can remove them."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import pytest

from flo.documents.canonical import Bytes
from flo.errors import NetworkError, TrustError
from flo.infra.aws.sagemaker import audit_store
from flo.server.audit.copies import AuditCopies
from flo.storage.artifacts import LocalArtifacts
from tests.commands import flo_process
from tests.infra.aws.account import account, home_with
from tests.infra.aws.emulated import Aws
from tests.server.real_coordinator import RealCoordinator, served


@pytest.mark.slow
def test_a_coordinator_copies_its_audit_log_to_where_nobody_removes_it(
    aws: Aws, tmp_path: Path
) -> None:
    locked = aws.new_bucket(f"flo-{secrets.token_hex(6)}", lock=True)
    config = account(aws).model_copy(update={"audit_bucket": locked, "audit_key": aws.new_key()})
    home = home_with(config, tmp_path / "coordinator")
    with served(RealCoordinator(home)):
        store = audit_store(config)
        assert store is not None
        end = time.monotonic() + 20
        while not (found := store.keys("audit/")) and time.monotonic() < end:
            time.sleep(0.1)
    (key,) = found
    copy = tmp_path / "copy.json"
    copy.write_bytes(store.get(key, 1 << 24))
    assert flo_process("audit", "verify", copy).returncode == 0
    with pytest.raises(TrustError):
        store.remove(key)
    head = aws.client("s3").head_object(Bucket=locked, Key=key)
    assert head["ObjectLockRetainUntilDate"].year >= head["LastModified"].year + 6


def test_a_store_that_does_not_answer_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, bytes] = {}
    answers = iter([False, True])

    class Store(LocalArtifacts):
        def __init__(self) -> None:
            """Nothing on a disk."""

        def put(self, key: str, *data: Bytes) -> None:
            if not next(answers):
                raise NetworkError("no answer")
            kept[key] = b"".join(data)

    copies = AuditCopies(Store(), lambda: b"the log", lambda: 7)
    copies.copy_if_due()
    assert not kept
    assert copies.failed == 1
    copies.copy_if_due()  # not due: a minute has not passed
    monkeypatch.setattr(copies, "_due", 0.0)
    copies.copy_if_due()
    assert list(kept.values()) == [b"the log"]
    assert next(iter(kept)).split("/")[-1].startswith("0000000007-")
    monkeypatch.setattr(copies, "_due", 0.0)
    copies.copy_if_due()  # it has not grown
    assert len(kept) == 1
