"""What a victim holds, as one value to compare before and after an attack."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from flo.clients.home import SiteHome

# All of the coordinator's database but its events, where refusals are entered.
TABLES = ("meta", "invitations", "hospitals", "studies", "approvals", "runs", "heads", "extracts")
State = dict[str, str]


def coordinator_state(folder: Path) -> State:
    """Members, invitations, studies, approvals, heads, extracts, and the files that hold keys."""
    with closing(sqlite3.connect(f"file:{folder / 'coordinator.sqlite'}?mode=ro", uri=True)) as db:
        found = {table: _rows(db, table) for table in TABLES}
    kept = [path for path in folder.iterdir() if path.suffix in (".pem", ".toml", ".key", ".json")]
    return found | _files(folder, [*kept, *(folder / "models").iterdir()])


def site_state(home: SiteHome) -> State:
    """The ledger's rows, and every file but the audit log, where refusals are entered."""
    folder = home.directory
    with closing(sqlite3.connect(f"file:{folder / 'ledger.sqlite'}?mode=ro", uri=True)) as db:
        rows = _rows(db, "rows")
    kept = [path for path in folder.rglob("*") if path.is_file() and ".sqlite" not in path.name]
    return {"ledger": rows} | _files(folder, kept)


def _rows(db: sqlite3.Connection, table: str) -> str:
    return hashlib.sha256(
        repr(db.execute(f"SELECT * FROM {table}").fetchall()).encode()
    ).hexdigest()


def _files(folder: Path, paths: Iterable[Path]) -> State:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
    }
