"""Group ``years``: no patient pays more than their life, and a model goes on learning.

Random histories of a ledger are compared with what really happened to each patient, and with a
reader that knows only the documented format. Neighbours differ in one patient. The AUC by year is
that of ``flo simulate --years`` on real patients: the rule was chosen on other data than SUPPORT2.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flo.lab.simulation import simulate
from tests.privacy.ledger.life_histories import live
from tests.privacy.ledger.test_generations import neighbours
from tests.privacy.ledger.test_life_histories import check
from tests.proofs.hospitals import CHOSEN_ON
from tests.proofs.rows import Row

_HISTORIES, _NEIGHBOURS, _ACTIONS = 1000, 500, 40
_QUICK_HISTORIES, _QUICK_NEIGHBOURS = 40, 20
_YEARS, _SEEDS, _EPSILON = 5, 4, 0.5
_CHANCE = 0.01  # by which one seed's mean AUC may be off


def rows(quick: bool) -> Iterator[Row]:
    """The promises of generations, and of what they are for."""
    histories, pairs = (_QUICK_HISTORIES, _QUICK_NEIGHBOURS) if quick else (_HISTORIES, _NEIGHBOURS)
    yield _broken("histories where a patient pays beyond their life", _history, histories)
    yield _broken("neighbours who change another patient or a row", neighbours, pairs)
    began, seeds = time.monotonic(), 1 if quick else _SEEDS
    room = _CHANCE if quick else 0.0
    of = CHOSEN_ON["support2"]()
    study = of.study.with_epsilon(_EPSILON)
    found = simulate(study, of.hospitals, seeds=seeds, years=_YEARS, fast=True)
    document = found.document
    years: list[dict[str, Any]] = document["years"]
    first, last, runs = years[0], years[-1], 5 * seeds

    def row(name: str, figure: float, **limits: float) -> Row:
        return Row(f"support2, year {_YEARS}: {name}", figure, runs, _since(began), **limits)

    yield row("AUC of the model that goes on learning", last["continued"], least=0.82 - room)
    yield row(
        "under all patients at once", last["all_at_once"] - last["continued"], most=0.025 + room
    )
    gained = last["continued"] - last["first_only"]
    yield row("over the first year's model", gained, least=0.02 - room)
    slips = [
        before["continued"] - after["continued"] - 2 * after["standard_errors"]["continued"]
        for before, after in zip([first, *years], years, strict=False)
    ]
    yield row("largest fall in a year beyond two standard errors", max(slips), most=0.0)
    yield row("life ε of the most exposed patient", document["life_epsilon"], most=_EPSILON)


def _history(folder: Path, seed: int) -> None:
    check(live(folder, seed, _ACTIONS))


def _broken(name: str, play: Callable[[Path, int], None], count: int) -> Row:
    """Return how many of so many random cases break a promise."""
    began, broken = time.monotonic(), 0
    for seed in range(count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                play(Path(folder), seed)
            except AssertionError:
                broken += 1
    return Row(name, broken, count, _since(began), most=0)


def _since(began: float) -> float:
    return time.monotonic() - began
