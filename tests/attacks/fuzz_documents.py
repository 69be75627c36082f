"""Whoever reads signed documents of others: studies, tokens, audit logs, reports, cards, keys."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from flo.audit import chain
from flo.audit.chain import ZERO_HASH, LogHead, Receipt, chained
from flo.audit.log import AuditLog
from flo.clients.connection.coordinator_api import CoordinatorApi, client_context
from flo.clients.connection.enrolment import Invitation
from flo.clients.data_process.child_process import read_frame, write_frame
from flo.documents import canonical
from flo.documents.document import parse
from flo.errors import FloError
from flo.infra.evidence import pack
from flo.keys.claims import row_statement
from flo.keys.identity import Identity
from flo.keys.rotation import KeyRotation, RotationStep
from flo.privacy.report import report
from flo.protocol.messages import decode_reply, decode_request
from flo.protocol.whole_messages import joined, parted
from flo.published.model_card import ModelCard, PublishedModel
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.http.tokens import issue, read
from flo.server.maintenance.invitations import invite
from flo.study.loading import from_canonical
from tests.attacks.fuzz import Accepted, Target
from tests.builders import small_study, surveyed
from tests.flo.published_models import COORDINATOR, MALLORY, made
from tests.privacy.hospitals import World

Resign = Callable[[dict[str, Any]], dict[str, Any]]


def mended(resign: Resign) -> Callable[[bytes, Random], bytes]:
    """What was changed, signed again by whoever holds the key; as it is if it is no document."""

    def mend(data: bytes, random: Random) -> bytes:
        try:
            return canonical.encode(resign(canonical.decode(data, limit=1 << 28, what="")))
        except (FloError, KeyError, TypeError, ValueError, AttributeError):
            return data

    return mend


def signed_body(identity: Identity, purpose: str) -> Resign:
    def resign(document: dict[str, Any]) -> dict[str, Any]:
        signature = identity.sign(purpose, canonical.encode(document["body"]))
        return document | {"signature": signature}

    return resign


def only(good: bytes, read: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """A reader that promises to find any changed byte."""

    def strictly(data: bytes) -> object:
        found = read(data)
        if data != good:
            raise Accepted("a changed byte was not found")
        return found

    return strictly


# -- studies, messages, frames -------------------------------------------------------------------


def studies() -> Iterator[Target]:
    study = small_study()
    seeds = [
        study.canonical_bytes,
        surveyed(study, epsilon=0.3, columns=["ward"]).canonical_bytes,
    ]
    yield Target("study", seeds, from_canonical)
    yield Target("canonical", seeds, lambda d: canonical.decode(d, limit=1 << 20, what="it"))


def messages(request: bytes, reply: bytes) -> Iterator[Target]:
    yield Target("request", [request], decode_request)
    yield Target("reply", [reply], decode_reply)
    pipe = io.BytesIO()
    write_frame(pipe, {"do": "release", "study": "0" * 64, "cohort_size": 3}, bytes(48))

    def read_one(data: bytes) -> None:
        frame = read_frame(io.BytesIO(data))
        if frame is not None and not isinstance(frame[0], dict):
            raise Accepted(f"the header of a frame is a {type(frame[0]).__name__}")

    yield Target("frame", [pipe.getvalue()], read_one)
    yield Target(
        "whole message",
        [joined([b"announced", b"object", b"x" * 300])],
        lambda data: parted(data, 1000),
    )


# -- what people and hospitals hold --------------------------------------------------------------


def tokens(identity: Identity) -> Target:
    issued = [issue(identity, "ann", role, 600) for role in ("operator", "viewer", "auditor")]
    known = [token for _, token in issued]

    def read_one(data: bytes) -> None:
        if read(data.decode("latin-1"), identity.public) not in known:
            raise Accepted("a token that was never issued")

    return Target("token", [text.encode() for text, _ in issued], read_one)


def tokens_of_the_coordinator(identity: Identity) -> Target:
    """Any document under the coordinator's own signature."""
    text, _ = issue(identity, "ann", "operator", 600)
    document = base64.urlsafe_b64decode(text.partition(".")[0])

    def read_one(data: bytes) -> None:
        made = f"{base64.urlsafe_b64encode(data).decode()}.{identity.sign('token', data)}"
        read(made, identity.public)

    return Target("signed token", [document], read_one)


def invitations(home: CoordinatorHome) -> Target:
    def read_one(data: bytes) -> None:
        """As ``enrol`` reads one, up to the first packet."""
        found = parse(Invitation, canonical.decode(data, limit=65_536, what="it"), "it")
        context = client_context(found.ca, found.certificate.encode(), found.key.encode())
        with CoordinatorApi(found.url, context):
            pass

    return Target("invitation", [invite(home, "guest")], read_one)


def successions() -> Target:
    keys = [Identity.new() for _ in range(3)]
    steps = [RotationStep.signed(old, new, "2026-01-01") for old, new in pairwise(keys)]
    document = canonical.encode(KeyRotation(steps=tuple(steps)).model_dump(mode="json"))
    known = {key.public.hex() for key in keys}

    def read_one(data: bytes) -> None:
        if KeyRotation.read(data).newest_after(keys[0].public.hex()) not in known:
            raise Accepted("a key that no key signed over to")

    return Target("succession", [document], read_one)


# -- evidence of all kinds -----------------------------------------------------------------------


@dataclass(frozen=True)
class Logs:
    """A hospital's audit log and the coordinator's, countersigned by each other."""

    hospital: Identity
    coordinator: Identity
    export: bytes
    other: bytes
    receipt: Receipt

    @classmethod
    def of(cls, folder: Path) -> Logs:
        folder.mkdir()
        keys = Identity.new(), Identity.new()
        own, other = (AuditLog(folder / f"{n}.sqlite", key) for n, key in enumerate(keys))
        for log, name in ((own, "site-made"), (other, "coordinator-made")):
            log.append(name, fingerprint="0" * 64)
            log.append("approved", "0" * 64, people=["Ann"], code=None)
        shown, seen = own.growth(()), other.growth(())
        assert shown is not None
        assert seen is not None
        receipt = other.cosign(shown)
        own.keep_receipt(receipt, keys[1].fingerprint)
        own.append("message", "0" * 64, round=1)
        other.keep_receipt(own.cosign(seen), keys[0].fingerprint)
        found = cls(*keys, own.export("north"), other.export("coordinator"), receipt)
        own.close()
        other.close()
        return found

    def resigned(self, document: dict[str, Any]) -> dict[str, Any]:
        """The owner's own forgery: chained and signed anew from the first entry on."""
        previous = ZERO_HASH
        for number, entry in enumerate(document["entries"], start=1):
            fields = [entry[name] for name in ("time", "kind", "study", "facts", "salt")]
            digest = canonical.digest(canonical.encode([number, *fields]))
            previous = chained(previous, digest)
            signature = self.hospital.sign("audit-entry", row_statement(number, previous))
            entry |= {"number": number, "hash": previous, "signature": signature}
        statement = {name: value for name, value in document.items() if name != "signature"}
        signature = self.hospital.sign("audit-export", canonical.encode(statement))
        return statement | {"signature": signature}


def audit_logs(logs: Logs) -> Iterator[Target]:
    mend = mended(logs.resigned)
    yield Target("audit log", [logs.export], lambda d: chain.verify([d]), mend)
    yield Target(
        "audit log beside the other",
        [logs.export],
        lambda d: chain.verify([d, logs.other]),
        mend,
    )
    yield Target("audit export", [logs.export, logs.other], chain.read_export)
    receipt = canonical.encode(logs.receipt.model_dump(mode="json"))

    def check_receipt(data: bytes) -> None:
        found = parse(Receipt, canonical.decode(data, limit=65_536, what="it"), "it")
        found.check(logs.coordinator.fingerprint)

    yield Target("receipt", [receipt], check_receipt)
    head = chain.read_export(logs.other).witnessed[0]

    def check_head(data: bytes) -> None:
        found = parse(LogHead, canonical.decode(data, limit=65_536, what="it"), "it")
        found.check(found.fingerprint)

    yield Target("audit head", [canonical.encode(head.model_dump(mode="json"))], check_head)


def reports(world: World) -> Iterator[Target]:
    north, south = world.extract(0), world.extract(1)
    document = report.build([north, south])
    yield Target("report", [document], only(document, report.verify))
    mend = mended(lambda document: resigned_extract(world.homes[0].open_identity(), document))
    yield Target("extract", [north], lambda data: report.build([data, south]), mend)


def resigned_extract(identity: Identity, document: dict[str, Any]) -> dict[str, Any]:
    """A hospital's own forgery: its decision, its ledger's chain and the extract signed anew."""
    body, previous = document["body"], bytes(32)
    for number, row in enumerate(body["rows"], start=1):
        if row["private"] is not None:
            private = bytes.fromhex(row["salt"]) + canonical.encode(row["private"])
            row["commitment"] = canonical.digest(private)
        public = hashlib.sha256(canonical.encode(row["public"])).digest()
        place = number.to_bytes(8, "big") + public + bytes.fromhex(row["commitment"])
        previous = hashlib.sha256(previous + place).digest()
        statement = row_statement(number, previous.hex())
        row |= {"hash": previous.hex(), "signature": identity.sign("ledger-row", statement)}
    body["decision_signature"] = identity.sign("approval", body["decision"].encode())
    return signed_body(identity, "extract")(document)


def evidence(place: Path, identity: Identity) -> Iterator[Target]:
    document = pack.make(place)
    yield Target("evidence", [document], only(document, pack.verify))
    mend = mended(signed_body(identity, "evidence"))
    yield Target("evidence page", [document], pack.render, mend)


def models() -> Iterator[Target]:
    good = made()

    def resigned(document: dict[str, Any]) -> dict[str, Any]:
        """A coordinator that lies over its own name."""
        card = ModelCard.model_validate(document).signed(COORDINATOR)
        changed: dict[str, Any] = json.loads(card.to_bytes())
        return changed

    def open_card(data: bytes) -> None:
        card = parse(ModelCard, canonical.decode(data, limit=1 << 20, what="card"), "card")
        PublishedModel.of(card, good.tensors, COORDINATOR.fingerprint)

    cards = [good.card.to_bytes(), made(signer=MALLORY).card.to_bytes()]
    yield Target("model card", cards, open_card, mended(resigned))
    yield Target("tensors", [good.tensors], lambda data: made(tensors=data).open())
