"""Catalogues of group ``statistics``: errors of tables, and answers to random questions.

The truth of a table and of a question is what pandas' rows hold. *Noise*: the patients stay;
*redrawn*: they are drawn again, too, and the truth is the source's share of all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np

from flo.arrays import Floats
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import statistics
from flo.privacy.releases.catalogue import CatalogueBlock, Places
from flo.statistics.catalogue import FALSE_ALARM, CatalogueRead, read_catalogue
from flo.study.document import Study
from flo.study.features import input_names
from tests.proofs.regressions import everyone_of, redrawn
from tests.proofs.rows import Row, chance
from tests.proofs.statistics_sets import Source, fars_catalogue, support2_catalogue

EPSILON, STRONGEST, QUESTIONS = 0.3, 20, 100
_RUNS, _QUICK_RUNS = 1000, 20
_REDRAWN = {"support2": 300, "fars": 60}
_LEAST, _MEDIAN = 0.93, (0.93, 0.98)
Question = tuple[Places, Floats]


def rows(quick: bool) -> Iterator[Row]:
    """Every set, or SUPPORT2 only."""
    for source, part in (
        [support2_catalogue()] if quick else [support2_catalogue(), fars_catalogue()]
    ):
        study = source.asking(EPSILON, part)
        everyone = everyone_of(study, source)
        yield from _tables(study, source, everyone, _QUICK_RUNS if quick else 200)
        yield from _alarms(study, source, everyone, _QUICK_RUNS if quick else 50, room=quick)
        yield from _questions(study, source, everyone, quick)


def _block(study: Study) -> CatalogueBlock:
    (block,) = statistics.layout(study)
    assert isinstance(block, CatalogueBlock)
    return block


def _variance(study: Study) -> float:
    return combined_variance(study, Plan.of(study).purpose("statistics"), len(study.hospitals))


def _read(study: Study, exact: Floats, draw: np.random.Generator) -> CatalogueRead:
    variance = _variance(study)
    noisy = exact + draw.normal(0, math.sqrt(variance), len(exact))
    return read_catalogue(_block(study), noisy, variance)


def _whole(read: CatalogueRead, pair: Places) -> Floats:
    """A pair's counts, cell by cell, as a question gets them."""
    sizes = [read.block.columns[n].size for n in pair]
    found = np.zeros(sizes)
    for cell in np.ndindex(*sizes):
        mask = np.zeros(sizes)
        mask[cell] = 1.0
        found[cell] = read.counted(pair, mask).patients.value
    return found


def _tables(study: Study, source: Source, everyone: Patients, runs: int) -> Iterator[Row]:
    """Half the L1 distance of tables to the exact ones, beside independence by the same release."""
    began, draw = time.monotonic(), np.random.default_rng(31)
    exact = statistics.exact(study, everyone)
    silent = read_catalogue(_block(study), exact, 0.0)
    strengths = {pair: silent.association(pair) or 0.0 for pair in silent.block.pairs}
    pairs = sorted(strengths, key=lambda pair: -strengths[pair])[:STRONGEST]
    truth = {pair: _whole(silent, pair) for pair in pairs}
    errors = {pair: np.zeros(2) for pair in pairs}
    for _ in range(runs):
        read = _read(study, exact, draw)
        for pair in pairs:
            one, other = read.column(pair[0]), read.column(pair[1])
            independent = np.outer(one, other) / one.sum()
            for k, table in enumerate((read.table(pair), independent)):
                errors[pair][k] += np.abs(table - truth[pair]).sum() / 2 / everyone.count / runs
    took = time.monotonic() - began
    ours, theirs = np.mean(list(errors.values()), axis=0)
    name = f"{source.name}, catalogue, ε = {EPSILON}: {STRONGEST} most associated pairs"
    yield Row(f"{name}, error of a table", float(ours), runs, took)
    yield Row(f"{name}, error of independence", float(theirs), runs, took)
    yield Row(f"{name}, error beside independence", float(ours / theirs), runs, took, most=1.0)
    better = float(np.mean([one < other for one, other in errors.values()]))
    yield Row(f"{name}, share of them that are better", better, runs, took)


def _alarms(
    study: Study, source: Source, everyone: Patients, runs: int, *, room: bool
) -> Iterator[Row]:
    """Pairs that are called associated where every column was shuffled by itself."""
    began, draw = time.monotonic(), np.random.default_rng(32)
    found, width = 0, everyone.inputs.shape[1]
    starts = _starts(study, width)
    pairs = len(_block(study).pairs)
    for _ in range(runs):
        inputs = everyone.inputs.copy()
        for begin, end in starts:
            inputs[:, begin:end] = inputs[draw.permutation(len(inputs)), begin:end]
        labels = draw.permutation(everyone.labels)
        shuffled = Patients(inputs, labels, everyone.patient, everyone.count)
        read = _read(study, statistics.exact(study, shuffled), draw)
        found += sum(read.association(pair) is not None for pair in read.block.pairs)
    share, of = found / (runs * pairs), runs * pairs
    slack = 0.005 + chance(FALSE_ALARM, of) if room else 0.002
    took = time.monotonic() - began
    name = f"{source.name}, catalogue, ε = {EPSILON}: independent pairs called associated"
    yield Row(name, share, of, took, most=FALSE_ALARM + slack)


def _starts(study: Study, width: int) -> list[tuple[int, int]]:
    """Where each column's inputs are."""
    names = input_names(study.data)
    ends, found = [], []
    for column in study.data.columns:
        mine = [
            n for n, name in enumerate(names) if name.split("=")[0].split(">")[0] == column.name
        ]
        found.append((mine[0], mine[-1] + 1))
        ends.append(mine[-1] + 1)
    assert max(ends) == width
    return found


def _asked(block: CatalogueBlock, draw: np.random.Generator) -> list[Question]:
    """Random questions: a random pair, and for each column a code, or the values on one side."""
    found = []
    for _ in range(QUESTIONS):
        pair = block.pairs[int(draw.integers(len(block.pairs)))]
        sides = []
        for column in (block.columns[n] for n in pair):
            side = np.zeros(column.size)
            known = column.size - column.missing
            if column.edges:
                end = int(draw.integers(1, known))
                side[: known if draw.random() < 0.5 else end] = 1.0
                if side[:known].all():
                    side[:end] = 0.0
            else:
                side[int(draw.integers(known))] = 1.0
            sides.append(side)
        found.append((pair, np.outer(*sides)))
    return found


def _questions(study: Study, source: Source, everyone: Patients, quick: bool) -> Iterator[Row]:
    exact = statistics.exact(study, everyone)
    silent = read_catalogue(_block(study), exact, 0.0)
    asked = _asked(_block(study), np.random.default_rng(33))
    truth = [silent.counted(*question).patients.value for question in asked]
    for how in ("noise", "redrawn"):
        began, draw = time.monotonic(), np.random.default_rng(34)
        runs = _RUNS if how == "noise" else _REDRAWN[source.name]
        runs = _QUICK_RUNS if quick else runs
        held, numbers = np.zeros(QUESTIONS), 0
        for _ in range(runs):
            sums = exact if how == "noise" else statistics.exact(study, redrawn(everyone, draw, 1))
            read = _read(study, sums, draw)
            for n, question in enumerate(asked):
                found = read.counted(*question).patients
                held[n] += found.low <= truth[n] <= found.high
                numbers += found.low > 0
        took, shares = time.monotonic() - began, held / runs
        name = f"{source.name}, catalogue, ε = {EPSILON}: {how}"
        slack = chance(0.95, runs) + 0.01 if runs < _RUNS else 0.0
        yield Row(
            f"{name}, least held of {QUESTIONS} questions",
            float(shares.min()),
            runs,
            took,
            _LEAST - slack,
        )
        low, high = _MEDIAN
        middle = float(np.median(shares))
        yield Row(f"{name}, median held", middle, runs, took, low - slack / 2, high + slack / 2)
        if how == "noise":
            answered = numbers / (runs * QUESTIONS)
            yield Row(f"{name}, answered with a number, not 'fewer than'", answered, runs, took)
