"""Draft studies: their text, not signed yet."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from flo.errors import StudyError
from flo.server.store.tables import Tables, now

_MOST = 100


@dataclass(frozen=True)
class SavedDraft:
    """``document``: TOML. ``person``, ``time``: of the last save."""

    id: str
    document: str
    person: str
    time: str


class DraftTables(Tables):
    """The table of drafts, limited to ``_MOST``. Contents are not validated here."""

    def save_draft(self, document: str, person: str, draft: str | None = None) -> str:
        """Store a draft, new or changed; return its id. Raises StudyError if there are too many."""
        name = draft or secrets.token_hex(8)
        with self._transaction():
            (others,) = self._db.execute(
                "SELECT count(*) FROM drafts WHERE id != ?", (name,)
            ).fetchone()
            if others >= _MOST:
                raise StudyError(
                    f"there are {_MOST} drafts, the most that can be stored",
                    hint="discard drafts that are no longer needed",
                )
            row = (name, document, person, now())
            self._db.execute("INSERT OR REPLACE INTO drafts VALUES (?, ?, ?, ?)", row)
        return name

    def drafts(self) -> list[SavedDraft]:
        """Return all drafts, the last saved one at the end."""
        return [SavedDraft(*row) for row in self._all("SELECT * FROM drafts ORDER BY time")]

    def draft(self, draft: str) -> SavedDraft:
        """Return a draft. Raises StudyError if it does not exist."""
        row = self._one("SELECT * FROM drafts WHERE id = ?", draft)
        if row is None:
            raise StudyError("this draft no longer exists: it was signed or discarded")
        return SavedDraft(*row)

    def discard_draft(self, draft: str) -> None:
        """Delete a draft, if it exists."""
        self._write("DELETE FROM drafts WHERE id = ?", draft)
