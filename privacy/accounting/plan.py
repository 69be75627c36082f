"""Plan of a study before it runs: noise, privacy cost, and expected precision.

``Plan.of(study)`` is the only place where a study's ε becomes σ. The coordinator, every site, the
simulation and the auditor call it and must get the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from flo.privacy.accounting import accounting
from flo.privacy.accounting.life_budget import CHARGES, SUB_LEDGERS, LifetimeBudget
from flo.privacy.mechanisms.mechanisms import (
    GRID,
    FullBatchSum,
    Histogram,
    Mechanism,
    PoissonSum,
    ScoreWaves,
)
from flo.privacy.releases import evaluation, least_squares, survey
from flo.privacy.secure_sum import ring
from flo.study.document import Study
from flo.study.models import parameter_count


@dataclass(frozen=True)
class PlannedPurpose:
    """One purpose of a study: its mechanism and how many releases σ covers."""

    mechanism: Mechanism
    planned: int
    allowance: int
    delta: float

    @property
    def releases(self) -> int:
        """The most releases a site may make: planned ones and the retry allowance."""
        return self.planned + self.allowance

    @property
    def epsilon(self) -> float:
        """The study's own ε for this purpose, retries included (RDP)."""
        return accounting.epsilon_of(self.mechanism, self.releases, self.delta)

    @property
    def epsilon_pld(self) -> float:
        """The same by PLD, Gaussian-equivalent; printed only, decides no admission."""
        return accounting.pld_epsilon(self.mechanism, self.releases, self.delta)

    def cost(self, order: int) -> float:
        """Return the Rényi cost of all releases at ``order``, which a site reserves."""
        return self.releases * self.mechanism.rdp(order)


@dataclass(frozen=True)
class Plan:
    """``purposes``: purpose -> part, in the order in which a run executes them."""

    purposes: dict[str, PlannedPurpose]

    @classmethod
    def of(cls, study: Study) -> Plan:
        """Return the plan of a study, the same for every party; cached.

        Raises:
            StudyError: no σ up to 10^6 reaches an ε that the study requests.
        """
        return _plan(study)

    @classmethod
    def charged(cls, study: Study, *, if_broken: bool) -> Plan:
        """Return the plan that a ledger is charged for: as designed, or ``worst_case``."""
        plan = cls.of(study)
        return plan.worst_case(study) if if_broken else plan

    def worst_case(self, study: Study) -> Plan:
        """Return the same releases at their cost if every single upload were seen.

        A patient is then protected by one hospital's share of the noise only, which is smallest
        when no hospital is missing. With local noise the plan does not change.
        """
        shares = noise_shares(study, len(study.hospitals))
        if shares == 1:
            return self

        def alone(part: PlannedPurpose) -> PlannedPurpose:
            sigma = part.mechanism.noise_multiplier / math.sqrt(shares)
            return replace(part, mechanism=part.mechanism.with_noise(sigma))

        return Plan({purpose: alone(part) for purpose, part in self.purposes.items()})

    def purpose(self, purpose: str) -> PlannedPurpose:
        """Return a purpose's part. Raises KeyError if the study does not have it."""
        return self.purposes[purpose]

    @property
    def epsilon(self) -> float:
        """One patient's ε: the largest part, as training and evaluation touch disjoint patients."""
        return max(part.epsilon for part in self.purposes.values())

    @property
    def epsilon_pld(self) -> float:
        """The same by PLD, for a Gaussian equivalent."""
        return max(part.epsilon_pld for part in self.purposes.values())

    def epsilon_at_two_hospitals(self, noise: str) -> float:
        """Return ε, at the same δ, of a patient known to two hospitals of the study.

        Local noise: two independent series of releases. Distributed noise: one series, with twice
        the sensitivity to this patient.
        """

        def both(part: PlannedPurpose) -> float:
            if noise == "local":
                return accounting.epsilon_of(part.mechanism, 2 * part.releases, part.delta)
            half = part.mechanism.with_noise(part.mechanism.noise_multiplier / 2)
            return accounting.epsilon_of(half, part.releases, part.delta)

        return max(both(part) for part in self.purposes.values())

    def cost(self, sub_ledger: str, order: int) -> float:
        """Return the study's Rényi cost at ``order`` for a sub-ledger."""
        return sum(
            part.cost(order)
            for purpose, part in self.purposes.items()
            if sub_ledger in CHARGES[purpose]
        )

    def shares(self, life: LifetimeBudget) -> dict[str, float]:
        """Return the fraction of a life budget that the study takes, for each sub-ledger."""
        return {name: life.share(self.cost(name, life.order)) for name in SUB_LEDGERS}


@lru_cache(maxsize=32)
def _plan(study: Study) -> Plan:
    delta = study.mechanism.delta

    def part(
        make: Callable[[float], Mechanism], epsilon: float, planned: int, allowance: int
    ) -> PlannedPurpose:
        mechanism = accounting.calibrate(make, epsilon, delta, planned + allowance)
        return PlannedPurpose(mechanism, planned, allowance, delta)

    if study.survey:
        cells, groups = survey.length(study), len(survey.layout(study))
        return Plan(
            {
                "survey": part(
                    lambda sigma: Histogram(cells, sigma, groups),
                    study.survey.epsilon,
                    1,
                    study.survey.retry_allowance,
                )
            }
        )
    training, tested, p = study.mechanism, study.evaluation, training_length(study)
    return Plan(
        {
            "training": part(
                (lambda sigma: FullBatchSum(p, sigma, training.clip))
                if training.sampling == 1
                else (lambda sigma: PoissonSum(p, sigma, training.clip, training.sampling)),
                training.epsilon,
                training.steps,
                training.retry_allowance,
            ),
            "evaluation": part(
                lambda sigma: (Histogram if tested.bins else ScoreWaves)(
                    evaluation.length(study), sigma, max(1, len(tested.subgroups))
                ),
                tested.epsilon,
                1,
                tested.retry_allowance,
            ),
        }
    )


def training_length(study: Study) -> int:
    """Return the length of a training release: a gradient, or sums of products."""
    if study.mechanism.algorithm == "least-squares":
        return least_squares.length(study)
    return parameter_count(study)


def noise_shares(study: Study, cohort_size: int) -> int:
    """Return the number of shares of the noise: |cohort| - b for a masked sum, otherwise 1.

    A share protects only inside a sum. A study of FLO 0.1 with distributed noise has no masks, so
    each hospital adds the whole noise.
    """
    if study.mechanism.noise == "local" or not study.masked:
        return 1
    return cohort_size - study.colluders


def ring_of(study: Study, part: PlannedPurpose, cohort_size: int) -> int:
    """Return the bits of the ring of a cohort's masked sum; 0 without masks."""
    if not study.masked:
        return 0
    return ring.bits(cohort_size, study.largest_size, _variance_steps(study, part, cohort_size))


def reach_of(study: Study, part: PlannedPurpose, cohort_size: int) -> int:
    """Return the bound in grid steps, in either direction, on an honest cohort's noisy sum."""
    return ring.max_honest_sum(
        cohort_size, study.largest_size, _variance_steps(study, part, cohort_size)
    )


def combined_variance(study: Study, part: PlannedPurpose, cohort_size: int) -> float:
    """Return the noise variance of the cohort's sum, in the squared unit of the summands."""
    unit = part.mechanism.norm / GRID
    return _variance_steps(study, part, cohort_size) * unit * unit


def _variance_steps(study: Study, part: PlannedPurpose, cohort_size: int) -> int:
    return part.mechanism.variance_steps(noise_shares(study, cohort_size)) * cohort_size
