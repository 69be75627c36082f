"""Stored approval of a study: what the agent needs to act on it, verified at every message.

``flo.clients.approvals.approve`` creates an approval; ``flo.clients.approvals.decline`` ends it.
"""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.documents.document import Document, read_json
from flo.errors import FloError, RefusedError, TrustError
from flo.keys.claims import Digest
from flo.keys.identity import Identity, verify
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.ledger import Ledger
from flo.protocol.decisions import Approve, read_approval
from flo.storage.files import flush_directory, write_private
from flo.study.document import MAX_STUDY_BYTES, Study
from flo.study.loading import from_canonical
from flo.study.terms import Identifier

if TYPE_CHECKING:
    from flo.clients.records.snapshot import Snapshot

log = logging.getLogger("flo.clients.records.approval")

_LIMIT = 2 * MAX_STUDY_BYTES


class Approval(Document):
    """Data with which the agent acts on a study; stored at the site, never sent.

    ``signature`` covers all other fields, so the approval cannot be redirected to other patients.
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
        """Return the bytes that the site signs: all fields but the signature."""
        return canonical.encode(self.model_dump(mode="json", exclude={"signature"}))

    def signed(self, identity: Identity) -> Approval:
        """Return a copy signed by the site's identity key, replacing any earlier signature."""
        return self.model_copy(
            update={"signature": identity.sign("kept-approval", self.statement())}
        )

    def read_study(self) -> Study:
        """Return the approved study. Raises MessageError or StudyError if it is invalid."""
        return from_canonical(self.study.encode())

    def read_decision(self) -> Approve:
        """Return the decision. Raises TrustError if it is not an approval."""
        return read_approval(self.decision)

    @property
    def epsilon(self) -> float:
        """ε that the ledger pays for the study."""
        return charged_epsilon(self.study, self.read_decision().worst_case)


@functools.lru_cache(maxsize=256)
def charged_epsilon(study: str, if_broken: bool) -> float:
    """Return the ε of a study (canonical text), as designed or as if the secure sum were broken.

    As designed it is the ε that the study asks for, which a policy's rules refer to; its plan is
    calibrated to no more than that.
    """
    found = from_canonical(study.encode())
    return Plan.charged(found, if_broken=True).epsilon if if_broken else found.largest_epsilon


def load(home: SiteHome, digest: str) -> Approval:
    """Return the verified approval to act on; it may have expired (``refuse_expired``).

    Raises:
        RefusedError: there is none. TrustError: it was edited, or no current or earlier key of this
        site's coordinator signed the study.
    """
    path = approval_path(home, digest)

    def read_whole() -> Approval:
        approval = read(home, digest)
        home.read_coordinator().signer_of(approval.study.encode(), approval.study_signature)
        return approval

    return home.read_unchanged(read_whole, path, home.coordinator_path)


def read(home: SiteHome, digest: str) -> Approval:
    """Return the approval for display or cleanup; verifies only the site's own signatures.

    Raises:
        RefusedError: there is none. TrustError: it was edited.
    """
    path = approval_path(home, digest)
    if not path.exists():
        raise RefusedError(f"study {digest[:12]} is not approved here")
    approval = read_json(Approval, path, limit=_LIMIT)
    data = approval.study.encode()
    if canonical.digest(data) != digest:
        raise TrustError(f"the approval of study {digest[:12]} holds another study")
    public = home.open_identity().public
    verify(public, "kept-approval", approval.statement(), approval.signature)
    verify(public, "approval", approval.decision.encode(), approval.decision_signature)
    if approval.read_decision().study != digest:
        raise TrustError(f"the decision stored for study {digest[:12]} is about another study")
    return approval


def keep(home: SiteHome, approval: Approval) -> None:
    """Write the approval atomically."""
    path = approval_path(home, approval.read_study().digest)
    write_private(path, approval.to_bytes())


def approved_digests(home: SiteHome) -> list[str]:
    """Return digests of all studies ever approved here, withdrawn ones included."""
    found = (home.directory / "approved").glob("*.json")
    return sorted(path.stem for path in found if "." not in path.stem)


def refuse_expired(approval: Approval) -> None:
    """Raises RefusedError after the study's last day: it can then only be settled."""
    if is_expired(approval):
        study = approval.read_study()
        raise RefusedError(f"study {study.digest[:12]} expired on {study.expires}")


def is_expired(approval: Approval) -> bool:
    """Return whether the study's last day, in UTC, is over."""
    return approval.read_study().has_expired(datetime.now(UTC).date())


def refuse_withdrawn(home: SiteHome, digest: str) -> None:
    """Raises RefusedError once the steward has withdrawn the approval."""
    if withdrawal_path(home, digest).exists():
        raise RefusedError(
            f"study {digest[:12]} was withdrawn here",
            hint="ask the coordinator for a new version of the study",
        )


def refuse_other_code(approval: Approval, code: str) -> None:
    """Raises TrustError unless the approval was given for the code with this digest."""
    approved = approval.read_decision().code
    if approved != code:
        digest = approval.read_study().digest[:12]
        raise TrustError(
            f"study {digest} was approved for code {(approved or 'of FLO 0.1')[:12]}, and "
            f"{code[:12]} is installed",
            hint=f"read what changed, then: flo site approve {digest} (nothing is charged again)",
        )


def approval_path(home: SiteHome, digest: str) -> Path:
    """Return the path of a study's approval."""
    return home.directory / "approved" / f"{digest}.json"


def pending_path(home: SiteHome, digest: str) -> Path:
    """Return the path of the signatures collected while the policy requires more."""
    return home.directory / "approved" / f"{digest}.waiting.json"


def withdrawal_path(home: SiteHome, digest: str) -> Path:
    """Return the path of the signed withdrawal; while it exists, the approval is not valid."""
    return home.directory / "approved" / f"{digest}.withdrawn.json"


def refusal_path(home: SiteHome, digest: str) -> Path:
    """Return the path of the signed refusal of a study that is not approved."""
    return home.directory / "approved" / f"{digest}.refused.json"


def snapshot_path(home: SiteHome, study: str, snapshot: str) -> Path:
    """Return the path of the frozen patients with this digest."""
    return home.directory / "snapshots" / f"{study}-{snapshot[:16]}.npz"


def keep_snapshot(home: SiteHome, study: str, snapshot: Snapshot) -> str:
    """Write frozen patients under the name of their digest, and return it."""
    unnamed = home.directory / "snapshots" / f".{study}-{secrets.token_hex(8)}.npz"
    digest = snapshot.write(unnamed)
    try:
        unnamed.replace(snapshot_path(home, study, digest))
    except OSError:
        unnamed.unlink(missing_ok=True)
        raise
    flush_directory(unnamed.parent)
    return digest


def delete_snapshots(home: SiteHome, study: str, *, but: str | None = None) -> None:
    """Delete frozen patients of a study, all or all but those with the digest ``but``."""
    kept = snapshot_path(home, study, but) if but else None
    for path in (home.directory / "snapshots").iterdir():
        if path != kept and path.name.lstrip(".").startswith(study):  # partial writes have a dot
            path.unlink()


def readable(home: SiteHome) -> Iterator[tuple[str, Approval | None]]:
    """Yield every study approved here; None for an approval that does not verify."""
    for digest in approved_digests(home):
        try:
            yield digest, read(home, digest)
        except FloError as error:
            log.error(f"the approval of study {digest[:12]} cannot be read: {error}")
            yield digest, None


def sweep(home: SiteHome, ledger: Ledger) -> None:
    """Delete frozen patients that no open approval names, left by a crash. Hold ``snapshot_lock``.

    Patients that an unreadable approval may name are kept; no release is made for it.
    """
    reservations, named, unreadable = ledger.balance().reservations, set(), []
    for digest, approved in readable(home):
        if approved is None:
            unreadable.append(digest)
            continue
        held = reservations.get(approved.reservation)
        if held is not None and not held.settled:
            named.add(snapshot_path(home, digest, approved.snapshot))
    for path in (home.directory / "snapshots").iterdir():
        if path not in named and not path.name.startswith(tuple(unreadable)):
            path.unlink()
