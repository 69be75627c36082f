"""Forged by whoever holds the key: chain and signature are right, the arithmetic is not."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flo.errors import TrustError
from flo.keys.claims import row_statement
from flo.keys.identity import Identity
from flo.privacy.accounting.life_budget import LifetimeBudget
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.ledger.rows import ZERO_HASH, LedgerRow
from flo.privacy.ledger.store import LedgerFile
from flo.privacy.mechanisms.mechanisms import FullBatchSum
from tests.privacy.ledgers import fill, new_ledger


@pytest.fixture
def identity() -> Identity:
    return Identity.new()


@pytest.fixture
def filled(tmp_path: Path, identity: Identity) -> Path:
    """A closed ledger of seven rows; three releases of a study of ε = 0.5 are charged."""
    path = tmp_path / "ledger.sqlite"
    with new_ledger(path, identity) as ledger:
        fill(ledger)
    return path


def forge(path: Path, identity: Identity, *rows: dict[str, Any]) -> None:
    """Append rows with a right chain and right signatures."""
    with closing(LedgerFile(path)) as file:
        kept = list(file.rows(0, ZERO_HASH))
        previous, sequence = kept[-1].hash, len(kept)
        for public in rows:
            sequence += 1
            document = {"time": "2030-01-01T00:00:00+00:00", "population": "main", **public}
            row = LedgerRow.chained(
                previous, sequence, document, {"study": "x"}, os.urandom(16).hex()
            )
            signature = identity.sign("ledger-row", row_statement(sequence, row.hash))
            file.insert(replace(row, signature=signature), None)
            previous = row.hash


def reserve(releases: Any = 1, sigma: float = 50.0, purpose: str = "training") -> dict[str, Any]:
    mechanism = FullBatchSum(6, 1.0, 0.5).as_document() | {"noise_multiplier": sigma}
    parts = {purpose: {"mechanism": mechanism, "releases": releases}}
    return {"kind": "reserve", "parts": parts}


def release(of: int = 8, sigma: float = 50.0, purpose: str = "training") -> dict[str, Any]:
    mechanism = FullBatchSum(6, sigma, 0.5).as_document()
    named = {"reservation": of, "purpose": purpose, "reply": "0" * 64}
    return {"kind": "release", "mechanism": mechanism, **named}


def birth(**changes: Any) -> dict[str, Any]:
    life = LifetimeBudget.create(0.9, 1e-6)
    budget = {"epsilon": 0.9, "delta": 1e-6, "order": life.order, "renyi": life.renyi}
    return {"kind": "birth", **budget, "declared_size": 40, "hold_out": 0.3, **changes}


FORGED: dict[str, list[dict[str, Any]]] = {
    "a reservation beyond the life budget": [reserve(10_000)],
    "two that do not fit together": [reserve(sigma=8.0), reserve(sigma=8.0)],
    "a survey that fits training alone": [
        reserve(sigma=6.0, purpose="evaluation"),
        reserve(sigma=8.0, purpose="survey"),
    ],
    "a negative reservation": [reserve(-5)],
    "half a release": [reserve(0.5)],
    "a reservation of nothing": [{"kind": "reserve", "parts": {}}],
    "a reservation for an unknown purpose": [reserve(purpose="curiosity")],
    "a release beyond its reservation": [reserve(), release(), release()],
    "a release for another purpose": [reserve(), release(purpose="survey")],
    "a release with more noise on paper": [reserve(), release(sigma=60.0)],
    "a release without a reservation": [release(of=1)],
    "a release after the settlement": [
        reserve(),
        {"kind": "settle", "reservation": 8},
        release(),
    ],
    "a release of another population": [reserve(), release() | {"population": "other"}],
    "an unknown mechanism": [
        {"kind": "reserve", "parts": {"training": {"mechanism": {"kind": "x"}, "releases": 1}}}
    ],
    "a mechanism without noise": [
        {
            "kind": "reserve",
            "parts": {
                "training": {
                    "mechanism": {**FullBatchSum(6, 1.0, 0.5).as_document(), "noise_multiplier": 0},
                    "releases": 1,
                }
            },
        }
    ],
    "a repeat of other bits": [
        reserve(),
        release(),
        {"kind": "repeat", "reservation": 8, "purpose": "training", "of": 9, "reply": "1" * 64},
    ],
    "a second birth": [birth()],
    "a birth with more delta than its size allows": [birth(population="new", declared_size=10**6)],
    "a birth with a larger Rényi budget": [birth(population="new", renyi=5.0)],
    "a birth at another order": [birth(population="new", order=2)],
    "an unknown kind": [{"kind": "gift"}],
}


def test_rows_that_keep_the_rules_open(filled: Path, identity: Identity) -> None:
    forge(filled, identity, reserve(2), release(), release(), birth(population="new"))
    with closing(Ledger(filled, identity)) as ledger:
        assert ledger.head().sequence == 11


@pytest.mark.parametrize("what", FORGED)
def test_a_ledger_that_breaks_a_rule_does_not_open(
    filled: Path, identity: Identity, what: str
) -> None:
    forge(filled, identity, *FORGED[what])
    with pytest.raises(TrustError, match=f"row {7 + len(FORGED[what])} breaks a rule"):
        Ledger(filled, identity)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_a_reservation_of_no_cost_that_can_be_told_does_not_open(
    filled: Path, identity: Identity
) -> None:
    forge(filled, identity, reserve(0, sigma=1e-200), reserve(10_000, sigma=0.1))
    with pytest.raises(TrustError):
        Ledger(filled, identity)
