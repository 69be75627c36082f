"""The table of decisions on models: a signed list for each model's name."""

from __future__ import annotations

from typing import Any

from flo.documents import canonical
from flo.server.store.tables import Tables, now


class ModelTables(Tables):
    """Stores and reads lists; ``flo.server.studies.model_decisions`` decides and checks."""

    def model_states(self) -> dict[str, bytes]:
        """Return name -> its signed list (``flo.published.model_states``)."""
        return {row[0]: bytes(row[1]) for row in self._all("SELECT * FROM model_states")}

    def keep_model_states(
        self, name: str, document: bytes, decided: list[tuple[str, dict[str, Any]]]
    ) -> None:
        """Store a list in place of an earlier one, with a ``model-decided`` event of each new
        decision, (study, facts): all or none."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO model_states VALUES (?, ?)", (name, document))
            self._db.executemany(
                "INSERT INTO events (study, time, kind, facts) VALUES (?, ?, 'model-decided', ?)",
                [(study, now(), canonical.encode(facts).decode()) for study, facts in decided],
            )
