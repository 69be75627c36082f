"""Attacks of an enrolled hospital with what is signed: approvals, heads, extracts, receipts."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import Any

from flo.audit.chain import ZERO_HASH, LogExtension, LogHead, Receipt, chained
from flo.documents import canonical
from flo.keys.claims import row_statement
from flo.keys.identity import Identity
from flo.protocol.decisions import Approve, Signed
from tests.attacks.attack import Attack, call
from tests.attacks.on_the_bodies import posts
from tests.attacks.stage import Stage
from tests.partners import signed

# -- approvals -----------------------------------------------------------------------------------


def approval(stage: Stage, by: str = "north", **changes: Any) -> dict[str, Any]:
    """An approval that ``by`` signed, whoever it names."""
    key = stage.homes[by].open_identity()
    named = {"study": stage.study.digest, "hospital": by, "time": "now", "head": head(stage, by)}
    return Signed.by(key, Approve.model_validate(named | changes)).model_dump()


def approval_signed_by_another(stage: Stage) -> dict[str, Any]:
    forged = Signed.by(Identity.new(), Approve.model_validate_json(approval(stage)["document"]))
    return forged.model_dump()


def approval_edited_afterwards(stage: Stage) -> dict[str, Any]:
    made = approval(stage)
    return made | {"document": made["document"].replace('"time":"now"', '"time":"then"')}


def withdrawn_approval(stage: Stage) -> Iterable[str]:
    """West's own approval, from before its withdrawal."""
    yield stage.call("approvals", stage.withdrawn, stage.client("west"))


# -- ledger heads and extracts -------------------------------------------------------------------


def head(stage: Stage, name: str) -> dict[str, Any]:
    with closing(stage.homes[name].open_ledger()) as ledger:
        return ledger.head().model_dump(mode="json")


def forked_head(stage: Stage) -> dict[str, Any]:
    """Another row of the same number, under north's own signature."""
    sequence = head(stage, "north")["sequence"]
    return {"head": signed(stage.homes["north"].open_identity(), sequence).model_dump()}


def head_by_a_stranger(stage: Stage) -> dict[str, Any]:
    return {"head": signed(Identity.new(), 99).model_dump()}


def head_of_a_later_row(stage: Stage) -> dict[str, Any]:
    """North's signature under another number than the one it is of."""
    found = head(stage, "north")
    return {"head": found | {"sequence": found["sequence"] + 1}}


def extract(stage: Stage, hospital: str, signer: str) -> dict[str, Any]:
    body = {"hospital": hospital, "study": stage.study.canonical_bytes.decode(), "rows": []}
    signature = stage.homes[signer].open_identity().sign("extract", canonical.encode(body))
    document = canonical.encode({"body": body, "signature": signature})
    return {"study": stage.study.digest, "extract": document.decode()}


# -- audit logs ----------------------------------------------------------------------------------


def audit_log(identity: Identity, entries: int) -> dict[str, Any]:
    """What a log shows that ``identity`` made up from its first entry on."""
    digests, hash_ = ("d" * 64,) * entries, ZERO_HASH
    for digest in digests:
        hash_ = chained(hash_, digest)
    signature = identity.sign("audit-entry", row_statement(entries, hash_))
    head = LogHead(number=entries, hash=hash_, signature=signature, public=identity.public.hex())
    return {"growth": LogExtension(head=head, after=0, digests=digests).model_dump()}


def north(stage: Stage) -> Identity:
    return stage.homes["north"].open_identity()


def countersigned(stage: Stage) -> int:
    """The number of north's last entry that the coordinator has seen."""
    with closing(stage.coordinator.home.open_audit_log()) as log:
        seen = {head.fingerprint: head.number for head in log.witnessed()}
    return seen[north(stage).fingerprint]


def coordinators_head(stage: Stage) -> LogHead:
    with closing(stage.coordinator.home.open_audit_log()) as log:
        growth = log.growth(())
    assert growth is not None
    return growth.head


def receipt_by_a_stranger(stage: Stage) -> dict[str, Any]:
    return {"receipt": Receipt.given(Identity.new(), coordinators_head(stage)).model_dump()}


def receipt_for_nothing(stage: Stage) -> dict[str, Any]:
    """North's receipt for an entry that the coordinator's log does not have."""
    other = coordinators_head(stage).model_copy(update={"hash": "e" * 64})
    return {"receipt": Receipt.given(north(stage), other).model_dump()}


ATTACKS = (
    Attack(
        "an approval signed by another key",
        posts("approvals", approval_signed_by_another),
        "403",
        call("the signature of this approval does not match"),
    ),
    Attack(
        "an approval edited after it was signed",
        posts("approvals", approval_edited_afterwards),
        "403",
        call("the signature of this approval does not match"),
    ),
    Attack(
        "an approval replayed after its withdrawal",
        withdrawn_approval,
        "403",
        call("older than a refusal or withdrawal"),
    ),
    Attack(
        "an approval in another hospital's name",
        posts("approvals", lambda s: approval(s, hospital="south")),
        "403",
        call("this decision is in the name of south"),
    ),
    Attack(
        "another hospital's own approval",
        posts("approvals", lambda s: approval(s, by="south")),
        "403",
        call("the signature of this approval does not match"),
    ),
    Attack(
        "an approval of an edited study",
        posts("approvals", lambda s: approval(s, study="0" * 64)),
        "400",
        call("study 000000000000 is unknown, or is over"),
    ),
    Attack(
        "a ledger head signed by another key",
        posts("heads", head_by_a_stranger),
        "403",
        call("this ledger-row is signed by another key"),
    ),
    Attack(
        "another hospital's ledger head",
        posts("heads", lambda s: {"head": head(s, "south")}),
        "403",
        call("this ledger-row is signed by another key"),
    ),
    Attack(
        "a ledger head moved to a later row",
        posts("heads", head_of_a_later_row),
        "403",
        call("the signature of this ledger-row does not match"),
    ),
    Attack(
        "a ledger that forked",
        posts("heads", forked_head),
        "403",
        call("the ledger of north forked at row"),
    ),
    Attack(
        "another hospital's extract",
        posts("reports", lambda s: extract(s, "south", signer="south")),
        "403",
        call("the signature of this extract does not match"),
    ),
    Attack(
        "an extract in another hospital's name",
        posts("reports", lambda s: extract(s, "south", signer="north")),
        "400",
        call("this extract is of another hospital or study"),
    ),
    Attack(
        "a study's model for a hospital that it does not name",
        lambda s: [s.call("models", {"study": s.study.digest}, s.client("renewed"))],
        "400",
        call("renewed"),
    ),
    Attack(
        "an audit log's head signed by another key",
        posts("audit", lambda s: audit_log(Identity.new(), 9)),
        "403",
        call("this audit-entry is signed by another key"),
    ),
    Attack(
        "an audit log that forked",
        posts("audit", lambda s: audit_log(north(s), countersigned(s) + 1)),
        "403",
        call("this audit log was truncated or forked"),
    ),
    Attack(
        "an audit log that was cut",
        posts("audit", lambda s: audit_log(north(s), countersigned(s) - 1)),
        "403",
        call("this audit log was truncated or forked"),
    ),
    Attack(
        "a receipt signed by another key",
        posts("audit", receipt_by_a_stranger),
        "403",
        call("this audit-receipt is signed by another key"),
    ),
    Attack(
        "a receipt for an entry that is not in the log",
        posts("audit", receipt_for_nothing),
        "403",
        call("the receipt is for an audit entry that is not in this log"),
    ),
)
