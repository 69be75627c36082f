"""The release gate passes bad candidates as seldom as it says, and good ones often.

Real patients, models that FLO trained at several ε, with the risks that their cards state. The
evaluated patients of each draw are drawn anew, with replacement, from all that were held out; the
hospitals' noise is drawn by the mechanism. The truth is the exact mean over all held out. Where a
candidate must be exactly at the limit, ``keeps`` is set to what it keeps exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from flo.arrays import Floats, Mask
from flo.privacy.accounting.plan import Plan, combined_variance, noise_shares
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import calibration, evaluation, gate, gate_decision
from flo.privacy.releases.gate_decision import Comparison
from flo.privacy.report.sheet_gate import chance_of_equal
from flo.scores.metrics import exact_auc
from flo.study import models, usual
from flo.study.document import Study, from_document
from flo.study.features import cell_of
from flo.study.parameters import Vector
from tests.proofs.hospitals import CHOSEN_ON, GENERAL, Consortium
from tests.proofs.rows import Row, chance
from tests.proofs.truth import contributions, released, trained

# Set: patients evaluated in a draw.
EVALUATED = {"support2": 1800, "fars": 20_000, "nass": 7000}
_DRAWS, _QUICK_DRAWS, _AT_ONCE = 2000, 300, 200
_EPSILONS, _OF_EACH, _QUICK_OF_EACH, _GATE = (0.3, 0.5, 0.9), 4, 2, 0.5
_PAIRS, _QUICK_PAIRS, _FITS = 8, 3, 500
_BETTER, _NEAR = 0.007, 0.0015  # AUC of a candidate that should pass, and how near to it
_FEW = 10  # times fewer patients than declared
_QUICK_POWER = 0.8  # of few pairs, which differ by .0055 to .0085
_POWERFUL = "support2"  # whose power is promised
_RARE = {"nass": 0.01}  # share of draws in which what is clearly worse may pass: 4.5 % died
_FORESEEN = 0.15  # of the share of passes that study check foresees
_HALF, _MORE = 0.5, 1.5  # limits of ``keeps``


def rows(quick: bool) -> Iterator[Row]:
    """Size at every limit, power, and candidates that must never pass."""
    for name in ["support2"] if quick else EVALUATED:
        yield from _of_set(name, quick)


def _of_set(name: str, quick: bool) -> Iterator[Row]:
    began, consortium = time.monotonic(), (CHOSEN_ON | GENERAL)[name]()
    world = World.of(consortium, _QUICK_OF_EACH if quick else _OF_EACH)
    many, draws = EVALUATED[name], _QUICK_DRAWS if quick else _DRAWS
    pairs = world.at_limit(_QUICK_PAIRS if quick else _PAIRS)

    def of_pairs(title: str, passed: list[float], most: float = 0.05) -> Iterator[Row]:
        runs, seconds = draws * len(passed), time.monotonic() - began
        mean, worst = float(np.mean(passed)), max(passed)
        yield Row(f"{name}: {title}", mean, runs, seconds, most=most + chance(most, runs))
        title = f"{name}: {title}, worst of {len(passed)} pairs"
        yield Row(title, worst, draws, seconds, most=most + chance(most, draws))

    for patients, there in ((many, ""), (many // _FEW, ", a tenth there")):
        found = [world.passes(*pair, patients, draws) for pair in pairs]
        yield from of_pairs(f"passes at the limit{there}", found)
    found = [world.passes(*pair, many, draws) for pair in world.at_true_limit(pairs)]
    yield from of_pairs("passes at the limit of uncapped losses", found, 0.06)
    held = world.held(*pairs[0], many, draws)
    title = f"{name}: 90 % interval holds the capped mean"
    yield Row(title, held, draws, time.monotonic() - began, 0.9 - chance(0.9, draws))
    usual_gate = world.gated()
    large = world.passes(usual_gate, world.with_large_losses(usual_gate), many, draws)
    title = f"{name}: passes with as many large losses as may be"
    yield Row(title, large, draws, time.monotonic() - began, most=0.05 + chance(0.05, draws))
    failed = world.fails_alike(many, draws)
    title = f"{name}: fails if nothing differs, by subgroup"
    yield Row(title, failed, draws, time.monotonic() - began, most=0.05 + chance(0.05, draws))
    if name == _POWERFUL:
        alike = [world.passes(usual_gate, one, many, draws) for one in world.alike()]
        told = chance_of_equal(usual_gate, many)
        title = f"{name}: passes if as good ({len(alike)} pairs), less what study check says"
        seconds = time.monotonic() - began
        yield Row(title, float(np.mean(alike)) - told, draws, seconds, -_FORESEEN, _FORESEEN)
    good = world.better()
    found = [world.passes(usual_gate, one, many, max(1, draws // len(good))) for one in good]
    least = (_QUICK_POWER if quick else 0.9) if name == _POWERFUL else 0.0
    if good or (name == _POWERFUL and not quick):  # few models may have no such pair
        title = f"{name}: passes if .007 AUC better ({len(good)} pairs), of {many:,} patients"
        yield Row(title, float(np.mean(found)), draws, time.monotonic() - began, least)
    for title, one in (
        ("clearly worse", world.clearly_worse()),
        ("better for most, catastrophic for 5 %", world.catastrophic()),
    ):
        passed = world.passes(usual_gate, one, many, draws) * draws
        most, seconds = _RARE.get(name, 0.0) * draws, time.monotonic() - began
        yield Row(f"{name}: {title}, passes", passed, draws, seconds, most=most)
    if name == "support2" and not quick:
        passed, runs = world.passes_with_own_calibration(many, _FITS)
        title = f"{name}: passes beyond the limit, calibrated on the same patients"
        seconds = time.monotonic() - began
        yield Row(title, passed, runs, seconds, most=0.05 + chance(0.05, max(runs, 1)))


@dataclass(frozen=True)
class Losses:
    """d, and what the current model gains over the average, of all held-out patients."""

    better: Floats
    gained: Floats


Pair = tuple[Study, Losses]


@dataclass
class World:
    """A set's held-out patients, and models that never saw them. ``risks``: of each model."""

    study: Study
    held_out: Patients
    trained: list[tuple[Study, Vector]]
    risks: list[Floats]
    auc: list[float]

    @classmethod
    def of(cls, consortium: Consortium, count: int) -> World:
        everyone = sum(hospital.declared_size for hospital in consortium.study.hospitals)
        risks, auc, made = list[Floats](), list[float](), list[tuple[Study, Vector]]()
        for epsilon in _EPSILONS:
            settings: dict[str, Any] = usual.whitened(everyone, epsilon) | {"epsilon": epsilon}
            study = consortium.study.with_mechanism(**settings)
            one = Consortium(study, consortium.hospitals, consortium.tables)
            for _ in range(count):
                held_out, weights = trained(one, 0)  # the same patients each time, other noise
                scores = models.log_odds(study, weights, held_out.inputs)
                risks.append(
                    _risks(study, weights, evaluation.sums(study, weights, held_out))(scores)
                )
                auc.append(exact_auc(scores, held_out.labels, np.ones(len(scores))))
                made.append((study, weights))
        return cls(with_gate(consortium.study), held_out, made, risks, auc)

    @property
    def labels(self) -> Floats:
        return self.held_out.labels

    def gated(self, **terms: Any) -> Study:
        """The study with these terms of its gate."""
        document = self.study.model_dump(mode="json")
        document["gate"] |= terms
        return from_document(document)

    def losses(self, current: Floats, candidate: Floats) -> Losses:
        old, average = (current - self.labels) ** 2, (self.labels.mean() - self.labels) ** 2
        return Losses(old - (candidate - self.labels) ** 2, average - old)

    def at_limit(self, count: int) -> list[Pair]:
        """Pairs with a worse candidate, each with a study that asks exactly what it keeps."""
        found = []
        for current in self.risks:
            for candidate in self.risks:
                losses = self.losses(current, candidate)
                keeps = _solved(partial(self._mean, losses))
                if losses.better.mean() < 0 and keeps is not None:
                    found.append((self.gated(keeps=keeps), losses))
        chosen = np.random.default_rng(5).permutation(len(found))[:count]
        return [found[place] for place in chosen]

    def at_true_limit(self, pairs: list[Pair]) -> list[Pair]:
        """The same pairs where the mean of uncapped losses is at the limit."""
        found = []
        for _, one in pairs:
            keeps = 1 + float(one.better.mean() / one.gained.mean())
            if _HALF < keeps < _MORE:
                found.append((self.gated(keeps=keeps), one))
        return found

    def _mean(self, losses: Losses, keeps: float) -> float:
        """The exact mean of x."""
        terms, clip = gate.gate_of(self.study), gate.clip_of(self.study)
        asked = terms.model_copy(update={"keeps": keeps})
        return float(gate.contributions(asked, clip, losses.better, losses.gained)[:, 0].mean())

    def better(self) -> list[Losses]:
        """Of pairs whose candidate has an AUC that is better by about ``_BETTER``."""
        return [
            self.losses(self.risks[one], self.risks[other])
            for one in range(len(self.auc))
            for other in range(len(self.auc))
            if abs(self.auc[other] - self.auc[one] - _BETTER) < _NEAR
        ][:_PAIRS]

    def alike(self) -> list[Losses]:
        """Of the pairs whose mean Brier scores are closest."""
        pairs = [
            self.losses(one, other)
            for place, one in enumerate(self.risks)
            for other in self.risks[place + 1 :]
        ]
        return sorted(pairs, key=lambda one: abs(one.better.mean()))[:_PAIRS]

    def clearly_worse(self) -> Losses:
        """A candidate whose risks are those of other patients for one in three."""
        best = self.risks[int(np.argmax(self.auc))]
        generator = np.random.default_rng(6)
        mixed = np.where(generator.random(len(best)) < 1 / 3, generator.permutation(best), best)
        return self.losses(best, mixed)

    def catastrophic(self) -> Losses:
        """A candidate that is better by .02 for 95 of 100 patients, and worse by .6 for 5."""
        hit, best = self._some(0.05), self.risks[int(np.argmax(self.auc))]
        return Losses(np.where(hit, -0.6, 0.02), self.losses(best, best).gained)

    def with_large_losses(self, study: Study) -> Losses:
        """A good candidate, but for exactly as many large losses as the study allows."""
        hit = self._some(gate.gate_of(study).most_large_losses)
        best = self.risks[int(np.argmax(self.auc))]
        return Losses(np.where(hit, -0.6, 0.1), self.losses(best, best).gained)

    def _some(self, share: float) -> Mask:
        return np.arange(len(self.labels)) < round(share * len(self.labels))

    def passes(self, study: Study, losses: Losses, patients: int, draws: int) -> float:
        """How often a candidate with these losses passes, of draws of so many patients."""
        said = self.said(study, losses, patients, draws)
        return sum(one.verdict == "pass" for one in said) / draws

    def held(self, study: Study, losses: Losses, patients: int, draws: int) -> float:
        """How often the stated interval holds the exact mean."""
        clip = gate.clip_of(study)
        terms = gate.gate_of(study)
        each = gate.contributions(terms, clip, losses.better, losses.gained)[:, 0]
        true = clip * float(each.mean())
        said = self.said(study, losses, patients, draws)
        return sum(one.kept.low <= true <= one.kept.high for one in said) / draws

    def fails_alike(self, patients: int, draws: int) -> float:
        """How often a candidate fails that is the current model, asked to keep all it gains."""
        column = next(c.name for c in self.study.data.columns if c.kind == "category")
        study, nothing = self.gated(keeps=1.0, subgroups=[column]), np.zeros(len(self.labels))
        said = self.said(study, Losses(nothing, nothing), patients, draws)
        return sum(one.verdict == "fail" for one in said) / draws

    def said(self, study: Study, losses: Losses, patients: int, draws: int) -> Iterator[Comparison]:
        """What the gate says of so many draws."""
        terms, scales = gate.gate_of(study), gate.scales_of(study)
        each = gate.contributions(terms, gate.clip_of(study), losses.better, losses.gained)
        parts = [each * scales[""]]
        for column, codes in gate.groupings(study).items():
            cell = cell_of(study.data, column, self.held_out.inputs, 0) if column else None
            if cell is not None:
                parts += [
                    each * scales[column] * (cell == number)[:, None]
                    for number in range(len(codes))
                ]
        adds, generator = np.hstack(parts), np.random.default_rng(8)
        for start in range(0, draws, _AT_ONCE):
            count = min(_AT_ONCE, draws - start)
            even = np.full(len(adds), 1 / len(adds))
            drawn = generator.multinomial(patients, even, size=count)
            yield from _read(study, drawn @ adds)

    def passes_with_own_calibration(self, patients: int, draws: int) -> tuple[float, int]:
        """How often a candidate that truly keeps too little passes, calibrated on the same draw."""
        order = np.argsort(self.auc)
        place, other = int(order[len(order) // 3]), int(order[-1])
        study, weights = self.trained[place]
        scores = models.log_odds(study, weights, self.held_out.inputs)
        told = contributions(study, weights, self.held_out, scores, np.ones(len(scores)))
        near = self.losses(self.risks[other], self.risks[place])
        keeps = _solved(partial(self._mean, near))
        assert keeps is not None
        asked, generator, found = self.gated(keeps=keeps), np.random.default_rng(9), list[bool]()
        for _ in range(draws):
            drawn = np.bincount(generator.integers(0, len(scores), patients), minlength=len(scores))
            risks = _risks(study, weights, drawn @ told)(scores)
            losses = self.losses(self.risks[other], risks)
            terms, clip = gate.gate_of(asked), gate.clip_of(asked)
            each = gate.contributions(terms, clip, losses.better, losses.gained)
            if each[:, 0].mean() > 0:
                continue
            (said,) = _read(asked, (drawn @ (each * gate.SCALES))[None])
            found.append(said.verdict == "pass")
        return float(np.mean(found)), len(found)


def _risks(study: Study, weights: Vector, total: Floats) -> Callable[[Floats], Floats]:
    """The risks of a model's card, from the exact sums of its evaluation."""
    variance = combined_variance(study, Plan.of(study).purpose("evaluation"), len(study.hospitals))
    curve = calibration.fit(study, weights, released(study, total), variance)
    assert curve is not None
    return lambda scores: curve.of(scores)[0]


def _read(study: Study, sums: Floats) -> Iterator[Comparison]:
    """What the gate says of each row of exact sums, with the noise of every hospital."""
    part, hospitals = Plan.of(study).purpose("gate"), len(study.hospitals)
    variance = combined_variance(study, part, hospitals)
    each = part.mechanism.variance_steps(noise_shares(study, hospitals))
    noise = SystemNoise().sample(each, hospitals * sums.size)
    steps = np.rint(sums / part.mechanism.to_real(np.ones(1))[0])
    steps = steps + noise.reshape(hospitals, *sums.shape).sum(0)
    for row in part.mechanism.to_real(steps):
        yield gate_decision.read(study, row, variance)


def _solved(mean: Callable[[float], float]) -> float | None:
    """The share that is kept exactly, where a falling mean is 0; None beyond the limits."""
    low, high = _HALF, _MORE
    if mean(low) < 0 or mean(high) > 0:
        return None
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) > 0 else (low, middle)
    return high


def with_gate(study: Study) -> Study:
    """The study with a gate against a current model of its own form."""
    names = [column.name for column in study.data.columns]
    current = {"card": "ab" * 32, "name": "current", "version": 1, "columns": names}
    current |= {"model": study.model.model_dump(mode="json")}
    terms = {"epsilon": _GATE, "current": "ab" * 32, "models": [current]}
    document = study.model_dump(mode="json") | {"gate": terms, "schema_version": 4}
    document["evaluation"].pop("bins", None)
    return from_document(document)
