"""What the coordinator does with a steward's no: forged ones change nothing, true ones count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from flo.audit.log import AuditLog
from flo.documents import canonical
from flo.errors import MessageError, StudyError, TrustError
from flo.keys.claims import row_statement
from flo.keys.identity import Identity
from flo.keys.rotation import KeyRotation
from flo.server.api.site_api import SiteApi
from flo.server.audit.rate_limited import RateLimitedAudit
from flo.server.keys.authority import Authority, Peer
from flo.server.store.store import Store
from flo.study.document import Study
from tests.builders import small_study
from tests.partners import partner

NORTH = partner("north")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "coordinator.sqlite")
    yield made
    made.close()


@pytest.fixture
def study(store: Store) -> Study:
    prints = {h.id: partner(h.id).fingerprint for h in small_study().hospitals}
    complete = small_study().with_fingerprints(prints)
    store.add_study(complete, "00")
    return complete


def decided(study: Study, decision: str, sequence: int, /, **changes: Any) -> dict[str, Any]:
    row = "c" * 64
    head = {
        "sequence": sequence,
        "hash": row,
        "signature": NORTH.sign("ledger-row", row_statement(sequence, row)),
        "public": NORTH.public.hex(),
    }
    extra: dict[str, Any] = {"reason": "A partner left."}
    if decision == "approve":
        extra = {"unconfirmed": [], "charged": "as-designed"}
    return {
        "schema_version": 2,
        "decision": decision,
        "study": study.digest,
        "hospital": "north",
        "role": "steward",
        "time": "2026-11-24T12:00:00+00:00",
        "head": head,
        **extra,
        **changes,
    }


def send(store: Store, document: dict[str, Any], signer: Identity = NORTH) -> None:
    nothing = KeyRotation(steps=())
    api = SiteApi(
        store,
        cast(Authority, None),
        Identity.new(),
        cast(AuditLog, None),
        nothing,
        lambda member: None,
        RateLimitedAudit(store),
    )
    peer = Peer("north", "site", "1", NORTH.public)
    data = canonical.encode(document)
    body = {"document": data.decode(), "signature": signer.sign("approval", data)}
    api.call("/v1/site/approvals", peer, canonical.encode(body))


def events(store: Store, study: Study) -> list[tuple[str, Any]]:
    return [(event["kind"], event["facts"]) for event in store.events(study.digest)]


@pytest.mark.parametrize("decision", ["refuse", "withdraw"])
def test_a_no_takes_the_approval_away_and_is_told_with_its_reason(
    store: Store, study: Study, decision: str
) -> None:
    send(store, decided(study, "approve", 1))
    assert store.approvals(study.digest) == ["north"]
    send(store, decided(study, decision, 2))
    assert store.approvals(study.digest) == []
    facts = {"hospital": "north", "decision": decision, "reason": "A partner left."}
    assert events(store, study)[-1] == ("declined", facts)


def test_an_approval_after_a_refusal_counts(store: Store, study: Study) -> None:
    send(store, decided(study, "refuse", 1))
    send(store, decided(study, "approve", 2))
    assert store.approvals(study.digest) == ["north"]


@pytest.mark.parametrize(
    ("changes", "signer", "error"),
    [
        ({}, Identity.new(), TrustError),
        ({"hospital": "south"}, NORTH, TrustError),
        ({"study": "a" * 64}, NORTH, StudyError),
        ({"decision": "perhaps"}, NORTH, MessageError),
        ({"reason": ""}, NORTH, MessageError),
        ({"reason": "x" * 501}, NORTH, MessageError),
        ({"unconfirmed": []}, NORTH, MessageError),
        ({"schema_version": 1}, NORTH, MessageError),
    ],
    ids=["forged", "anothers", "unknown study", "no decision", "no reason", "long", "both", "old"],
)
def test_a_false_no_changes_nothing(
    store: Store, study: Study, changes: dict[str, Any], signer: Identity, error: type[Exception]
) -> None:
    send(store, decided(study, "approve", 1))
    before = events(store, study)
    with pytest.raises(error):
        send(store, decided(study, "withdraw", 2, **changes), signer)
    assert store.approvals(study.digest) == ["north"]
    assert events(store, study) == before
