"""Parser of the signed extract of a hospital's ledger (``flo.clients.records.extract`` writes it).

All of its content is checked here: its signature, the steward's decision, every row from the first
one on, the study's reservation and its releases, and the heads of this ledger that other hospitals
stored. ``flo.privacy.report.report`` derives the reported facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flo.documents import canonical
from flo.errors import MessageError, TrustError
from flo.keys.claims import LedgerHead, row_statement
from flo.keys.identity import fingerprint, verify
from flo.privacy.accounting.life_budget import LifetimeBudget
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.balance import Balance, lost_head, number_after
from flo.privacy.ledger.reservation import Reservation
from flo.privacy.ledger.rows import ZERO_HASH, LedgerRow
from flo.protocol.decisions import MAX_DECISION_BYTES, Approve
from flo.study.document import Study

_ROW_FIELDS = {"sequence", "public", "private", "salt", "commitment", "hash", "signature"}


@dataclass(frozen=True)
class Extract:
    """A hospital's extract for one study, completely checked.

    ``charged``: the plan that its ledger was charged for. ``born``: time of the population's
    registration. ``releases``: rows of this study. ``witnesses``: hospitals that saw a row of this
    ledger, and the last row that each saw. ``kept``: the row whose head the coordinator stored;
    None if it shows none.
    """

    body: dict[str, Any]
    decision: Approve
    charged: Plan
    rows: list[LedgerRow]
    balance: Balance
    born: str
    reservation: Reservation
    releases: list[LedgerRow]
    witnesses: dict[str, int]
    kept: int | None

    @classmethod
    def read(
        cls,
        study: Study,
        body: dict[str, Any],
        bodies: list[dict[str, Any]],
        kept: LedgerHead | None,
        *,
        own_rules: bool,
    ) -> Extract:
        """Check one extract and return its content.

        ``body``: its ``signed_body``. ``bodies``: those of all extracts. ``kept``: the head that
        the coordinator stored. ``own_rules``: check again the rules that the hospital's own FLO
        enforces, as reports do since version 6.

        Raises:
            TrustError: a key, signature, chain or number is invalid, or a row is hidden.
            MessageError, KeyError, TypeError, ValueError, AttributeError, IndexError: it has
                another shape.
        """
        hospital, public = body["hospital"], bytes.fromhex(body["public"])
        signer = study.hospital(hospital).fingerprint
        if signer != fingerprint(public):
            raise TrustError(
                f"{hospital}: the extract is signed with another key than the study names for it"
            )
        decision = _decision(study, public, body)
        charged = Plan.charged(study, if_broken=decision.get("charged") == "if-broken")
        rows = [_row(document) for document in body["rows"]]
        balance, born = _replay(rows, public, body["population"])
        witnesses = _check_witnesses(hospital, signer, rows, balance, bodies)
        if kept is not None:
            _check_head(hospital, "the coordinator", kept, signer, rows, balance)
        reservation = _reservation(study, charged, rows, balance, body)
        releases = [
            row
            for row in rows
            if row.public["kind"] == "release"
            and row.public["reservation"] == body["reservation"]
            and row.private is not None
        ]
        unseen = sum(reservation.unseen.values())
        if len(releases) + unseen != sum(reservation.released.values()):
            raise TrustError(
                f"{hospital}: the extract shows {len(releases)} of this study's "
                f"{sum(reservation.released.values()) - unseen} releases and hides the others"
            )
        allowed = balance.lives[body["population"]].delta
        if study.mechanism.delta > allowed:
            raise TrustError(
                f"{hospital}: the study's delta {study.mechanism.delta:g} is larger than its life "
                f"budget's {allowed:g}"
            )
        approved = Approve.model_validate(decision)
        if own_rules:
            _repeat_own_rules(study, approved, signer, rows, balance, body)
        for person in approved.people:
            person.check(study.digest, hospital, approved.terms.digest, person.fingerprint)
        return cls(
            *(body, approved, charged, rows, balance, born, reservation, releases, witnesses),
            kept=kept.sequence if kept else None,
        )

    @property
    def life(self) -> LifetimeBudget:
        """Life budget of the population whose patients took part."""
        return self.balance.lives[self.body["population"]]

    @property
    def repeats(self) -> int:
        """Number of times that charged bits of this study were sent again."""
        number = self.body["reservation"]
        return sum(
            row.public["kind"] == "repeat" and row.public["reservation"] == number
            for row in self.rows
        )

    def opened(self, generation: int) -> str:
        """Return the time when a generation was opened; "" for patients recorded before any was."""
        return next((row.public["time"] for row in self.rows if row.sequence == generation), "")

    def restored(self) -> Iterator[tuple[LedgerRow, int]]:
        """Yield each row that records a restored ledger, with its number of lost rows."""
        before = 0
        for row in self.rows:
            if row.public["kind"] == "restored":
                yield row, row.sequence - before - 1
            before = row.sequence


def hospital_of(document: Any) -> str:
    """Return the hospital that an extract names. Raises MessageError."""
    try:
        return str(document["body"]["hospital"])
    except (KeyError, TypeError) as error:
        raise MessageError("this is not a ledger extract: it names no hospital") from error


def signed_body(document: Any) -> dict[str, Any]:
    """Check the signature by the key that the body names; return the body.

    Raises TrustError if it is invalid, otherwise as ``Extract.read``.
    """
    if set(document) != {"body", "signature"}:
        raise MessageError("an extract must have exactly two fields: body and signature")
    body: dict[str, Any] = document["body"]
    if body["schema_version"] not in (1, 2, 3):
        raise MessageError(
            f"extract schema version {body['schema_version']!r} is unknown; this FLO reads 1 to 3"
        )
    public = bytes.fromhex(body["public"])
    verify(public, "extract", canonical.encode(body), document["signature"])
    return body


def decided(body: dict[str, Any]) -> dict[str, Any]:
    """Return the steward's decision of an extract, unchecked. Raises MessageError."""
    document: dict[str, Any] = canonical.decode(
        str(body["decision"]).encode(), limit=MAX_DECISION_BYTES, what="approval"
    )
    return document


def _decision(study: Study, public: bytes, body: dict[str, Any]) -> dict[str, Any]:
    """Return the steward's signed decision. Raises TrustError if it is not about this study."""
    verify(public, "approval", str(body["decision"]).encode(), body["decision_signature"])
    hospital, decision = body["hospital"], decided(body)
    about = (decision["study"], decision["hospital"], decision["decision"])
    if about != (study.digest, hospital, "approve"):
        raise TrustError(f"{hospital}: the approval is not for this study")
    return decision


def _row(document: dict[str, Any]) -> LedgerRow:
    if set(document) != _ROW_FIELDS:
        raise MessageError(f"a ledger row must have exactly the fields {sorted(_ROW_FIELDS)}")
    return LedgerRow(**document)


def _replay(rows: list[LedgerRow], public: bytes, population: str) -> tuple[Balance, str]:
    """Check chain and signatures from the first row on; return balance and time of birth."""
    balance, previous, born = Balance(), ZERO_HASH, ""
    for row in rows:
        row.check(previous, number_after(balance.last, row.public))
        head = lost_head(row.public)
        if head is not None:
            head.check(fingerprint(public))
        balance.add(row)
        previous = row.hash
        if row.public["kind"] == "birth" and row.public["population"] == population:
            born = row.public["time"]
    if rows:
        statement = row_statement(balance.last, previous)
        verify(public, "ledger-row", statement, rows[-1].signature)
    if balance.is_recovering:
        raise TrustError("the ledger lost rows that the charged studies do not account for")
    if population not in balance.lives:
        raise TrustError(f"population {population!r} is not registered in this ledger")
    return balance, born


def _check_witnesses(
    hospital: str,
    signer: str,
    rows: list[LedgerRow],
    balance: Balance,
    bodies: list[dict[str, Any]],
) -> dict[str, int]:
    """Check that each head of this hospital that a partner stored is in this ledger or lost.

    Lost rows were charged in full. Returns the partners whose head is in this ledger, and its row.
    """
    witnesses, hashes = dict[str, int](), {row.sequence for row in rows}
    for other in bodies:
        if other["hospital"] == hospital:
            continue
        heads = [LedgerHead.model_validate(kept) for kept in other["witnessed"].values()]
        head = next((head for head in heads if head.fingerprint == signer), None)
        if head is None:
            continue
        _check_head(hospital, other["hospital"], head, signer, rows, balance)
        if head.sequence in hashes:
            witnesses[other["hospital"]] = head.sequence
    return dict(sorted(witnesses.items()))


def _check_head(
    hospital: str, who: str, head: LedgerHead, signer: str, rows: list[LedgerRow], balance: Balance
) -> None:
    """Check that a stored head of this hospital is in its ledger, or is lost and charged for."""
    head.check(signer)
    here = {row.sequence: row.hash for row in rows}.get(head.sequence)
    if here != head.hash and not balance.is_lost(head):
        raise TrustError(
            f"{hospital}: {who} recorded ledger row {head.sequence}, which this extract does not "
            "contain",
            hint="ask the hospital for an extract of its whole ledger (flo site extract)",
        )


def _repeat_own_rules(
    study: Study,
    approved: Approve,
    signer: str,
    rows: list[LedgerRow],
    balance: Balance,
    body: dict[str, Any],
) -> None:
    """Check again the rules that the hospital's own FLO enforces. Raises TrustError.

    It refuses more than b partners that were not confirmed, unless the study is charged as for a
    broken secure sum; an extract signed by other code than was approved; and an approval that names
    a ledger which is not this one.
    """
    hospital, shared = approved.hospital, study.mechanism.noise == "distributed"
    if shared and not approved.worst_case and len(approved.unconfirmed) > study.colluders:
        raise TrustError(
            f"{hospital}: the keys of {len(approved.unconfirmed)} partners were not confirmed, "
            f"more than the {study.colluders} that may collude, and the study is not charged as "
            "for a broken secure sum",
            hint="its steward must confirm them (flo site roster) and approve again",
        )
    reported = body["software"].get("code_digest")
    if approved.code is not None and reported != approved.code:
        raise TrustError(
            f"{hospital}: the approval is for code {approved.code[:12]}, and the extract was "
            f"signed by code {str(reported)[:12]}",
            hint="use the extract that the site signed when the study ended; the coordinator "
            "has it",
        )
    _check_head(hospital, "its own approval", approved.head, signer, rows, balance)


def _reservation(
    study: Study, plan: Plan, rows: list[LedgerRow], balance: Balance, body: dict[str, Any]
) -> Reservation:
    number = body["reservation"]
    reservation = balance.reservations.get(number)
    shown = next((row.private for row in rows if row.sequence == number), None)
    if reservation is None or shown is None or shown.get("study") != study.digest:
        raise TrustError(f"{body['hospital']}: the ledger holds no reservation of this study")
    named = [row.sequence for row in rows if (row.private or {}).get("study") == study.digest]
    if any(other in balance.reservations for other in named if other != number):
        raise TrustError(f"{body['hospital']}: this study was reserved twice")
    if reservation.population != body["population"]:
        raise TrustError(f"{body['hospital']}: the reservation is for another population")
    reserved = {name: (part.mechanism, part.releases) for name, part in reservation.parts.items()}
    if reserved != {name: (part.mechanism, part.releases) for name, part in plan.purposes.items()}:
        raise TrustError(
            f"{body['hospital']}: the reserved mechanisms or numbers of releases differ from the "
            "study's plan"
        )
    return reservation
