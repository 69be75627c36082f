"""A hostile patient at the hospital's source changes nobody else, connector by connector."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.clients.sources.test_neighbours import NEWCOMERS, others_changed
from tests.proofs.rows import Row


def rows(cases: int) -> Iterator[Row]:
    """In how many of so many cases anybody else was changed by a bit, or put elsewhere."""
    for kind in NEWCOMERS:
        began, changed = time.monotonic(), 0
        for seed in range(cases):
            with tempfile.TemporaryDirectory() as folder:
                changed += bool(others_changed(kind, Path(folder), seed))
        name, seconds = f"{kind}: a hostile patient changes others", time.monotonic() - began
        yield Row(name, changed, cases, seconds, most=0)
