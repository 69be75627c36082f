"""Every field of every message that a site can send stands in ``ACCOUNTED``, with its reason.

A site lives through all that it can do, and what it says on the way is taken apart. A field that
nobody has accounted for fails. Flower's own headers (version, public key, timestamp, signature of
it) are Flower's.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography import x509

import flo.clients
from flo.privacy.ledger.ledger import Ledger
from flo.protocol.messages import RefusalCode, ReplyHeader, decode_reply
from tests.builders import CountingReleaser
from tests.clients.real_partners import RealCompany
from tests.clients.site_lifecycle import WholeLife

PUBLIC = "public: the coordinator said it or knows it"
CHARGED = "a release, charged"
DIGEST = "digest of a release that was charged"
HEAD = "signed head: number of rows and their hash"
KEY = "a public key, or a signature by it"
CHAIN = "the ledger's chain; commitments are salted"
COST = "mechanism and counts of releases: what was charged"
PARTICIPATION = "not protected: participation and its time"
SETTING = "the site's own public setting"
LOG = "signed head of the audit log: number of entries and their hash"
SOFTWARE = "the software, the same for every patient"

HEADS = {"sequence": HEAD, "hash": HEAD, "signature": KEY, "public": KEY}
ROW = "reports.extract.body.rows[]"
ACCOUNTED = {
    # An answer to a request.
    "reply.kind": PUBLIC,
    "reply.hospital": PUBLIC,
    "reply.study": PUBLIC,
    "reply.run": PUBLIC,
    "reply.purpose": PUBLIC,
    "reply.round": PUBLIC,
    "reply.attempt": PUBLIC,
    "reply.model": PUBLIC,
    **{f"reply.head.{name}": why for name, why in HEADS.items()},
    "reply.code": "one of the public codes below",
    "reply.cohort": PUBLIC,
    "reply.ring": PUBLIC,
    "reply.bits": "whether the noisy numbers that are sent fit 32 bits: it follows from them",
    "reply.key": "null: no key is asked for",
    **{f"reply.key.{name}": KEY for name in ("key", "deals", "public", "signature")},
    "reply.key.epoch": "not protected: when the agent made the key, in milliseconds",
    "reply.vouchers": "nothing is vouched for",
    **{f"reply.vouchers.*.{name}": KEY for name in ("hospital", "key", "public", "signature")},
    "reply.vouchers.*.head": "null: nothing was seen of that partner",
    **{f"reply.vouchers.*.head.{name}": "a partner's head" for name in HEADS},
    "reply.deal": "null: sums of this study survive no dropout, or no deal is due",
    "reply.deal.sealed": "none: no partner's key is known",
    "reply.deal.sealed.*": "random shares, encrypted for a partner",
    "reply.deal.commitments[]": "hashes of random seeds",
    **{f"reply.deal.{name}": KEY for name in ("key", "signature")},
    "reply.deal.number": PUBLIC,
    "reply.deal.checks.*": "hashes of random shares",
    "reply.signature": "null: no list is signed",
    **{f"reply.signature.{name}": KEY for name in ("public", "signature")},
    "reply.shares": "none: nothing is revealed",
    "reply.shares.*": "of random secrets that hide releases, each charged when it was sent",
    "reply values": CHARGED,
    # Calls of the site's own.
    "enrol.request": "a key and the hospital's id, signed",
    "enrol.coordinator": PUBLIC,
    "renew.request": "a key and the hospital's id, signed",
    "leave": "nothing is said",
    "roster.statement": "null: only asked",
    "roster.known": "digest of what the coordinator sent before",
    "roster.statement.number": "not protected: when the steward confirmed, in milliseconds",
    "roster.statement.hospital": PUBLIC,
    "roster.statement.roster": PUBLIC,
    "roster.statement.confirmed[]": "not protected: whose key the steward has confirmed",
    "roster.statement.public": KEY,
    "roster.statement.signature": KEY,
    "keys": "nothing is said",
    "software": "nothing is said",
    **{f"audit.growth.head.{name}": LOG for name in ("number", "hash", "public", "signature")},
    "audit.growth": "nothing, where the coordinator has seen all of it",
    "audit.growth.after": "up to where the coordinator has seen it before",
    "audit.growth.digests[]": "salted digests of entries, which stay here",
    **{
        f"audit.receipt.{name}": "that the coordinator's own head was seen"
        for name in ("owner", "number", "hash", "public", "signature")
    },
    "studies": "nothing is said",
    "models.study": PUBLIC,
    "states.known": "a digest of what the coordinator decided and sent",
    "monitor.card": "a version that the coordinator decided on",
    "monitor.known[]": "periods whose results the coordinator published",
    "given.after": PUBLIC,
    "heads.head": "null: only asked",
    **{f"heads.head.{name}": why for name, why in HEADS.items()},
    "approvals.document.schema_version": PUBLIC,
    "approvals.document.decision": "not protected: a steward's yes or no",
    "approvals.document.reason": "the steward's own words for the coordinator",
    "approvals.document.study": PUBLIC,
    "approvals.document.hospital": PUBLIC,
    "approvals.document.role": PUBLIC,
    "approvals.document.time": PARTICIPATION,
    "approvals.document.unconfirmed[]": "not protected: whose key the steward has not compared",
    "approvals.document.population": "the site's own name for a group of patients, as in its rows",
    "approvals.document.charged": COST,
    "approvals.document.code": SOFTWARE,
    "approvals.document.policy": "digest of the site's own policy",
    **{
        f"approvals.document.people[].{name}": "who said yes, as the hospital names them"
        for name in ("name", "role", "time", "terms", "public", "signature")
    },
    **{f"approvals.document.head.{name}": why for name, why in HEADS.items()},
    "approvals.signature": KEY,
    # The extract of a study.
    "reports.study": PUBLIC,
    "reports.extract.signature": KEY,
    "reports.extract.body.schema_version": PUBLIC,
    "reports.extract.body.hospital": PUBLIC,
    "reports.extract.body.study": PUBLIC,
    "reports.extract.body.study_signature": PUBLIC,
    "reports.extract.body.coordinator": PUBLIC,
    "reports.extract.body.decision": "not protected: a steward's yes, sent before",
    "reports.extract.body.decision_signature": KEY,
    "reports.extract.body.reservation": CHAIN,
    "reports.extract.body.population": SETTING,
    "reports.extract.body.made": PARTICIPATION,
    "reports.extract.body.public": KEY,
    **{f"reports.extract.body.witnessed.*.{name}": "a partner's head" for name in HEADS},
    **{
        f"reports.extract.body.software.{name}": SOFTWARE
        for name in (
            "flo",
            "python",
            "torch",
            "opacus",
            "dp-accounting",
            "numpy",
            "scipy",
            "cryptography",
            "flwr",
            "code_digest",
            "environment_digest",
            "confinement",
        )
    },
    f"{ROW}.sequence": CHAIN,
    f"{ROW}.hash": CHAIN,
    f"{ROW}.commitment": CHAIN,
    f"{ROW}.signature": KEY,
    f"{ROW}.salt": "null, or opens a row of this study",
    f"{ROW}.private": "null: a birth, a settlement, or a row of another study",
    f"{ROW}.public.kind": COST,
    f"{ROW}.public.time": PARTICIPATION,
    f"{ROW}.public.population": SETTING,
    f"{ROW}.public.epsilon": SETTING,
    f"{ROW}.public.delta": SETTING,
    f"{ROW}.public.order": SETTING,
    f"{ROW}.public.renyi": SETTING,
    f"{ROW}.public.declared_size": "the site's own public, rounded number",
    f"{ROW}.public.hold_out": SETTING,
    f"{ROW}.public.reservation": COST,
    f"{ROW}.public.purpose": COST,
    f"{ROW}.public.of": COST,
    f"{ROW}.public.reply": DIGEST,
    f"{ROW}.public.parts.*.releases": COST,
    **{
        f"{ROW}.public.generations.{side}[]": "earlier approvals' row numbers, from costs only"
        for side in ("training", "evaluation")
    },
    f"{ROW}.public.born": "salted digest, also where nobody is new; the salt stays",
    **{
        f"{ROW}.public{place}.mechanism.{name}": COST
        for place in ("", ".parts.*")
        for name in ("kind", "length", "noise_multiplier", "clip", "sampling", "groups")
    },
    f"{ROW}.private.study": PUBLIC,
    f"{ROW}.private.name": PUBLIC,
    f"{ROW}.private.version": PUBLIC,
    f"{ROW}.private.run": PUBLIC,
    f"{ROW}.private.round": PUBLIC,
    f"{ROW}.private.attempt": PUBLIC,
    f"{ROW}.private.model": PUBLIC,
    f"{ROW}.private.cohort": PUBLIC,
    f"{ROW}.private.request": PUBLIC,
    f"{ROW}.private.reply": DIGEST,
    f"{ROW}.private.sent": DIGEST,
}
CODES = {
    "not-ready": "one code for whatever keeps a site from answering",
    "not-approved": "not protected: a steward's yes or no",
    "over-budget": "follows from the releases so far",
    "settled": "follows from what the coordinator said",
    "conflict": "follows from what the coordinator said",
    "malformed": "follows from what the coordinator said",
    "rolled-back": "follows from the heads that were relayed",
    "stale-key": "follows from the keys that were relayed; not protected: the agent started anew",
    "unconfirmed": "follows from the vouchers that were relayed",
}
FLEET = {
    "ActivateNodeRequest": {"public_key", "heartbeat_interval"},
    "DeactivateNodeRequest": {"node_id"},
    "PullMessagesRequest": {"node"},
    "ConfirmMessageReceivedRequest": {"node", "run_id", "message_object_id"},
    "PushMessagesRequest": {
        "node",
        "messages_list",
        "message_object_trees",
        "clientapp_runtime_list",  # always [0.0]
    },
    "PushObjectRequest": {"node", "run_id", "object_id", "object_content"},  # and Flower's session
    "PullObjectRequest": {"node", "run_id", "object_id"},
    "SendNodeHeartbeatRequest": {"node", "heartbeat_interval"},
}
KEYED_BY_NAME = (
    "witnessed",
    "parts",
    "vouchers",
    "checks",
    "sealed",
    "shares",
)  # their keys are hospitals and purposes
WRITTEN_IN_TEXT = ("approvals.document", "reports.extract")


def fields(value: Any, place: str) -> Iterator[str]:
    """Names of all fields below ``place``, lists and keyed tables taken together."""
    if place in WRITTEN_IN_TEXT:
        value = json.loads(value)
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            name = "*" if place.rsplit(".", 1)[-1] in KEYED_BY_NAME else key
            yield from fields(inner, f"{place}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner, f"{place}[]")
    else:
        yield place


def said_by(life: WholeLife) -> set[str]:
    """Every field of everything that was said."""
    found = {field for name, body in life.said for field in fields(body, name)}
    for data in life.replies:
        reply = decode_reply(data)
        found |= set(fields(reply.header.model_dump(mode="json"), "reply"))
        found |= {"reply values"} if reply.values.size else set()
    return found


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> WholeLife:
    with pytest.MonkeyPatch.context() as monkeypatch:
        lived = WholeLife(tmp_path_factory.mktemp("life"), monkeypatch)
        lived.live()
    lived.replies += opened_sum(tmp_path_factory.mktemp("company"))
    return lived


def opened_sum(folder: Path) -> list[bytes]:
    """What four hospitals reply until the sum of three of them can be opened."""
    names = ("east", "north", "south", "west")
    one = RealCompany.of(
        folder, names, lambda *_: CountingReleaser(6), schema_version=4, mechanism={"dropouts": 1}
    )
    company = next(one)  # its ledgers are closed with it
    asked = company.header()
    company.ask_all(asked)
    signatures = {}
    for name in names[:3]:
        reply = company.say(name, company.listed(asked, *names[:3])).header
        assert reply.signature is not None
        signatures[name] = reply.signature
    revealed = company.listed(asked, *names[:3], kind="reveal", signatures=signatures)
    assert company.say("north", revealed).header.shares
    return company.replies


# -- what it said ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_field_that_a_site_sends_is_accounted_for(life: WholeLife) -> None:
    found = said_by(life)
    assert found - set(ACCOUNTED) == set(), "a new field: say why it may leave, or do not send it"
    assert set(ACCOUNTED) - found == set(), "accounted for, and never sent"
    kinds = {decode_reply(data).header.kind for data in life.replies}
    assert kinds == {"joined", "release", "signed", "revealed", "settled", "refused"}


@pytest.mark.slow
def test_every_call_in_the_source_was_made_here(life: WholeLife) -> None:
    named = set()
    for path in Path(flo.clients.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "call":
                assert isinstance(node.args[0], ast.Constant), f"{path.name}:{node.lineno}"
                named.add(node.args[0].value)
    assert named == {name for name, _ in life.said}


@pytest.mark.slow
def test_a_new_field_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flo.clients.records.extract.software", lambda: {"hostname": "ward-3"})
    append = Ledger._append

    def talkative(self: Ledger, public: Any, private: Any, request: Any = None) -> int:
        return append(self, public | {"patients": 41}, private, request)

    monkeypatch.setattr(Ledger, "_append", talkative)
    life = WholeLife(tmp_path, monkeypatch)
    life.live()
    assert said_by(life) - set(ACCOUNTED) == {
        "reports.extract.body.software.hostname",
        f"{ROW}.public.patients",
    }


def test_a_reply_has_no_other_field() -> None:
    named = {name.split(".")[1] for name in ACCOUNTED if name.startswith("reply.")}
    assert set(ReplyHeader.model_fields) == named


def test_every_refusal_is_one_of_the_public_codes() -> None:
    assert set(get_args(RefusalCode)) == set(CODES)


def test_a_refusal_and_a_settlement_carry_no_number(life: WholeLife) -> None:
    for data in life.replies:
        reply = decode_reply(data)
        assert (reply.values.size > 0) == (reply.header.kind == "release")


def test_enrolment_says_the_hospitals_id_and_nothing_else(life: WholeLife) -> None:
    (pem,) = [body["request"] for name, body in life.said if name == "enrol"]
    request = x509.load_pem_x509_csr(pem.encode())
    assert request.subject.rfc4514_string() == "CN=north"
    assert len(request.extensions) == 0
    assert len(request.attributes) == 0


def test_no_patient_and_no_file_name_is_in_anything_said(life: WholeLife) -> None:
    everything = json.dumps(life.said).encode() + b"".join(life.replies)
    for secret in (b"north0", b"patients.csv", str(life.home.directory).encode(), b"id_column"):
        assert secret not in everything


def test_what_goes_through_flower_is_what_flower_needs() -> None:
    source = (Path(flo.clients.__path__[0]) / "connection" / "flower.py").read_text()
    said: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(source)):
        name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and name.endswith("Request"):
            assert not node.args
            said.setdefault(name, set()).update(str(word.arg) for word in node.keywords)
    assert said == FLEET


def test_every_field_has_a_reason() -> None:
    assert all(ACCOUNTED.values())
    assert all(CODES.values())
