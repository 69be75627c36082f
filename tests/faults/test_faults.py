"""A short, seeded part of the fault bench; ``make bench-faults`` runs three hundred schedules.

To replay one: ``python -m tests.faults 1 SEED``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.bench import run_many

SEEDS = range(4)


@pytest.mark.slow
def test_whatever_strikes_nothing_is_lost_and_nothing_counted_short(tmp_path: Path) -> None:
    said: list[str] = []
    outcomes = run_many(tmp_path, SEEDS, said.append)
    assert not any(outcome.wrong for outcome in outcomes), "\n".join(said)
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    assert len(done) >= len(SEEDS) - 1, "\n".join(said)  # without a human
