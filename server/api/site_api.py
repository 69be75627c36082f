"""A hospital's calls to the coordinator, except Flower's messages: ``POST /v1/site/*``.

    enrol      issue a certificate for a key made at the hospital  (bootstrap certificate only)
    studies    list the signed studies that name this hospital, with their status
    approvals  store the steward's signed decision on one study
    given      list all approvals under the hospital's current key, to restore a backup
    heads      return the highest ledger head ever seen of this hospital
    reports    store the signed extract of a finished study
    models     return the published model of the hospital's study, with its signed card
    states     return the decisions on models of the hospital's studies: which one is withdrawn
    monitor    return the next signed result of a model's monitor that the hospital does not have
    renew      issue a new certificate for the enrolled key, before the current one ends
    leave      revoke the hospital's own certificate
    roster     return the roster; store whose keys the hospital's steward confirmed
    audit      exchange heads of both audit logs, each countersigned by the other side
    keys       return the coordinator's identity keys, each signed over to the next
    software   return the coordinator's software versions and time, for ``flo doctor``

Every body has a schema; a name inside a body never overrides the certificate's.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flo.audit.log import AuditLog
from flo.documents import canonical
from flo.errors import MessageError, StudyError, TrustError
from flo.host.environment import software
from flo.keys.claims import LedgerHead
from flo.keys.identity import Signer, fingerprint, public_bytes, verify
from flo.keys.roster import RosterStatement
from flo.keys.rotation import KeyRotation
from flo.privacy.accounting.plan import Plan
from flo.protocol.decisions import Decision, Decline, Signed
from flo.published.gate_passed import beside
from flo.published.model_card import read_card
from flo.published.model_states import digest_of_all
from flo.published.monitor_result import read_monitor
from flo.server.api.site_bodies import (
    AuditBody,
    EnrolBody,
    GivenBody,
    HeadsBody,
    ModelBody,
    MonitorBody,
    NoBody,
    ReportBody,
    RosterBody,
    StatesBody,
    parse_body,
)
from flo.server.audit.rate_limited import RateLimitedAudit
from flo.server.keys.authority import Authority, Peer, read_request
from flo.server.store.hospitals import Member
from flo.server.store.store import Store
from flo.server.studies.model_decisions import all_states, refuse_withdrawn, states_of
from flo.server.studies.publish import published, published_result, refuse_unsound
from flo.study.document import UNDER_WAY, Study
from flo.study.loading import from_canonical

# Size limit of an extract: about 2,500 ledger rows of other studies, and the study's own releases.
_BYTES_OF_OTHERS, _BYTES_A_RELEASE, _VALUES_A_RELEASE = 2 << 20, 1300, 40
_GIVEN_AT_ONCE = 50  # approvals per reply; each may contain a study of the largest size
MAX_MODEL_REPLY = 45 << 20  # bytes; in base64 it fits a site's limit on replies


class SiteApi:
    """Answers hospitals' calls. TLS and the gateway verified ``peer``; bodies are not trusted.

    Each call raises a FloError whose text is safe to show to the hospital: MessageError if the body
    violates its schema.
    """

    def __init__(
        self,
        store: Store,
        authority: Authority,
        identity: Signer,
        audit_log: AuditLog,
        succession: KeyRotation,
        on_enrolled: Callable[[Member], None],
        audit: RateLimitedAudit,
    ) -> None:
        self._audit = audit
        self._store, self._authority, self._identity = store, authority, identity
        self._audit_log, self._succession = audit_log, succession
        self._on_enrolled = on_enrolled

    def call(self, path: str, peer: Peer, body: bytes) -> Any:
        """Answer one call. Raises a FloError whose text is safe to show to the hospital."""
        return SITE_CALLS[path](self, peer, body)

    def note_connection(self, peer: Peer) -> None:
        """Count a connection of the hospital's agent: a run may be waiting for it."""
        self._store.add_connection(peer.hospital)

    def note_renewed(self, peer: Peer) -> None:
        """Refuse the earlier certificate from now on: the renewed one is in use."""
        self._store.drop_earlier(peer.hospital)

    def enrol(self, peer: Peer, body: bytes) -> Any:
        """Use up an invitation: issue a certificate for the request's key, in the invited name.

        Raises:
            TrustError: the invitation was used or names an earlier key of the coordinator, or the
            signing request is not valid.
        """
        wish = parse_body(EnrolBody, body)
        if wish.coordinator not in (None, self._identity.public.hex()):
            raise TrustError("this invitation names an earlier coordinator key: ask for a new one")
        key = read_request(wish.request.encode(), peer.hospital)
        pem, serial = self._authority.issue_client(peer.hospital, "site", key)
        public = public_bytes(key)
        member = Member(peer.hospital, public, fingerprint(public), serial, False, None)
        if not self._store.enrol(peer.serial, member):
            raise TrustError("this invitation was used before: ask the coordinator for a new one")
        self._store.add_event(
            None,
            "enrolled",
            hospital=member.id,
            fingerprint=member.fingerprint,
            certificate=serial,
            invitation=peer.serial,
        )
        self._on_enrolled(member)
        return {"certificate": pem.decode(), "coordinator": self._identity.public.hex()}

    def renew(self, peer: Peer, body: bytes) -> Any:
        """Issue a new certificate for the same key; the old one is valid until the new is used."""
        key = read_request(parse_body(EnrolBody, body).request.encode(), peer.hospital)
        if public_bytes(key) != peer.public:
            raise TrustError(
                "a renewal must contain the enrolled key; a new key needs a new invitation and a "
                "new version of every study"
            )
        pem, serial = self._authority.issue_client(peer.hospital, "site", key)
        self._audit.record("renewed", hospital=peer.hospital, certificate=serial)
        self._store.renew(peer.hospital, serial)
        return {"certificate": pem.decode(), "coordinator": self._identity.public.hex()}

    def leave(self, peer: Peer, body: bytes) -> Any:
        """Revoke the hospital's certificate at its own request, effective immediately."""
        parse_body(NoBody, body)
        self._audit.record("left", hospital=peer.hospital)
        self._store.revoke(peer.hospital)
        return {}

    def roster(self, peer: Peer, body: bytes) -> Any:
        """Store the hospital's statement, if there is one, and return roster and statements.

        ``roster`` of the reply is None if the hospital knows it already.

        Raises:
            TrustError: the statement is in another hospital's name, another key signed it, it is
            older than the one before, or it does not fit the roster.
        """
        asked = parse_body(RosterBody, body)
        if asked.statement is not None:
            self._keep_statement(peer, asked.statement)
        roster = self._store.roster()
        known = roster.digest == asked.known
        return {"roster": None if known else roster.model_dump(mode="json")}

    def _keep_statement(self, peer: Peer, statement: RosterStatement) -> None:
        statement.check(fingerprint(peer.public))
        if statement.hospital != peer.hospital:
            raise TrustError(f"this statement is in the name of {statement.hospital}")
        roster = self._store.roster()
        keys = roster.roster.keys_at({statement.roster}).get(statement.roster)
        if keys is None:
            raise TrustError(
                f"this statement is on another roster: ours never had the digest "
                f"{statement.roster[:16]}…"
            )
        if strangers := sorted(set(statement.confirmed) - set(keys)):
            raise TrustError(f"this statement names {strangers[0]}, which is not on the roster")
        before = roster.statement_of(peer.hospital)
        if before is not None and before.number >= statement.number:
            raise TrustError("this statement is older than the one before")
        self._store.keep_statement(statement)
        self._audit.record(
            "roster-confirmed",
            hospital=peer.hospital,
            roster=statement.roster,
            confirmed=len(statement.confirmed),
        )

    def audit(self, peer: Peer, body: bytes) -> Any:
        """Countersign the growth of the hospital's log, store its receipt, return our growth."""
        shown, signer = parse_body(AuditBody, body), fingerprint(peer.public)
        if shown.receipt is not None:
            self._audit_log.keep_receipt(shown.receipt, signer)
        receipt = None
        if shown.growth is not None:
            shown.growth.head.check(signer)
            seen = self._audit_log.last_seen({signer})
            if shown.growth.after <= seen:  # otherwise our backup was restored: no fork
                try:
                    receipt = self._audit_log.cosign(shown.growth)
                except TrustError:
                    self._audit.record("forked-audit-log", hospital=peer.hospital)
                    raise
        growth = self._audit_log.growth({signer})
        return {
            "receipt": receipt.model_dump(mode="json") if receipt else None,
            "seen": self._audit_log.last_seen({signer}),
            "growth": growth.model_dump(mode="json") if growth else None,
        }

    def keys(self, peer: Peer, body: bytes) -> Any:
        """Return the rotation steps from the coordinator's first key to the current one."""
        parse_body(NoBody, body)
        return self._succession.model_dump(mode="json")

    def software(self, peer: Peer, body: bytes) -> Any:
        """Return the coordinator's software versions and time, for comparison."""
        parse_body(NoBody, body)
        return {"software": _running(), "time": datetime.now(UTC).isoformat()}

    def studies(self, peer: Peer, body: bytes) -> Any:
        """Return all studies that name this hospital, also ended ones, with signature, status."""
        parse_body(NoBody, body)
        return [
            {
                "study": offer.study.canonical_bytes.decode(),
                "signature": offer.signature,
                "status": offer.status,
            }
            for offer in self._store.offers()
            if any(hospital.id == peer.hospital for hospital in offer.study.hospitals)
        ]

    def approvals(self, peer: Peer, body: bytes) -> Any:
        """Store an approval, refusal or withdrawal, signed by the hospital's key in the study.

        Raises:
            StudyError: the study is not under way. TrustError: another key signed it, it is in
            another hospital's name, or it is older than a refusal or withdrawal.
        """
        given = parse_body(Signed, body)
        document = given.document.encode()
        decision = parse_body(Decision, document).root
        verify(peer.public, "approval", document, given.signature)
        if decision.hospital != peer.hospital:
            raise TrustError(f"this decision is in the name of {decision.hospital}")
        offer = self._store.offer(decision.study)
        if offer is None or offer.status not in UNDER_WAY:
            raise StudyError(f"study {decision.study[:12]} is unknown, or is over")
        if offer.study.hospital(peer.hospital).fingerprint != fingerprint(peer.public):
            raise TrustError("the study names another key for this hospital")
        self._see_head(peer, decision.head)
        if isinstance(decision, Decline):
            self._store.drop_approval(decision.study, peer.hospital, decision.head.sequence)
            self._audit.record(
                "declined",
                decision.study,
                hospital=peer.hospital,
                decision=decision.decision,
                reason=decision.reason,
            )
            return {}
        if not self._store.add_approval(
            decision.study, peer.hospital, document, given.signature, decision.head.sequence
        ):
            raise TrustError("this approval is older than a refusal or withdrawal of this hospital")
        self._audit.record(
            "approved",
            decision.study,
            hospital=peer.hospital,
            people=[f"{person.name} ({person.role})" for person in decision.people],
            code=decision.code,
        )
        return {}

    def given(self, peer: Peer, body: bytes) -> Any:
        """Return approvals of studies that name the hospital's current key, to restore a backup."""
        after = parse_body(GivenBody, body).after
        while found := self._store.given(peer.hospital, after, _GIVEN_AT_ONCE):
            listed = [
                {"study": study, "document": document, "signature": signature}
                for study, document, signature in found
                if _names(study, peer)
            ]
            if listed:
                return {"given": listed}
            after = canonical.digest(found[-1][0].encode())
        return {"given": []}

    def heads(self, peer: Peer, body: bytes) -> Any:
        """Store the head in the body, if any, and return the highest one seen of this hospital.

        A site queries first and sends its own head afterwards, so that a site with a rolled-back
        ledger detects this before its fork is recorded.
        """
        shown = parse_body(HeadsBody, body).head
        if shown is not None:
            self._see_head(peer, shown)
        kept = self._store.heads().get(peer.hospital)
        return {"head": kept.model_dump(mode="json") if kept else None}

    def reports(self, peer: Peer, body: bytes) -> Any:
        """Store the hospital's signed extract of a study; it replaces an earlier one.

        Raises:
            StudyError: the study is not known, or does not name the hospital. TrustError: the
            hospital did not sign the extract.
            MessageError: it is no extract, is of another hospital or study, or is not valid.
        """
        given = parse_body(ReportBody, body)
        offer = self._store.offer(given.study)
        if offer is None:
            raise StudyError(f"study {given.study[:12]} is not known")
        offer.study.hospital(peer.hospital)
        study, document = given.study, given.extract.encode()
        del given, body  # each as large as the document
        if self._store.extracts(study).get(peer.hospital) == document:
            return {}  # these bytes have passed the checks
        releases = _most_releases(offer.study)
        extract = canonical.decode_canonical(
            document,
            limit=_BYTES_OF_OTHERS + _BYTES_A_RELEASE * releases,
            what="extract",
            values=canonical.FEW + _VALUES_A_RELEASE * releases,
        )
        try:
            body_bytes, signature = canonical.encode(extract["body"]), str(extract["signature"])
            named = str(extract["body"]["hospital"])
            about = canonical.digest(str(extract["body"]["study"]).encode())
        except (KeyError, TypeError) as error:
            raise MessageError("this is not a ledger extract: a field is missing") from error
        verify(peer.public, "extract", body_bytes, signature)
        if (named, about) != (peer.hospital, study):
            raise MessageError("this extract is of another hospital or study")
        del extract, body_bytes
        refuse_unsound(document)
        self._store.add_extract(study, peer.hospital, document)
        self._audit.record("extract", study, hospital=peer.hospital)
        return {}

    def largest_report(self, hospital: str) -> int:
        """Return the size limit of a ``reports`` body, from this hospital's studies; bytes."""
        named = [
            _most_releases(offer.study)
            for offer in self._store.offers()
            if any(one.id == hospital for one in offer.study.hospitals)
        ]
        largest = _BYTES_OF_OTHERS + _BYTES_A_RELEASE * max(named, default=0)
        return 2 * largest  # a quotation mark in a JSON string takes two bytes

    def models(self, peer: Peer, body: bytes) -> Any:
        """Return card, tensors (base64) and gates of a published model to a hospital in its study.

        Raises:
            StudyError: the study is not known, has no model yet, or its model is withdrawn or too
            large for one reply.
            TrustError: the study names another key for this hospital.
        """
        wish = parse_body(ModelBody, body)
        offer = self._store.offer(wish.study)
        if offer is None:
            raise StudyError(f"study {wish.study[:12]} is not known")
        if offer.study.hospital(peer.hospital).fingerprint != fingerprint(peer.public):
            raise TrustError("the study names another key for this hospital")
        found = published(self._store, wish.study)
        if found is None:
            raise StudyError(f"study {offer.study.name} has no published model yet")
        card, tensors = found
        refuse_withdrawn([states_of(self._store, offer.study.name)], wish.study)
        size = tensors.stat().st_size
        if size > MAX_MODEL_REPLY:
            raise StudyError(
                f"the model has {size} bytes; at most {MAX_MODEL_REPLY} can be fetched: ask the "
                "coordinator's operator for its files"
            )
        gates = [result.to_bytes().decode() for result in beside(card, read_card(card))]
        return {
            "card": card.read_text(encoding="utf-8"),
            "tensors": base64.b64encode(tensors.read_bytes()).decode(),
            **({"gates": gates} if gates else {}),  # sites of FLO 0.4 know of none
        }

    def states(self, peer: Peer, body: bytes) -> Any:
        """Return the decisions on models of the names of the hospital's studies; None if known."""
        wish = parse_body(StatesBody, body)
        names = {
            offer.study.name
            for offer in self._store.offers()
            if any(one.id == peer.hospital for one in offer.study.hospitals)
        }
        found = [one for one in all_states(self._store) if one.name in names]
        if digest_of_all(found) == wish.known:
            return {"states": None}
        return {"states": [one.model_dump(mode="json") for one in found]}

    def monitor(self, peer: Peer, body: bytes) -> Any:
        """Return the next result of a model's monitor; None if the hospital has all.

        Results of the whole series are shown to hospitals that one of its periods names.
        """
        wish, ours = parse_body(MonitorBody, body), fingerprint(peer.public)
        periods = [
            offer.study
            for offer in self._store.offers()
            if offer.study.monitor is not None and offer.study.monitor.model == wish.card
        ]
        if not any(one.fingerprint == ours for study in periods for one in study.hospitals):
            return {"result": None}
        for study in periods:
            path = published_result(self._store, study.digest)
            if path is not None and study.digest not in wish.known:
                return {"result": read_monitor(path).model_dump(mode="json")}
        return {"result": None}

    def _see_head(self, peer: Peer, head: LedgerHead) -> None:
        """Store a head if it is the highest; record a fork at the same row, and refuse it."""
        head.check(fingerprint(peer.public))
        kept = self._store.heads().get(peer.hospital)
        if kept is not None and kept.sequence == head.sequence and kept.hash != head.hash:
            self._audit.record("forked-ledger", hospital=peer.hospital)
            raise TrustError(f"the ledger of {peer.hospital} forked at row {head.sequence}")
        self._store.keep_head(peer.hospital, head)


_running = functools.cache(software)  # an upgrade may replace files of this process


SITE_CALLS: dict[str, Callable[[SiteApi, Peer, bytes], Any]] = {
    "/v1/site/enrol": SiteApi.enrol,
    "/v1/site/studies": SiteApi.studies,
    "/v1/site/approvals": SiteApi.approvals,
    "/v1/site/given": SiteApi.given,
    "/v1/site/heads": SiteApi.heads,
    "/v1/site/reports": SiteApi.reports,
    "/v1/site/models": SiteApi.models,
    "/v1/site/states": SiteApi.states,
    "/v1/site/monitor": SiteApi.monitor,
    "/v1/site/renew": SiteApi.renew,
    "/v1/site/leave": SiteApi.leave,
    "/v1/site/roster": SiteApi.roster,
    "/v1/site/audit": SiteApi.audit,
    "/v1/site/keys": SiteApi.keys,
    "/v1/site/software": SiteApi.software,
}


def _most_releases(study: Study) -> int:
    """Return how many rows a study may add to a hospital's ledger, plus a margin of 10."""
    return sum(Plan.of(study).releases.values()) + 10


def _names(study: str, peer: Peer) -> bool:
    """Return whether a study names the peer's current key for the hospital."""
    named = from_canonical(study.encode()).hospital(peer.hospital)
    return named.fingerprint == fingerprint(peer.public)
