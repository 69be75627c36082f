"""The ledger at 10 to 10,000 entries: a charge, opening with the budget check, a cold report."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from flo.bench import BenchRow, compared
from flo.clients.approvals.approve import approve
from flo.clients.connection.offers import Offered
from flo.clients.home.site_config import make_config
from flo.clients.home.site_home import SiteHome
from flo.clients.records.extract import make_extract
from flo.datasets import write
from flo.keys.identity import Identity
from flo.privacy.ledger.ledger import Ledger
from flo.storage.files import write_public
from flo.study.document import Study
from flo.study.loading import load

STUDY = Path(__file__).parent.parent / "examples" / "heart" / "study.toml"
ENTRIES = (10, 100, 1000, 10_000)


def rows(*, quick: bool) -> Iterator[BenchRow]:
    """Measure one ledger as it grows; each added entry is a real charge of one release."""
    with tempfile.TemporaryDirectory() as folder:
        home, study, reservation = _site(Path(folder))
        book, numbers = home.open_ledger(), count()

        def charge() -> None:
            n = next(numbers)
            facts = {"study": study.digest, "run": "run-1", "round": n, "attempt": 1}
            facts |= {"model": "0" * 64, "cohort": "1" * 64, "reply": f"{n:064x}"}
            book.charge(reservation, "training", f"request {n}", facts)

        for entries in ENTRIES[1:3] if quick else ENTRIES:
            while book.head().sequence < entries:
                charge()
            yield from _of(home, book, study, entries)
            if entries == ENTRIES[2]:
                name, flush = "charge one release", lambda: _flush(Path(folder))
                yield compared("ledger", name, charge, flush, how="1 KiB, fsync")
        book.close()


def _of(home: SiteHome, book: Ledger, study: Study, entries: int) -> Iterator[BenchRow]:
    """Measure opening a ledger of ``entries`` entries, and making a report from it."""
    folder = home.directory.parent
    extract = folder / "extract.json"
    extract.write_bytes(make_extract(home, book, study.digest))

    def open_and_gate() -> None:
        with closing(home.open_ledger()) as opened:
            opened.balance().remaining("main", "training")

    data = (home.directory / "ledger.sqlite").read_bytes()
    yield compared(
        "ledger",
        f"open + gate, {entries:,} entries",
        open_and_gate,
        lambda: hashlib.sha256(data).digest(),
        how="SHA-256 of the file",
        runs=9,
    )
    yield compared(
        "ledger",
        f"cold report, {entries:,} entries",
        lambda: _flo("audit", "report", str(extract), "--out", str(folder)),
        lambda: _flo("--help"),
        how="flo --help",
        runs=3,
    )


def _site(folder: Path) -> tuple[SiteHome, Study, int]:
    """Create Cleveland's site and approve a long heart study there."""
    coordinator = Identity.new()
    write("heart-disease", folder)
    data = folder / "cleveland.csv"
    planned = load(STUDY).with_mechanism(noise="local", steps=ENTRIES[-1])
    home = SiteHome.create(
        folder / "site",
        make_config(
            "cleveland",
            file=data,
            id_column="patient_id",
            epsilon=0.9,
            declared_size=300,
            hold_out=0.3,
        ),
    )
    info = f'{{"public":"{coordinator.public.hex()}","schema_version":1,"url":"https://localhost"}}'
    write_public(home.directory / "coordinator.json", info.encode())
    keys = {h.id: Identity.new().fingerprint for h in planned.hospitals}
    study = planned.with_fingerprints(keys | {"cleveland": home.open_identity().fingerprint})
    offered = Offered(study, coordinator.sign("study", study.canonical_bytes))
    approval = approve(home, _Nods(), offered, home.read_config().population("main"))  # type: ignore[arg-type]
    return home, study, approval.reservation


class _Nods:
    """Fake coordinator: knows no ledger head of the site and accepts every approval."""

    def call(self, name: str, body: Any) -> Any:
        return {"head": None} if name == "heads" else {}


def _flush(folder: Path) -> None:
    with (folder / "reference").open("wb") as file:
        file.write(b"x" * 1024)
        file.flush()
        os.fsync(file.fileno())


def _flo(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "flo.cli", *arguments], check=True, capture_output=True)
