"""No patient pays more than their life, whatever happens to a ledger: against the truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from flo.privacy.ledger.ledger import Ledger
from tests.privacy.ledger.life_histories import (
    KEY,
    LIFE,
    Life,
    generations_of,
    live,
    read,
    side_of,
)


def check(life: Life) -> None:
    """Compare the ledger with the truth, and with a reader that knows only the format."""
    life.ledger.close()
    found, born = read(life.path), generations_of(life.path)
    for patient in life.patients:
        true = life.true_cost(patient)
        assert true <= found.budget * (1 + 1e-9), "beyond the patient's life"
        if patient in born:  # a restore forgets some; they are of generation 0 once they are back
            assert true <= found.paid[side_of(patient)][born[patient]] * (1 + 1e-9)
        elif life.restores and true:
            assert true <= found.paid[side_of(patient)][0] * (1 + 1e-9)
    for paid in found.paid.values():
        for generation, cost in paid.items():
            assert cost <= found.budget * (1 + 1e-9)
            assert found.epsilon(generation) <= LIFE["epsilon"] * (1 + 1e-9)
    opened = Ledger(life.path, KEY)
    balance = opened.balance()
    for side, paid in found.paid.items():
        for generation, cost in paid.items():
            assert balance.committed("main", side, generation) == pytest.approx(cost, rel=1e-9)
    opened.close()


@pytest.mark.parametrize("seed", range(40))
def test_no_patient_pays_more_than_their_life(tmp_path: Path, seed: int) -> None:
    check(live(tmp_path, seed))
