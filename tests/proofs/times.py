"""Models of the time to an event against Cox's regression, and what is published of them.

Five folds, four seeds, models that FLO trained at ε = 0.5. C is Harrell's, by exact times of the
held-out patients, beside that of Cox's regression without privacy on the same training patients.
Risks: one half of the patients is trained on, a quarter is evaluated, with each hospital's noise;
predicted and observed (Kaplan-Meier, exact times) are of the last quarter. Intervals: the evaluated
patients are drawn anew from those held out, and every hospital's noise is drawn by the mechanism
itself; the truth is the exact concordance between periods of all held-out patients.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from flo.arrays import Floats
from flo.lab.folds import Fold, folds, scored
from flo.lab.simulation import run_once
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import evaluation, horizon_risks, score_waves
from flo.scores.metrics import Scores
from flo.study.models import log_odds
from flo.study.parameters import Vector
from tests.proofs.rows import Row, chance
from tests.proofs.times_sets import SETS, Followed, concordance_of, kaplan_meier
from tests.proofs.truth import released

_SEEDS, _SEEDS_OF_RISKS, _DRAWS, _LOST = 4, 16, 50, {"support2": 0.01}


def rows(quick: bool) -> Iterator[Row]:
    """C beside Cox's; predicted by observed at each horizon; coverage of the published interval."""
    for name in ("support2",) if quick else SETS:
        began, followed = time.monotonic(), SETS[name]()
        found = _tried(followed, 1 if quick else _SEEDS)
        runs, seconds = len(found.lost), time.monotonic() - began
        lost, most = float(np.mean(found.lost)), _LOST.get(name, 0.02)
        room = 3.5 * float(np.std(found.lost)) / runs**0.5 if quick else 0.0
        yield Row(f"{name}: C below Cox without privacy", lost, runs, seconds, most=most + room)
        outcome = followed.study.data.times
        assert outcome is not None
        for place, horizon in enumerate(outcome.horizons):
            predicted, observed = np.mean(found.risks, axis=0)[:, place]
            said = f"{name}: predicted / observed by {horizon:g} {outcome.unit}"
            ratio, runs_of = float(predicted / observed), len(found.risks)
            if name in _LOST and not quick:
                yield Row(said, ratio, runs_of, seconds, 0.95, 1.05)
            elif horizon == outcome.horizons[-1]:
                yield Row(said, ratio, runs_of, seconds, 0.85, 1.15)
            else:  # few events: the card's band says how little is known
                yield Row(said, ratio, runs_of, seconds)
        covered, draws = float(np.mean(found.covered)), len(found.covered)
        least = 0.87 - (chance(0.87, draws) if quick else 0.0)
        yield Row(f"{name}: 90 % interval holds the concordance", covered, draws, seconds, least)


@dataclass
class _Found:
    """``lost``: C of Cox minus C. ``risks``: predicted and observed at each horizon, by fold."""

    lost: list[float] = field(default_factory=list)
    risks: list[tuple[list[float], list[float]]] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)


def _tried(followed: Followed, seeds: int) -> _Found:
    found = _Found()
    for seed in range(seeds):
        for fold in folds(followed.hospitals, 5, seed):
            state, _ = run_once(followed.study, fold, fast=True)
            held = followed.held_out(fold)
            times, events = followed.times[held], followed.events[held]
            scores = log_odds(followed.study, state.model, followed.inputs[held])
            cox = concordance_of(followed.cox(~held)[held], times, events)
            found.lost.append(cox - concordance_of(scores, times, events))
            found.covered.extend(_covered(followed, fold, state.model, seed))
    for seed in range(_SEEDS_OF_RISKS if seeds > 1 else 1):  # of few events risks are noisy
        for fold in folds(followed.hospitals, 2, seed):  # a quarter of the patients is evaluated
            state, _ = run_once(followed.study, fold, fast=True)
            held = followed.held_out(fold)
            scores = log_odds(followed.study, state.model, followed.inputs[held])
            found.risks.extend(_risks(followed, state.model, held, scores))
    return found


def _risks(
    followed: Followed, model: Vector, held: np.ndarray, scores: Floats
) -> list[tuple[list[float], list[float]]]:
    """Predicted and observed risks of each half of the held-out, by an evaluation of the other."""
    study, outcome = followed.study, followed.study.data.times
    assert outcome is not None
    times, events = followed.times[held], followed.events[held]
    told = _told(followed, model, scores, outcome.coded(times, events))
    half, found = np.arange(len(scores)) % 2 == 0, []
    for own in (half, ~half):
        noisy = released(study, told[~own].sum(0))
        curves = horizon_risks.fit(study, model, noisy, _variance(followed))
        predicted = [float(curve.of(scores[own])[0].mean()) for curve in curves]
        observed = [kaplan_meier(times[own], events[own], one) for one in outcome.horizons]
        found.append((predicted, observed))
    return found


def _covered(followed: Followed, fold: Fold, model: Vector, seed: int) -> Iterator[bool]:
    """Whether the interval holds the exact concordance, for each of several releases."""
    study = followed.study
    test: Scores = scored(study, fold, lambda inputs: log_odds(study, model, inputs))
    told = _told(followed, model, test.scores, test.labels)
    generator = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        drawn = generator.integers(0, len(told), len(told))
        total = np.bincount(drawn, minlength=len(told)) @ told
        estimate, _ = evaluation.read(study, released(study, total), _variance(followed))
        yield estimate.low <= test.auc <= estimate.high


def _told(followed: Followed, model: Vector, scores: Floats, codes: Floats) -> Floats:
    """What each patient adds to a release, (patients, length)."""
    study = followed.study
    vectors = score_waves.vectors(evaluation.Positions.of_model(study, model).of(scores))
    told = np.zeros((len(scores), study.data.label_codes, score_waves.LENGTH))
    told[np.arange(len(scores)), codes.astype(int)] = vectors
    return told.reshape(len(scores), -1)


def _variance(followed: Followed) -> float:
    part = Plan.of(followed.study).purpose("evaluation")
    return combined_variance(followed.study, part, len(followed.study.hospitals))
