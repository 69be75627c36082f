"""The release gate passes bad candidates as seldom as it says, and good ones as often.

Real patients, models that FLO trained at several ε, with the risks that their cards state. The
evaluated patients of each draw are drawn anew, with replacement, from all that were held out; the
hospitals' noise is drawn by the mechanism. The truth is the exact mean difference over all held
out. Where a candidate must be exactly at the margin, the margin is set to its exact difference.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.privacy.accounting.plan import Plan, combined_variance, noise_shares
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.releases import calibration, evaluation, gate, gate_decision
from flo.study import models, usual
from flo.study.document import Study, from_document
from tests.proofs.hospitals import CHOSEN_ON, GENERAL, Consortium
from tests.proofs.rows import Row, chance
from tests.proofs.truth import released, trained

# Set: patients evaluated in a draw, draws, margin of the test of power.
_SETS = {"support2": 1800, "fars": 20_000, "nass": 7000}
_DRAWS, _QUICK_DRAWS = 2000, 300
_EPSILONS, _OF_EACH, _QUICK_OF_EACH = (0.3, 0.5, 0.9), 4, 2
_GATE = 0.5
_PAIRS, _QUICK_PAIRS = 8, 3
_BETTER, _NEAR = 0.007, 0.0015  # AUC of a candidate that should pass, and how near to it
_FEW = 10  # times fewer patients than declared


def rows(quick: bool) -> Iterator[Row]:
    """Size at the margin, power, and candidates that must never pass."""
    for name in ["support2"] if quick else _SETS:
        yield from _of_set(name, quick)


def _of_set(name: str, quick: bool) -> Iterator[Row]:
    began, consortium = time.monotonic(), (CHOSEN_ON | GENERAL)[name]()
    world = _World.of(consortium, _QUICK_OF_EACH if quick else _OF_EACH)
    many, draws = _SETS[name], _QUICK_DRAWS if quick else _DRAWS
    pairs = world.worse(_QUICK_PAIRS if quick else _PAIRS)
    each = draws // len(pairs)
    room = chance(0.05, draws) if quick else 2 * (0.05 * 0.95 / draws) ** 0.5

    def passes(study: Study, better: Floats, patients: int, count: int) -> float:
        return world.passed(study, better, patients, count)

    for patients, what in ((many, ""), (many // _FEW, ", a tenth of the declared patients there")):
        found = [
            passes(world.gated(margin=world.clipped_margin(better)), better, patients, each)
            for better in pairs
        ]
        title = f"{name}: passes at the margin{what}"
        yield Row(title, float(np.mean(found)), draws, time.monotonic() - began, most=0.05 + room)
    found = [
        passes(world.gated(margin=-float(better.mean())), better, many, each) for better in pairs
    ]
    title = f"{name}: passes where the unclipped mean is at the margin"
    yield Row(title, float(np.mean(found)), draws, time.monotonic() - began, most=0.05 + room)
    good, usual_gate = world.better(), world.gated()
    if good:
        found = [passes(usual_gate, one, many, draws // len(good)) for one in good]
        title = f"{name}: passes if .007 AUC better, of {many:,} patients"
        seconds = time.monotonic() - began
        yield Row(title, float(np.mean(found)), draws, seconds, 0.9 - (room if quick else 0.0))
    for title, one in (
        ("clearly worse", world.clearly_worse()),
        ("better for most, catastrophic for 5 %", world.catastrophic()),
    ):
        share = passes(usual_gate, one, many, draws) * draws
        title = f"{name}: {title}, passes"
        yield Row(title, share, draws, time.monotonic() - began, most=0)


@dataclass
class _World:
    """A set's held-out patients, and models that never saw them. ``risks``: of each model."""

    study: Study
    labels: Floats
    risks: list[Floats]
    auc: list[float]

    @classmethod
    def of(cls, consortium: Consortium, count: int) -> _World:
        from flo.scores.metrics import exact_auc

        everyone = sum(hospital.declared_size for hospital in consortium.study.hospitals)
        risks, auc = list[Floats](), list[float]()
        for epsilon in _EPSILONS:
            settings: dict[str, Any] = usual.whitened(everyone, epsilon) | {"epsilon": epsilon}
            study = consortium.study.with_mechanism(**settings)
            one = Consortium(study, consortium.hospitals, consortium.tables)
            for _ in range(count):
                held_out, weights = trained(one, 0)  # the same patients each time, other noise
                scores = models.log_odds(study, weights, held_out.inputs)
                variance = combined_variance(
                    study, Plan.of(study).purpose("evaluation"), len(study.hospitals)
                )
                noisy = released(study, evaluation.sums(study, weights, held_out))
                curve = calibration.fit(study, weights, noisy, variance)
                assert curve is not None
                risks.append(curve.of(scores)[0])
                auc.append(exact_auc(scores, held_out.labels, np.ones(len(scores))))
        return cls(_with_gate(consortium.study), held_out.labels, risks, auc)

    def gated(self, **terms: float) -> Study:
        """The study with these terms of its gate."""
        document = self.study.model_dump(mode="json")
        document["gate"] |= terms
        return from_document(document)

    def difference(self, current: Floats, candidate: Floats) -> Floats:
        return np.asarray((current - self.labels) ** 2 - (candidate - self.labels) ** 2)

    def worse(self, count: int) -> list[Floats]:
        """Differences of pairs of models, the candidate being the worse one."""
        pairs = [
            self.difference(one, other)
            for one in self.risks
            for other in self.risks
            if 0 < self.difference(one, other).mean() * -1 < 0.03
        ]
        chosen = np.random.default_rng(5).permutation(len(pairs))[:count]
        return [pairs[place] for place in chosen]

    def better(self) -> list[Floats]:
        """Differences of pairs whose candidate has an AUC that is better by about ``_BETTER``."""
        return [
            self.difference(self.risks[one], self.risks[other])
            for one in range(len(self.auc))
            for other in range(len(self.auc))
            if abs(self.auc[other] - self.auc[one] - _BETTER) < _NEAR
        ][:_PAIRS]

    def clearly_worse(self) -> Floats:
        """A candidate whose risks are those of other patients for one in three."""
        best = self.risks[int(np.argmax(self.auc))]
        generator = np.random.default_rng(6)
        mixed = np.where(generator.random(len(best)) < 1 / 3, generator.permutation(best), best)
        return self.difference(best, mixed)

    def catastrophic(self) -> Floats:
        """A candidate that is better by .02 for 95 of 100 patients, and worse by .6 for 5."""
        hit = np.zeros(len(self.labels), dtype=np.bool_)
        hit[: round(0.05 * len(hit))] = True
        return np.where(hit, -0.6, 0.02)

    def clipped_margin(self, better: Floats) -> float:
        """The margin at which the clipped differences of a candidate have the mean 0."""
        low, high = -0.05, 0.05
        for _ in range(60):
            middle = (low + high) / 2
            terms = gate.gate_of(self.study).model_copy(update={"margin": middle})
            if gate.contributions(terms, better)[:, 0].mean() > 0:
                high = middle
            else:
                low = middle
        return low

    def passed(self, study: Study, better: Floats, patients: int, draws: int) -> float:
        """How often a candidate with these differences passes, of draws of so many patients."""
        part, hospitals = Plan.of(study).purpose("gate"), len(study.hospitals)
        variance, shares = combined_variance(study, part, hospitals), noise_shares(study, hospitals)
        each = gate.contributions(gate.gate_of(study), better) * gate.SCALES
        generator, noise, found = np.random.default_rng(8), SystemNoise(), 0
        for _ in range(draws):
            drawn = generator.integers(0, len(each), patients)
            exact = each[drawn].sum(0)
            one = part.mechanism.variance_steps(shares)
            steps = np.rint(exact / part.mechanism.to_real(np.ones(1))[0])
            steps = steps + noise.sample(one, hospitals * gate.LENGTH).reshape(hospitals, -1).sum(0)
            said = gate_decision.read(study, part.mechanism.to_real(steps), variance)
            found += said.verdict == "pass"
        return found / draws


def _with_gate(study: Study) -> Study:
    document = study.model_dump(mode="json") | {"gate": {"epsilon": _GATE}, "schema_version": 4}
    document["evaluation"].pop("bins", None)
    return from_document(document)
