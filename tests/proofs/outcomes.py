"""Outcomes other than yes or no: the time to an event, numbers and counts, classes."""

from __future__ import annotations

from collections.abc import Iterator

from tests.proofs import advised, classes, finished, quantities, times
from tests.proofs.rows import Row


def rows(quick: bool) -> Iterator[Row]:
    """What a model is worth beside one without privacy, and whether what is published is true."""
    yield from times.rows(quick)
    yield from quantities.rows(quick)
    yield from classes.rows(quick)
    yield from finished.rows(quick)
    yield from advised.rows(quick)
