"""What an installation shows about itself: a site's folder or a coordinator's, read only.

Everything is checked where it is read: chains are verified, keys are looked at in their files. No
patient data is read, and none of this names a patient.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cryptography import x509

from flo.audit_log import Entry, read_export, verify
from flo.clients import approval
from flo.clients.approval import approved_digests
from flo.clients.home import SiteHome
from flo.errors import FloError, UsageError
from flo.identity import Identity
from flo.keystore import is_sealed
from flo.server.home import CoordinatorHome, sign_events
from flo.study import Study, from_canonical

Side = Literal["site", "coordinator"]


@dataclass(frozen=True)
class Facts:
    """``kinds``: kind of audit entry -> their numbers. ``problems``: what did not hold."""

    side: Side
    owner: str
    identity: Identity = field(repr=False)
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
    frozen: frozenset[str]
    problems: tuple[str, ...]

    def numbers(self, *kinds: str) -> list[int]:
        return sorted(number for kind in kinds for number in self.kinds.get(kind, []))

    def last(self, kind: str) -> Entry | None:
        numbers = self.kinds.get(kind)
        return self.entries[numbers[-1] - 1] if numbers else None


def collect(place: Path) -> Facts:
    """Raises UsageError unless ``place`` is a site's or a coordinator's folder."""
    if SiteHome(place).config_path.exists():
        return _site(SiteHome.open(place))
    if CoordinatorHome(place).config_path.exists():
        return _coordinator(CoordinatorHome.open(place))
    raise UsageError(f"{place} is neither a site's folder nor a coordinator's")


def _site(home: SiteHome) -> Facts:
    problems: list[str] = []
    with closing(home.audit_log()) as log:
        document = log.export(home.config.hospital)
    studies, still_open, lives = [], set(), {}
    with closing(home.ledger()) as ledger:
        balance = ledger.balance()
        lives = {
            name: f"ε = {life.epsilon:g}, δ = {life.delta:g}"
            for name, life in balance.lives.items()
        }
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
        policy = home.policy.model_dump(mode="json") | {"digest": home.policy.digest}
    except FloError as error:
        problems.append(f"policy: {error}")
    frozen = {path.name[:64] for path in (home.directory / "snapshots").glob("*.npz")}
    return _facts(
        "site",
        home.config.hospital,
        home.identity(),
        document,
        problems,
        folder=home.directory,
        secrets=("identity.key", "split.key", "patients.key"),
        certificate=home.directory / "certificate.pem",
        keystore=home.config.keystore.kind,
        studies=studies,
        open_studies=still_open,
        policy=policy,
        lives=lives,
        frozen=frozen,
    )


def _coordinator(home: CoordinatorHome) -> Facts:
    with closing(home.store()) as store, closing(home.audit_log()) as log:
        sign_events(store, log)
        document = log.export("coordinator")
        offers = store.offers()
    return _facts(
        "coordinator",
        "coordinator",
        home.identity(),
        document,
        [],
        folder=home.directory,
        secrets=("identity.key", "ca.key"),
        certificate=home.certificate_path,
        keystore=home.config.keystore.kind,
        studies=[from_canonical(offer.study.canonical_bytes) for offer in offers],
        open_studies={o.study.digest for o in offers if o.status in ("offered", "running")},
        policy={},
        lives={},
        frozen=set(),
    )


def _facts(
    side: Side,
    owner: str,
    identity: Identity,
    log: bytes,
    problems: list[str],
    *,
    folder: Path,
    secrets: tuple[str, ...],
    certificate: Path,
    keystore: str,
    studies: list[Study],
    open_studies: set[str],
    policy: dict[str, Any],
    lives: dict[str, str],
    frozen: set[str],
) -> Facts:
    countersigned = 0
    try:
        (found,) = verify([log])
        countersigned = found.countersigned
    except FloError as error:
        problems.append(str(error))
    export, kinds = read_export(log), defaultdict(list)
    for entry in export.entries:
        kinds[entry.kind].append(entry.number)
    return Facts(
        side=side,
        owner=owner,
        identity=identity,
        entries=export.entries,
        kinds=dict(kinds),
        countersigned=countersigned,
        keys={name: _well_kept(folder / name) for name in secrets},
        keystore=keystore,
        certificate_ends=_end_of(certificate),
        studies=tuple(studies),
        open_studies=frozenset(open_studies),
        policy=policy,
        lives=lives,
        frozen=frozenset(frozen),
        problems=tuple(problems),
    )


def _well_kept(path: Path) -> bool:
    """Sealed by the key store, and for its owner only."""
    with suppress(OSError):
        return is_sealed(path.read_bytes()) and stat.S_IMODE(path.stat().st_mode) == 0o600
    return False


def _end_of(certificate: Path) -> str | None:
    with suppress(OSError, ValueError):
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        return found.not_valid_after_utc.date().isoformat()
    return None
