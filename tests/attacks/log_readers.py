"""Where a refusal may be written down, read as lines: what kind of thing, and its facts."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from flo.cli.terminal.output import explain

Book = Callable[[], list[str]]


def audit_book(folder: Path) -> Book:
    """The signed entries of an audit log."""

    def lines() -> list[str]:
        path = folder / "audit.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT kind, facts FROM entries ORDER BY number").fetchall()
        return [f"{kind} {facts}" for kind, facts in rows]

    return lines


def log_book(path: Path) -> Book:
    """The lines of a process's own log."""

    def lines() -> list[str]:
        found = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
        return [f"{entry.pop('event')} {json.dumps(entry)}" for entry in found]

    return lines


class Screen:
    """What commands of people showed of their refusals: exit code and text."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __call__(self) -> list[str]:
        return list(self._lines)

    def explain(self, error: Exception) -> None:
        """As the command line ends."""
        with contextlib.redirect_stderr(io.StringIO()) as shown:
            code = explain(error)
        self.add(code, shown.getvalue())

    def add(self, code: int, text: str) -> None:
        self._lines.append(f"{code} {text}")
