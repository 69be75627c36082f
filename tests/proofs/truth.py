"""The stated interval holds the exact AUC of the published model, and is no wider than it must be.

For each set: models are trained by FLO under the study's ε, each with another 30 % of the patients
held out. For each of several releases the evaluated patients are drawn anew from all that were held
out, with replacement, and every hospital's noise is drawn by the mechanism itself. The truth is the
model's exact AUC on all held-out patients, a patient's records sharing a weight of 1.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.clients.records.snapshot import Snapshot
from flo.lab.folds import Fold, within
from flo.lab.release_checks import checks
from flo.lab.simulation import run_once
from flo.privacy.accounting.plan import Plan, combined_variance, noise_shares
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import evaluation, score_waves
from flo.privacy.releases.score_waves import Estimate
from flo.scores.metrics import exact_auc
from flo.study import models
from flo.study.document import Study
from flo.study.features import cell_of
from flo.study.parameters import Vector
from tests.proofs import gate, latency, source
from tests.proofs.hospitals import CHOSEN_ON, GENERAL, Consortium
from tests.proofs.rows import Row, chance

HELD_OUT = 0.3
_MODELS, _DRAWS = 200, 10
_QUICK = {"heart": 20, "support2": 20}
_AUDITS, _QUICK_AUDITS = 300, 20
_PAIRS, _QUICK_PAIRS = 200, 40
_CASES, _QUICK_CASES = 500, 20
_SUBGROUPS = {"heart": "sex", "support2": "sex", "fars": "sex", "nass": "sex"}


def rows(quick: bool) -> Iterator[Row]:
    """Coverage, bias and width of the AUC on every set, and coverage of subgroups; false alarms of
    the self-audit; what the time of a release tells of an opt-out; whom a hostile patient changes;
    what the gate asks about data in which nothing is wrong.
    """
    yield from gate.rows(quick=quick)
    yield from source.rows(_QUICK_CASES if quick else _CASES)
    yield from latency.rows(_QUICK_PAIRS if quick else _PAIRS)
    yield from _audits(_QUICK_AUDITS if quick else _AUDITS)
    sets = CHOSEN_ON | GENERAL
    for name in _QUICK if quick else sets:
        began, consortium = time.monotonic(), sets[name]()
        found = _tried(consortium, _QUICK[name] if quick else _MODELS)
        runs, seconds = len(found.errors), time.monotonic() - began
        room = chance(0.87, runs) if quick else 0.0
        covered = float(np.mean(found.covered))
        yield Row(f"{name}: 90 % interval holds the AUC", covered, runs, seconds, 0.87 - room)
        bias = float(np.mean(found.errors))
        most = 0.01 if found.patients > 1000 else 0.02
        most += (3.5 if quick else 2.0) * float(np.std(found.errors)) / runs**0.5
        yield Row(f"{name}: mean error of the AUC", bias, runs, seconds, -most, most)
        low, high = np.quantile(found.errors, [0.05, 0.95])
        wide = float(np.mean(found.widths) / (high - low))
        yield Row(f"{name}: width by that of 90 % of errors", wide, runs, seconds, most=1.3)
        predicted = float(np.median(found.widths) / 2 / found.predicted)
        yield Row(f"{name}: half width by that of study check", predicted, runs, seconds, 0.6, 1.6)
        if quick or name not in _SUBGROUPS:
            continue
        began, column = time.monotonic(), _SUBGROUPS[name]
        by = _tried(consortium.by(column), _MODELS // 4)
        for code, held in by.subgroups.items():
            seconds = time.monotonic() - began
            yield Row(
                *(f"{name}, {code}: 90 % interval holds the AUC", float(np.mean(held)), len(held)),
                *(seconds, 0.85),
            )


def _audits(runs: int) -> Iterator[Row]:
    """How often ``flo audit attack`` fails a right trainer, by any of its checks."""
    heart = CHOSEN_ON["heart"]().study
    for noise in ("local", "distributed"):
        began, study = time.monotonic(), heart.with_mechanism(noise=noise)
        failed = sum(any(check.failed for check in checks(study)) for _ in range(runs)) / runs
        seconds = time.monotonic() - began
        yield Row(
            f"self-audit, {noise} noise: fails a right trainer", failed, runs, seconds, most=0.003
        )


@dataclass
class _Found:
    """Of every release of every model. ``patients``: how many were evaluated."""

    patients: int = 0
    predicted: float = 0.0
    errors: list[float] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    subgroups: dict[str, list[bool]] = field(default_factory=dict)

    def add(self, estimate: Estimate, truth: float) -> None:
        self.errors.append(estimate.auc - truth)
        self.covered.append(_holds(estimate, truth))
        self.widths.append(estimate.high - estimate.low)


def _holds(estimate: Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


def _tried(consortium: Consortium, count: int) -> _Found:
    study, found = consortium.study, _Found()
    part, hospitals = Plan.of(study).purpose("evaluation"), len(study.hospitals)
    variance = combined_variance(study, part, hospitals)
    for number in range(count):
        held_out, model = trained(consortium, number)
        scores = models.log_odds(study, model, held_out.inputs)
        weight = 1 / np.bincount(held_out.patient)[held_out.patient]
        told = contributions(study, model, held_out, scores, weight)
        generator = np.random.default_rng(number)
        truth = exact_auc(scores, held_out.labels, weight)
        by_code = _truth_by_code(study, held_out, scores, weight)
        for _ in range(_DRAWS):
            drawn = generator.integers(0, held_out.count, held_out.count)
            total = np.bincount(drawn, minlength=held_out.count) @ told
            estimate, subgroups = evaluation.read(study, released(study, total), variance)
            found.add(estimate, truth)
            for code, true in by_code.items():
                found.subgroups.setdefault(code, []).append(_holds(subgroups[code], true))
        found.patients = held_out.count
    ill = float(weight[held_out.labels == 1].sum()) / held_out.count
    found.predicted = score_waves.expected_half_width(found.patients, ill, variance)
    return found


def trained(consortium: Consortium, number: int) -> tuple[Patients, Vector]:
    """All patients held out, and a model trained on the others."""
    key = hashlib.sha256(f"proof {number}".encode()).digest()
    aside = {name: within(one, key, 0, HELD_OUT) for name, one in consortium.hospitals.items()}
    return trained_without(consortium, aside)


def trained_without(consortium: Consortium, aside: Mapping[str, Any]) -> tuple[Patients, Vector]:
    """All patients who are put aside at their hospitals, and a model trained on the others."""
    snapshots = {n: Snapshot.divided(one, aside[n]) for n, one in consortium.hospitals.items()}
    state, _ = run_once(consortium.study, Fold(snapshots), fast=True)
    held = [snapshot.held_out for snapshot in snapshots.values()]
    before = np.cumsum([0, *(patients.count for patients in held)])
    together = Patients(
        np.concatenate([patients.inputs for patients in held]),
        np.concatenate([patients.labels for patients in held]),
        np.concatenate([one.patient + start for one, start in zip(held, before, strict=False)]),
        int(before[-1]),
    )
    return together, state.model


def contributions(
    study: Study, model: Vector, held_out: Patients, scores: Floats, weight: Floats
) -> Floats:
    """What each patient adds to a release, (patients, length)."""
    positions = evaluation.Positions.of_model(study, model).of(scores)
    told = by_position(study, held_out, positions, weight)
    exact = evaluation.sums(study, model, held_out)
    np.testing.assert_allclose(told.sum(0), exact, atol=1e-6)  # as a site adds them up
    return told


def by_position(study: Study, held_out: Patients, positions: Floats, weight: Floats) -> Floats:
    """What each patient adds to a release if their records have these positions."""
    vectors = score_waves.vectors(positions) * weight[:, None]
    parts = []
    for name, codes in evaluation.groupings(study).items():
        code = (
            cell_of(study.data, name, held_out.inputs, 0) if name else np.zeros(len(positions), int)
        )
        place = held_out.patient * 2 * len(codes) + 2 * code + held_out.labels.astype(int)
        adds = np.zeros((held_out.count * 2 * len(codes), score_waves.LENGTH))
        np.add.at(adds, place, vectors)
        parts.append(adds.reshape(held_out.count, -1))
    return np.hstack(parts)


def released(study: Study, total: Floats) -> Floats:
    """The sum of all hospitals' releases: one has the patients, each adds its noise."""
    part, count = Plan.of(study).purpose("evaluation"), len(study.hospitals)
    shares, noise = noise_shares(study, count), SystemNoise()
    steps = part.mechanism.release(total, noise, shares=shares)
    for _ in range(count - 1):
        steps = steps + part.mechanism.release(np.zeros_like(total), noise, shares=shares)
    return part.mechanism.to_real(steps)


def _truth_by_code(
    study: Study, held_out: Patients, scores: Floats, weight: Floats
) -> dict[str, float]:
    """The exact AUC among the records of each code; codes of one class have none."""
    found = {}
    for name, codes in evaluation.groupings(study).items():
        if not name:
            continue
        cell = cell_of(study.data, name, held_out.inputs, 0)
        for number, code in enumerate(codes):
            own = cell == number
            if len(set(held_out.labels[own].tolist())) == 2:
                found[f"{name}={code}"] = exact_auc(scores[own], held_out.labels[own], weight[own])
    return found
