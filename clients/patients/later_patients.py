"""Patients whose first record is later than a recovery, as the steward signed.

A restored ledger does not know whom the lost rows froze, so it takes every unknown id for a patient
of that time (``flo.privacy.ledger.generations``). The steward's list names those who were not there
yet. It holds keyed hashes, sealed; the audit log names its digest.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Literal

from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import hashed_id
from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import RefusedError, UsageError
from flo.keys.claims import Digest
from flo.keys.keystore import read_secret, write_secret
from flo.privacy.ledger.generations import LaterPatients

_LIMIT = 1 << 30


class _Listed(Document):
    """``after``: hash of the recovery's last row in the ledger."""

    schema_version: Literal[1] = 1
    after: Digest
    patients: tuple[Digest, ...]


def later_patients(home: SiteHome, population: Population) -> LaterPatients | None:
    """Return the population's list, or None. Raises TrustError if it was edited."""
    path = _path(home, population)
    if not path.exists():
        return None
    data = read_secret(path, home.open_keystore(), _purpose(population))
    document = canonical.decode(data, limit=_LIMIT, what="later patients", values=_LIMIT)
    listed = parse(_Listed, document, str(path))
    return LaterPatients(listed.after, frozenset(listed.patients))


def read_ids(file: Path) -> list[str]:
    """Return the ids in a text file, one a line. Raises UsageError: none, or no such text file."""
    try:
        ids = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read as text ({type(error).__name__})") from error
    if not ids:
        raise UsageError(f"{file} holds no id", hint="write one patient id a line")
    return ids


def add_later_patients(home: SiteHome, population: Population, ids: Collection[str]) -> int:
    """Add ids to the population's list; return how many are on it.

    Raises:
        UsageError: an id is blank. RefusedError: this ledger was never restored, or knows one of
            the ids from an earlier study.
    """
    with home.decision_lock(), closing(home.open_ledger()) as ledger:
        after = ledger.recovery()
        if after is None:
            raise RefusedError(
                "this ledger was never restored from a backup: new patients have a new budget "
                "without a list"
            )
        hashes = {hashed_id(home, name) for name in ids}
        known = hashes & ledger.known_patients(population.name)
        if known:
            raise RefusedError(
                f"{len(known)} of the {len(hashes)} ids took part in an earlier study, so their "
                "first record is not later than the recovery; nothing was stored",
                hint="list only ids of patients who came after the recovery",
            )
        before = later_patients(home, population)
        if before is not None and before.after == after:
            hashes |= before.patients
        listed = _Listed(after=after, patients=tuple(sorted(hashes)))
        data = listed.to_bytes()
        write_secret(_path(home, population), home.open_keystore(), _purpose(population), data)
        home.record(
            "later-patients", population=population.name, after=after, list=canonical.digest(data)
        )
    return len(hashes)


def _purpose(population: Population) -> str:
    return f"later patients of {population.name}"


def _path(home: SiteHome, population: Population) -> Path:
    return home.directory / f"later-patients.{population.name}.sealed"
