"""Approval: check the study, the policy, the data and the budget, in that order, then sign.

Nothing is spent, kept or sent before every check has passed. An approval is one reservation in the
ledger: all runs of the study together cannot exceed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

from flo import canonical
from flo.claims import Digest, Head
from flo.clients.address_book import AddressBook, refuse_strangers
from flo.clients.coordinator_api import CoordinatorApi
from flo.clients.home import Policy, Population, SiteHome, refuse_large_epsilon
from flo.clients.snapshot import Snapshot
from flo.errors import FloError, PolicyError, RefusedError, TrustError, UsageError
from flo.files import write_private
from flo.identity import verify
from flo.privacy.ledger import Ledger
from flo.privacy.plan import Plan
from flo.privacy.split import keyed_hash
from flo.settings import Document, parse
from flo.study import MAX_STUDY_BYTES, Identifier, Study, from_canonical

_LIMIT = 2 * MAX_STUDY_BYTES


class Approval(Document):
    """What the agent needs to act on a study; kept at the site, never sent.

    ``signature`` covers all other fields, so that nobody can point it at other patients.
    """

    schema_version: Literal[1] = 1
    study: str
    study_signature: str
    population: Identifier
    snapshot: Digest
    reservation: int
    decision: str
    decision_signature: str
    signature: str = ""

    def statement(self) -> bytes:
        """What the site signs: everything but the signature."""
        return canonical.encode(self.model_dump(mode="json", exclude={"signature"}))

    def read_study(self) -> Study:
        return from_canonical(self.study.encode())


@dataclass(frozen=True)
class Offered:
    """A study as the coordinator offers it, its signature checked."""

    study: Study
    signature: str


def offered_studies(api: CoordinatorApi, coordinator: bytes) -> list[Offered]:
    """Signed studies that name this hospital. Raises TrustError if a signature does not match."""
    return [
        Offered(from_canonical(item.study.encode()), item.signature)
        for item in known_studies(api)
        if item.status in ("offered", "running") and item.verified(coordinator)
    ]


class KnownStudy(Document):
    """A study as the coordinator lists it."""

    study: str
    signature: str
    status: str

    def verified(self, coordinator: bytes) -> bool:
        verify(coordinator, "study", self.study.encode(), self.signature)
        return True


class _Listing(Document):
    studies: tuple[KnownStudy, ...]


def known_studies(api: CoordinatorApi) -> tuple[KnownStudy, ...]:
    """Every study that names this hospital, with its status. Raises MessageError or UsageError."""
    listing = {"studies": api.call("studies", {})}
    return parse(_Listing, listing, "the coordinator's list of studies").studies


def confirm_head(api: CoordinatorApi, ledger: Ledger) -> None:
    """Learn the highest head ever seen of us before adding to the ledger, then show ours.

    Raises:
        TrustError: others saw rows that this ledger does not have: it was rolled back.
    """
    seen = parse(_Seen, api.call("heads", {"head": None}), "the coordinator's view of our head")
    if seen.head is not None:
        ledger.confirm(seen.head)
    api.call("heads", {"head": ledger.head().model_dump(mode="json")})


class _Seen(Document):
    head: Head | None


def choose(offers: list[Offered], wanted: str | None) -> Offered:
    """The study of that name or digest prefix, or the only one. Raises UsageError."""
    matching = [
        offer
        for offer in offers
        if wanted is None or offer.study.name == wanted or offer.study.digest.startswith(wanted)
    ]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise UsageError(
            "no such study is waiting for this hospital" if wanted else "no study is waiting",
            hint="the coordinator offers one with `flo study launch`",
        )
    names = ", ".join(f"{o.study.name} ({o.study.digest[:12]})" for o in matching)
    raise UsageError(f"which study? {names}", hint="name it, or the start of its digest")


def check_study(
    study: Study, hospital: str, own: str, policy: Policy, today: date, epsilon: float
) -> None:
    """The site's own rules about a study that is charged at ``epsilon``.

    Raises:
        TrustError: it names another key for us. PolicyError: a rule of the policy. RefusedError:
        it has expired.
    """
    if study.hospital(hospital).fingerprint != own:
        raise TrustError(f"the study names another identity key for {hospital}")
    if any(not partner.fingerprint for partner in study.hospitals):
        raise TrustError("the study does not name every partner's fingerprint")
    if study.expires < today:
        raise RefusedError(f"the study expired on {study.expires}")
    if study.mechanism.noise == "distributed" and not study.masked:
        raise PolicyError(
            "distributed noise without masks is never approved",
            hint="ask the coordinator for the study in schema_version 2",
        )
    refuse_large_epsilon(epsilon, policy)
    if policy.largest_study_epsilon is not None and epsilon > policy.largest_study_epsilon:
        raise PolicyError(
            f"ε = {epsilon:g} exceeds this site's largest_study_epsilon "
            f"= {policy.largest_study_epsilon:g}",
            hint="ask for a study with less, or let the steward change site.toml",
        )
    if len(study.hospitals) < policy.minimum_hospitals:
        raise PolicyError(
            f"{len(study.hospitals)} hospitals are fewer than this site's minimum_hospitals "
            f"= {policy.minimum_hospitals}",
            hint="ask for a study with more partners, or let the steward change site.toml",
        )


def approve(
    home: SiteHome,
    api: CoordinatorApi,
    offered: Offered,
    population: Population,
    *,
    if_broken: bool = False,
) -> Approval:
    """Check everything, freeze the data, reserve the budget, sign, and tell the coordinator.

    ``if_broken``: the steward accepts partners whose fingerprints nobody compared, and pays for a
    study with distributed noise as if the secure sum were broken.
    """
    study, config, identity = offered.study, home.config, home.identity()
    coordinator = bytes.fromhex(home.coordinator.public)
    verify(coordinator, "study", study.canonical_bytes, offered.signature)
    refuse_withdrawn(home, study.digest)
    if approval_path(home, study.digest).exists():
        return _announce(api, load(home, study.digest))
    if_broken = if_broken and study.mechanism.noise == "distributed"
    epsilon = Plan.of(study).if_broken(study).epsilon if if_broken else study.largest_epsilon
    today = datetime.now(UTC).date()
    check_study(study, config.hospital, identity.fingerprint, config.policy, today, epsilon)
    unconfirmed = AddressBook.load(home).unconfirmed(study, config.hospital)
    refuse_strangers(study, unconfirmed, if_broken=if_broken)
    # pandas comes with these two and takes half a second; the agent, which also imports this
    # module, never reads a hospital's file.
    from flo.clients.checks import check
    from flo.clients.source import read_table

    table = read_table(population.file)
    checked = check(table, study.data, population.id_column, frozenset(population.ignore))
    snapshot = Snapshot.of(checked, home.split_key, population.hold_out)
    ledger = home.ledger()
    try:
        confirm_head(api, ledger)
        _refuse_changed_birth(home, ledger, population)
        hashes = {keyed_hash(home.patients_key, name) for name in checked.patient_ids}
        digest = snapshot.write(snapshot_path(home, study.digest))
        try:
            reservation = ledger.reserve(study, population.name, hashes, if_broken=if_broken)
        except FloError:
            snapshot_path(home, study.digest).unlink()
            raise
        decision = canonical.encode(
            {
                "schema_version": 2,
                "decision": "approve",
                "study": study.digest,
                "hospital": config.hospital,
                "role": "steward",
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "head": ledger.head().model_dump(mode="json"),
                "unconfirmed": unconfirmed,
                "charged": "if-broken" if if_broken else "as-designed",
            }
        )
    finally:
        ledger.close()
    unsigned = Approval(
        study=study.canonical_bytes.decode(),
        study_signature=offered.signature,
        population=population.name,
        snapshot=digest,
        reservation=reservation,
        decision=decision.decode(),
        decision_signature=identity.sign("approval", decision),
    )
    approval = unsigned.model_copy(
        update={"signature": identity.sign("kept-approval", unsigned.statement())}
    )
    write_private(
        approval_path(home, study.digest), canonical.encode(approval.model_dump(mode="json"))
    )
    return _announce(api, approval)


def load(home: SiteHome, digest: str) -> Approval:
    """The approval of a study, verified anew; it may have expired (``refuse_expired``).

    Raises:
        RefusedError: there is none. TrustError: it was edited.
    """
    path = approval_path(home, digest)
    if not path.exists():
        raise RefusedError(f"study {digest[:12]} is not approved here")
    document: Any = canonical.decode(path.read_bytes(), limit=_LIMIT, what="approval")
    approval = parse(Approval, document, str(path))
    data = approval.study.encode()
    if canonical.digest(data) != digest:
        raise TrustError(f"the approval of study {digest[:12]} holds another study")
    verify(bytes.fromhex(home.coordinator.public), "study", data, approval.study_signature)
    public = home.identity().public
    verify(public, "kept-approval", approval.statement(), approval.signature)
    verify(public, "approval", approval.decision.encode(), approval.decision_signature)
    decision = canonical.decode(approval.decision.encode(), limit=65_536, what="decision")
    if decision["study"] != digest or decision["decision"] != "approve":
        raise TrustError(f"the decision kept for study {digest[:12]} is about another one")
    return approval


def refuse_expired(approval: Approval) -> None:
    """Raises RefusedError after the study's last day: nothing more is released, only settled."""
    if is_expired(approval):
        study = approval.read_study()
        raise RefusedError(f"study {study.digest[:12]} expired on {study.expires}")


def is_expired(approval: Approval) -> bool:
    return approval.read_study().expires < datetime.now(UTC).date()


def approval_path(home: SiteHome, digest: str) -> Path:
    return home.directory / "approved" / f"{digest}.json"


def withdrawal_path(home: SiteHome, digest: str) -> Path:
    return home.directory / "approved" / f"{digest}.withdrawn.json"


def refusal_path(home: SiteHome, digest: str) -> Path:
    return home.directory / "approved" / f"{digest}.refused.json"


def refuse_withdrawn(home: SiteHome, digest: str) -> None:
    """Raises RefusedError once the steward has withdrawn the approval."""
    if withdrawal_path(home, digest).exists():
        raise RefusedError(
            f"study {digest[:12]} was withdrawn here",
            hint="ask the coordinator for a new version of the study",
        )


def snapshot_path(home: SiteHome, digest: str) -> Path:
    return home.directory / "snapshots" / f"{digest}.npz"


def _announce(api: CoordinatorApi, approval: Approval) -> Approval:
    api.call(
        "approvals",
        {"document": approval.decision, "signature": approval.decision_signature},
    )
    return approval


def _refuse_changed_birth(home: SiteHome, ledger: Ledger, population: Population) -> None:
    """What was fixed at birth cannot be changed afterwards: site.toml, split key, patients key."""
    commitments = home.key_commitments()
    for row in ledger.rows():
        public, private = row.public, row.private or {}
        if public["kind"] == "birth" and public["population"] == population.name:
            for name, born, now in (
                ("epsilon", public["epsilon"], population.epsilon),
                ("hold_out", public["hold_out"], population.hold_out),
                ("declared_size", public["declared_size"], population.declared_size),
                ("id_column", private.get("id_column"), population.id_column),
            ):
                if born != now:
                    raise PolicyError(
                        f"population {population.name!r}: {name} is {now!r} in site.toml but was "
                        f"fixed as {born!r} when its ledger was born"
                    )
            for name, commitment in commitments.items():
                if private.get(name) != commitment:
                    raise TrustError(
                        f"{name} is not the key that population {population.name!r} was born with: "
                        "patients would change sides between training and evaluation",
                        hint="restore the key from the site's backup",
                    )
