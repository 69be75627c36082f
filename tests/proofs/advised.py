"""What ``flo study check`` says of studies of other outcomes, beside what they lose on real data.

Each set at three ε, with the settings that ``flo study new`` drafts; five folds, two seeds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from flo.clients.quality.check import EncodedTable
from flo.lab.advice import candidates
from flo.lab.comparison import pooled, scores_by
from flo.lab.folds import folds, scored
from flo.lab.simulation import run_once
from flo.study import usual
from flo.study.document import Study
from tests.proofs.finished import MAKERS
from tests.proofs.rows import Row

_EPSILONS, _SEEDS = (0.3, 0.5, 0.9), 2


def rows(quick: bool) -> Iterator[Row]:
    """How often the advice for or against a study was wrong."""
    if quick:
        return
    began, wrong, told = time.monotonic(), list[str](), 0
    for name, make in MAKERS.items():
        data = make()
        everyone = sum(hospital.declared_size for hospital in data.study.hospitals)
        for epsilon in _EPSILONS:
            settings = usual.whitened(everyone, epsilon, data.study.data.outcome)
            study = data.study.with_mechanism(**settings, epsilon=epsilon)
            (way,) = candidates(study)
            if way.advised is None:
                continue
            told += 1
            lost = _lost(study, data.hospitals)
            wrong += [f"{name} {epsilon:g}"] * (way.advised != (lost <= way.limit))
    row = f"wrong advice for or against a study ({', '.join(wrong) or 'none'})"
    yield Row(row, len(wrong), told, time.monotonic() - began, most=max(1, told // 10))


def _lost(study: Study, hospitals: dict[str, EncodedTable]) -> float:
    """AUC, macro AUC or concordance below that of a regression on the pooled patients."""
    lost = []
    for seed in range(_SEEDS):
        for fold in folds(hospitals, 5, seed):
            state, _ = run_once(study, fold, fast=True)
            ours = scored(study, fold, scores_by(study, state.model))
            lost.append(pooled(study, fold).auc - ours.auc)
    return float(np.mean(lost))
