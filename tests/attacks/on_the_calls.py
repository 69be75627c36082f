"""Attacks of an enrolled hospital on the coordinator's calls: bodies, names, signed claims."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

from flo import canonical
from flo.audit_log import LogHead, Receipt
from flo.claims import Head, row_statement
from flo.decisions import Approve, Signed
from flo.identity import Identity
from flo.server.gateway import MAX_SITE_BODY
from tests.attacks.attack import Attack, call, request
from tests.attacks.stage import Stage, status
from tests.company import signed

NOWHERE_TO_GO = "../../etc/passwd"
Body = Callable[[Stage], Any]


def posts(name: str, body: Body) -> Callable[[Stage], Iterable[str]]:
    return lambda stage: [stage.call(name, body(stage))]


def sends(**how: Any) -> Callable[[Stage], Iterable[str]]:
    """A request to ``heads`` with these arguments of ``http.client``."""

    def attack(stage: Stage) -> Iterable[str]:
        port, client = stage.coordinator.port, stage.client("north")
        with stage.coordinator.connection(port, client) as connection:
            connection.request("POST", "/v1/site/heads", **how)
            yield str(connection.getresponse().status)

    return attack


def bomb(stage: Stage) -> Iterable[str]:
    """A gigabyte of spaces in a megabyte, were it ever unpacked."""
    body = gzip.compress(bytes(64 << 20))
    assert len(body) < MAX_SITE_BODY
    headers = {"content-encoding": "gzip"}
    client = stage.client("north")
    answer = stage.coordinator.outside("POST", "/v1/site/heads", client, body=body, headers=headers)
    yield status(answer)


# -- approvals -----------------------------------------------------------------------------------


def approval(stage: Stage, by: str = "north", **changes: Any) -> dict[str, Any]:
    """An approval that ``by`` signed, whoever it names."""
    key = stage.homes[by].identity()
    named = {"study": stage.study.digest, "hospital": by, "time": "now", "head": head(stage, by)}
    return Signed.by(key, Approve.model_validate(named | changes)).model_dump()


def approval_signed_by_another(stage: Stage) -> dict[str, Any]:
    forged = Signed.by(Identity.new(), Approve.model_validate_json(approval(stage)["document"]))
    return forged.model_dump()


def approval_edited_afterwards(stage: Stage) -> dict[str, Any]:
    made = approval(stage)
    return made | {"document": made["document"].replace('"time":"now"', '"time":"then"')}


# -- ledger heads and extracts -------------------------------------------------------------------


def head(stage: Stage, name: str) -> dict[str, Any]:
    with closing(stage.homes[name].ledger()) as ledger:
        return ledger.head().model_dump(mode="json")


def forked_head(stage: Stage) -> dict[str, Any]:
    """Another row of the same number, under north's own signature."""
    sequence = head(stage, "north")["sequence"]
    return {"head": signed(stage.homes["north"].identity(), sequence).model_dump()}


def head_by_a_stranger(stage: Stage) -> dict[str, Any]:
    return {"head": signed(Identity.new(), 99).model_dump()}


def head_of_a_later_row(stage: Stage) -> dict[str, Any]:
    """North's signature under another number than the one it is of."""
    found = head(stage, "north")
    return {"head": found | {"sequence": found["sequence"] + 1}}


def extract(stage: Stage, hospital: str, signer: str) -> dict[str, Any]:
    body = {"hospital": hospital, "study": stage.study.canonical_bytes.decode(), "rows": []}
    signature = stage.homes[signer].identity().sign("extract", canonical.encode(body))
    document = canonical.encode({"body": body, "signature": signature})
    return {"study": stage.study.digest, "extract": document.decode()}


# -- audit logs ----------------------------------------------------------------------------------


def audit_head(stage: Stage) -> LogHead:
    """Of north's log, which was countersigned."""
    with closing(stage.homes["north"].audit_log()) as log:
        found = log.head()
    assert found is not None
    return found


def audit_head_made(identity: Identity, number: int) -> dict[str, Any]:
    """A head of a log that ends otherwise than north's does."""
    signature = identity.sign("audit-entry", row_statement(number, "e" * 64))
    public = identity.public.hex()
    made = LogHead(number=number, hash="e" * 64, signature=signature, public=public)
    return {"head": made.model_dump()}


def forked_audit_head(stage: Stage, shorter: int) -> dict[str, Any]:
    number = countersigned(stage) - shorter
    return audit_head_made(stage.homes["north"].identity(), number)


def countersigned(stage: Stage) -> int:
    """The number of north's last entry that the coordinator has seen."""
    north = stage.homes["north"].identity().fingerprint
    with closing(stage.coordinator.home.audit_log()) as log:
        witnessed = canonical.decode(log.export("it"), limit=1 << 28, what="log")["witnessed"]
    return int(next(h["number"] for h in witnessed if LogHead(**h).fingerprint == north))


def coordinators_head(stage: Stage) -> LogHead:
    with closing(stage.coordinator.home.audit_log()) as log:
        found = log.head()
    assert found is not None
    return found


def receipt_by_a_stranger(stage: Stage) -> dict[str, Any]:
    return {"receipt": Receipt.given(Identity.new(), coordinators_head(stage)).model_dump()}


def receipt_for_nothing(stage: Stage) -> dict[str, Any]:
    """North's receipt for an entry that the coordinator's log does not have."""
    other = coordinators_head(stage).model_copy(update={"hash": "e" * 64})
    return {"receipt": Receipt.given(stage.homes["north"].identity(), other).model_dump()}


ATTACKS = (
    Attack(
        "a body of more than its limit",
        sends(body=bytes(MAX_SITE_BODY + 1)),
        "413",
        request(f"a body of more than {MAX_SITE_BODY} bytes"),
    ),
    Attack(
        "a body in pieces that says no length",
        sends(
            body=iter([bytes(1 << 16)] * 17),
            headers={"transfer-encoding": "chunked"},
            encode_chunked=True,
        ),
        "413",
        request(f"a body of more than {MAX_SITE_BODY} bytes"),
    ),
    Attack("a decompression bomb", bomb, "400", call("request: not valid JSON")),
    Attack(
        "a pickle as a body",
        posts("heads", lambda s: pickle.dumps({"head": None})),
        "400",
        call("request: not valid JSON"),
    ),
    Attack(
        "JSON too deep to read",
        posts("heads", lambda s: b"[" * 500_000),
        "400",
        call("maximum recursion depth"),
    ),
    Attack(
        "NaN where a number stands",
        posts("heads", lambda s: b'{"head":{"sequence":NaN}}'),
        "400",
        call("NaN is not allowed"),
    ),
    Attack(
        "the same key twice",
        posts("heads", lambda s: b'{"head":null,"head":null}'),
        "400",
        call("duplicate key"),
    ),
    Attack(
        "an integer of a million digits",
        posts("heads", lambda s: b'{"head":{"sequence":' + b"9" * 1_000_000 + b"}}"),
        "400",
        call("request: not valid JSON"),
    ),
    Attack(
        "an integer that no database holds",
        posts("heads", lambda s: {"head": head(s, "north") | {"sequence": 10**30}}),
        "400",
        call("head.sequence"),
    ),
    Attack(
        "a field that the schema does not know",
        posts("heads", lambda s: {"head": None, "hospital": "south"}),
        "400",
        call("hospital: Extra inputs"),
    ),
    Attack(
        "a path as a study's digest, for its model",
        posts("models", lambda s: {"study": NOWHERE_TO_GO}),
        "400",
        call("study: String should match"),
    ),
    Attack(
        "a path as a study's digest, with an extract",
        posts("reports", lambda s: {"study": NOWHERE_TO_GO, "extract": "{}"}),
        "400",
        call("study: String should match"),
    ),
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
        "an approval in another hospital's name",
        posts("approvals", lambda s: approval(s, hospital="south")),
        "403",
        call("this approval is in the name of south"),
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
        call("study 000000000000 is not on offer"),
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
        posts("audit", lambda s: audit_head_made(Identity.new(), 99)),
        "403",
        call("this audit-entry is signed by another key"),
    ),
    Attack(
        "an audit log that forked",
        posts("audit", lambda s: forked_audit_head(s, shorter=0)),
        "403",
        call("this audit log was cut or forked"),
    ),
    Attack(
        "an audit log that was cut",
        posts("audit", lambda s: forked_audit_head(s, shorter=1)),
        "403",
        call("this audit log was cut or forked"),
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
        call("a receipt for an audit entry that is not in this log"),
    ),
)
