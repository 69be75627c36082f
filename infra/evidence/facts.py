"""Facts about an installation: a site's folder or a coordinator's, read only.

Everything is verified when it is read: chains of hashes, signatures, and keys in their files. No
patient data is read, and no fact names a patient.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from flo.audit.chain import Entry, read_export, verify
from flo.clients.home.site_home import SECRETS as SITE_SECRETS
from flo.clients.home.site_home import SiteHome
from flo.clients.records import approval
from flo.clients.records.approval import approved_digests
from flo.errors import FloError, TrustError, UsageError
from flo.keys.identity import Signer
from flo.keys.identity import verify as verify_signature
from flo.keys.keystore import KeyStore, KeyStoreConfig, read_secret
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.ledger.balance import Balance
from flo.server.home.coordinator_home import SECRETS as COORDINATOR_SECRETS
from flo.server.home.coordinator_home import CoordinatorHome, sign_events
from flo.server.store.store import Offer
from flo.study.document import UNDER_WAY, Study

EvidenceSide = Literal["site", "coordinator"]


@dataclass(frozen=True)
class Facts:
    """``kinds``: kind of audit entry -> numbers of its entries. ``problems``: failed verifications.

    ``countersigned``: the last entry that the other side countersigned; other signatures do not
    count. ``keys``: secret -> whether the key store opens it. ``kept``: ended studies whose frozen
    patients or replies still exist.
    """

    side: EvidenceSide
    owner: str
    identity: Signer = field(repr=False)
    entries: tuple[Entry, ...]
    kinds: dict[str, list[int]]
    countersigned: int
    keys: dict[str, bool]
    keystore: str
    certificate_ends: str | None
    studies: tuple[Study, ...]
    open_studies: frozenset[str]
    policy: dict[str, Any]
    lives: dict[str, str]
    kept: frozenset[str]
    problems: tuple[str, ...]

    def numbers(self, *kinds: str) -> list[int]:
        """Return the numbers of all entries of these kinds, the oldest first."""
        return sorted(number for kind in kinds for number in self.kinds.get(kind, []))

    def last(self, kind: str) -> Entry | None:
        """Return the latest entry of this kind; None if there is none."""
        numbers = self.kinds.get(kind)
        return self.entries[numbers[-1] - 1] if numbers else None


def collect(place: Path) -> Facts:
    """Read the facts. Raises UsageError unless ``place`` is a site's or a coordinator's folder."""
    if SiteHome(place).config_path.exists():
        return _site(SiteHome.open(place))
    if CoordinatorHome(place).config_path.exists():
        return _coordinator(CoordinatorHome.open(place))
    raise UsageError(f"{place} is neither a site's folder nor a coordinator's")


def _site(home: SiteHome) -> Facts:
    problems, hospital = list[str](), home.read_config().hospital
    with closing(home.open_audit_log()) as log:
        document = log.export(hospital)
    studies, still_open, lives, partners = [], set(), {}, set()
    with suppress(UsageError):  # not enrolled yet
        partners = set(home.read_coordinator().fingerprints)
    with closing(home.open_ledger()) as ledger:
        balance = ledger.balance()
        lives = {name: _life(balance, name) for name in balance.lives}
        for digest in approved_digests(home):
            try:
                kept = approval.load(home, digest)
            except FloError as error:
                problems.append(f"approval {digest[:12]}: {error}")
                continue
            studies.append(kept.read_study())
            held = balance.reservations.get(kept.reservation)
            if held is not None and not held.settled:
                still_open.add(digest)
    policy: dict[str, Any] = {}
    try:
        signed = home.read_policy()
        policy = signed.model_dump(mode="json") | {"digest": signed.digest}
    except FloError as error:
        problems.append(f"policy: {error}")
    left = [
        path.name.lstrip(".")
        for folder in ("snapshots", "replies")
        for path in (home.directory / folder).iterdir()
    ]
    ended = {study.digest for study in studies} - still_open
    return _facts(
        *(home, "site", hospital, document, problems),
        secrets=SITE_SECRETS,
        partners=partners,
        certificate=home.directory / "certificate.pem",
        studies=studies,
        open_studies=still_open,
        policy=policy,
        lives=lives,
        kept={d for d in ended for name in left if name.startswith(d[:32])},
    )


def _life(balance: Balance, population: str) -> str:
    """Describe a population's life budget and what its most exposed patients have paid of it."""
    life, count = balance.lives[population], len(balance.generations(population))
    spent = max(life.share(balance.committed(population, side)) for side in SUB_LEDGERS)
    generations = f"{count} generation{'' if count == 1 else 's'} of patients"
    return (
        f"ε = {life.epsilon:g}, δ = {life.delta:g} for each patient; {generations}, of which none "
        f"has spent or reserved more than {spent:.1%}"
    )


def _coordinator(home: CoordinatorHome) -> Facts:
    with closing(home.open_store()) as store, closing(home.open_audit_log()) as log:
        sign_events(store, log)
        document = log.export("coordinator")
        offers, problems = store.offers(), list[str]()
        partners = {member.fingerprint for member in store.members()}
    secrets = dict(COORDINATOR_SECRETS)
    if not home.checkpoint_key_path.exists():  # created for the first run
        del secrets[home.checkpoint_key_path.name]
    earlier = [step.old for step in home.read_succession().steps]
    public = [bytes.fromhex(key) for key in (*earlier, home.open_identity().public.hex())]
    for offer in offers:
        if not any(_signed(key, offer) for key in public):
            problems.append(f"study {offer.study.digest[:12]}: its signature does not match")
    return _facts(
        *(home, "coordinator", "coordinator", document, problems),
        secrets=secrets,
        partners=partners,
        certificate=home.certificate_path,
        studies=[offer.study for offer in offers],
        open_studies={offer.study.digest for offer in offers if offer.status in UNDER_WAY},
        policy={},
        lives={},
        kept=set(),
    )


def _facts(
    home: SiteHome | CoordinatorHome,
    side: EvidenceSide,
    owner: str,
    log: bytes,
    problems: list[str],
    *,
    secrets: dict[str, str],
    partners: set[str],
    certificate: Path,
    studies: list[Study],
    open_studies: set[str],
    policy: dict[str, Any],
    lives: dict[str, str],
    kept: set[str],
) -> Facts:
    countersigned = 0
    try:
        (found,) = verify([log])
        theirs = (seen.number for seen in found.countersigned if seen.fingerprint in partners)
        countersigned = max(theirs, default=0)
    except FloError as error:
        problems.append(str(error))
    folder, keystore = home.directory, home.read_config().keystore
    export, kinds = read_export(log), defaultdict(list)
    for entry in export.entries:
        kinds[entry.kind].append(entry.number)
    return Facts(
        side=side,
        owner=owner,
        identity=home.open_identity(),
        entries=export.entries,
        kinds=dict(kinds),
        countersigned=countersigned,
        keys={
            name: _well_kept(folder / name, keystore.open(folder), purpose)
            for name, purpose in secrets.items()
        },
        keystore=_described(keystore),
        certificate_ends=_end_of(certificate, folder / "ca.pem"),
        studies=tuple(studies),
        open_studies=frozenset(open_studies),
        policy=policy,
        lives=lives,
        kept=frozenset(kept),
        problems=tuple(problems),
    )


def _signed(public: bytes, offer: Offer) -> bool:
    with suppress(TrustError):
        verify_signature(public, "study", offer.study.canonical_bytes, offer.signature)
        return True
    return False


def _well_kept(path: Path, keystore: KeyStore, purpose: str) -> bool:
    """Return whether the key store opens the file, and only its owner may read it."""
    with suppress(OSError, FloError):
        read_secret(path, keystore, purpose)
        return stat.S_IMODE(path.stat().st_mode) == 0o600
    return False


def _described(keystore: KeyStoreConfig) -> str:
    if keystore.kind == "kms":
        return "a key in KMS, by the permissions of that account"
    if keystore.kind == "passphrase":
        return "opened by a passphrase"
    if keystore.path is None:
        return "a key file in the same folder, so whoever copies the whole folder opens them"
    return "a key file elsewhere"


def _end_of(certificate: Path, authority: Path) -> str | None:
    """Return the end of a certificate that is valid now and issued by the known authority."""
    with suppress(OSError, ValueError, TypeError, InvalidSignature):
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.read_bytes()))
        if found.not_valid_before_utc <= datetime.now(UTC) <= found.not_valid_after_utc:
            return found.not_valid_after_utc.date().isoformat()
    return None
