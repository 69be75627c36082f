"""What a victim holds, as one value to compare before and after an attack."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from flo.clients.home.site_home import SiteHome

# All of the coordinator's database but its events, where refusals are entered.
TABLES = ("meta", "invitations", "hospitals", "studies", "approvals", "runs", "heads", "extracts")
State = dict[str, str]


def coordinator_state(folder: Path) -> State:
    """Its tables, the what it and others countersigned, and the files that hold keys."""
    kept = [path for path in folder.iterdir() if path.suffix in (".pem", ".toml", ".key", ".json")]
    return {
        **_tables(folder / "coordinator.sqlite", *TABLES),
        **_tables(folder / "audit.sqlite", "witnessed", "receipts"),
        **_files(folder, [*kept, *(folder / "models").iterdir()]),
    }


def site_state(home: SiteHome) -> State:
    """The ledger's rows, and every file but databases and logs, where refusals are entered."""
    folder = home.directory
    kept = [
        path
        for path in folder.rglob("*")
        if path.is_file() and ".sqlite" not in path.name and path.parent.name != "log"
    ]
    return {**_tables(folder / "ledger.sqlite", "rows"), **_files(folder, kept)}


def _tables(path: Path, *tables: str) -> State:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return {table: _rows(database, table) for table in tables}


def _rows(database: sqlite3.Connection, table: str) -> str:
    rows = database.execute(f"SELECT * FROM {table}").fetchall()
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def _files(folder: Path, paths: Iterable[Path]) -> State:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
    }
