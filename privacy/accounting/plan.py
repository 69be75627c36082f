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
from flo.privacy.accounting.spending import spent
from flo.privacy.mechanisms.mechanisms import (
    GRID,
    FullBatchSum,
    Histogram,
    Mechanism,
    PoissonSum,
    ScoreWaves,
)
from flo.privacy.releases import (
    evaluation,
    gate,
    least_squares,
    monitor,
    regressions,
    second_moments,
    statistics,
    survey,
    whitening,
)
from flo.privacy.secure_sum import ring
from flo.privacy.secure_sum.components import Component, components
from flo.study.document import Study
from flo.study.models import parameter_count
from flo.study.statistics import ROUNDS

# Whitening: the part of training's Rényi budget that second moments take (docs/decisions/0022).
_OF_MOMENTS = 0.2


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
        """ε of this purpose alone, retries included (RDP)."""
        return accounting.epsilon_of(self.mechanism, self.releases, self.delta)

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
        return self if shares == 1 else self._with_noise_times(1 / math.sqrt(shares))

    def purpose(self, purpose: str) -> PlannedPurpose:
        """Return a purpose's part. Raises KeyError if the study does not have it."""
        return self.purposes[purpose]

    @property
    def epsilon(self) -> float:
        """One patient's ε, retries included (RDP): ``spent`` by all releases."""
        return spent(self.purposes, self.releases, self.delta)

    @property
    def epsilon_pld(self) -> float:
        """The same by PLD, for a Gaussian equivalent; printed only, decides no admission."""
        return spent(self.purposes, self.releases, self.delta, accounting.composed_pld_epsilon)

    @property
    def epsilon_prv(self) -> float | None:
        """The same by Opacus' PRV accountant, which takes seconds to import.

        None where Opacus does not load: some systems lack parts of PyTorch that it imports.
        """
        try:
            import opacus.accountants  # noqa: F401
        except (ImportError, AttributeError):
            return None
        return spent(self.purposes, self.releases, self.delta, accounting.composed_prv_epsilon)

    @property
    def releases(self) -> dict[str, int]:
        """The most releases of each purpose."""
        return {purpose: part.releases for purpose, part in self.purposes.items()}

    @property
    def delta(self) -> float:
        """The study's δ, the same for each purpose."""
        return next(iter(self.purposes.values())).delta

    def epsilon_at_two_hospitals(self, noise: str) -> float:
        """Return ε, at the same δ, of a patient known to two hospitals of the study.

        Local noise: two independent series of releases. Distributed noise: one series, with twice
        the sensitivity to this patient.
        """

        if noise == "local":
            twice = {purpose: 2 * count for purpose, count in self.releases.items()}
            return spent(self.purposes, twice, self.delta)
        return self._with_noise_times(0.5).epsilon

    def _with_noise_times(self, factor: float) -> Plan:
        """Return the same releases with another multiple of their noise."""

        def scaled(part: PlannedPurpose) -> PlannedPurpose:
            sigma = factor * part.mechanism.noise_multiplier
            return replace(part, mechanism=part.mechanism.with_noise(sigma))

        return Plan({purpose: scaled(part) for purpose, part in self.purposes.items()})

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
    if study.statistics:
        return Plan(_statistics_parts(study))
    if study.monitor:
        return Plan(
            {
                "monitor": part(
                    lambda sigma: FullBatchSum(monitor.LENGTH, sigma, monitor.NORM),
                    study.monitor.epsilon,
                    1,
                    study.monitor.retry_allowance,
                )
            }
        )
    compared = {}
    if study.gate:
        compared["gate"] = part(
            lambda sigma: FullBatchSum(gate.length(study), sigma, gate.NORM),
            study.gate.epsilon,
            1,
            study.gate.retry_allowance,
        )
    if study.compares:
        return Plan(compared)
    training, tested, p = study.mechanism, study.evaluation, training_length(study)
    if training.algorithm == "whitened":
        trained = _whitened_parts(study)
    else:
        trained = {
            "training": part(
                (lambda sigma: FullBatchSum(p, sigma, training.clip))
                if training.sampling == 1
                else (lambda sigma: PoissonSum(p, sigma, training.clip, training.sampling)),
                training.epsilon,
                training.steps,
                training.retry_allowance,
            )
        }
    return Plan(
        {
            **trained,
            "evaluation": part(
                lambda sigma: (Histogram if tested.bins else ScoreWaves)(
                    evaluation.length(study), sigma, evaluation.squared_norm(study)
                ),
                tested.epsilon,
                1,
                tested.retry_allowance,
            ),
            **compared,
        }
    )


def _statistics_parts(study: Study) -> dict[str, PlannedPurpose]:
    """Return one release of tables and curves and rounds of regressions, of one ε together.

    As in ``_whitened_parts`` the purposes have shares of one Gaussian's Rényi cost.
    """
    asked, delta = study.statistics, study.mechanism.delta
    assert asked is not None
    lengths = {"statistics": statistics.length(study), "regression": regressions.length(study)}
    planned = {"statistics": 1, "regression": ROUNDS}
    if len(asked.purposes) == 1:
        (purpose,) = asked.purposes
        releases = planned[purpose] + asked.retry_allowance
        mechanism = accounting.calibrate(
            lambda sigma: FullBatchSum(lengths[purpose], sigma, statistics.NORM),
            asked.epsilon,
            delta,
            releases,
        )
        only = PlannedPurpose(mechanism, planned[purpose], asked.retry_allowance, delta)
        return {purpose: only}
    whole = accounting.calibrate(
        lambda sigma: FullBatchSum(1, sigma, 1.0), asked.epsilon, delta, 1
    ).noise_multiplier
    of_regressions = regressions.share_of(study)
    shares = {"statistics": 1 - of_regressions, "regression": of_regressions}
    found = dict[str, PlannedPurpose]()
    for purpose in asked.purposes:
        releases = planned[purpose] + asked.retry_allowance
        sigma = accounting.sigma_up(whole * math.sqrt(releases / shares[purpose]))
        mechanism = FullBatchSum(lengths[purpose], sigma, statistics.NORM)
        found[purpose] = PlannedPurpose(mechanism, planned[purpose], asked.retry_allowance, delta)
    return found


def _whitened_parts(study: Study) -> dict[str, PlannedPurpose]:
    """Return second moments and training, which together have the study's ε.

    One Gaussian of σ with that ε has Rényi cost α/(2σ²). n releases of σ·√(n/w) cost w of it, and
    the purposes' w add up to 1. The second moments may be repeated once in a study that allows two
    retries of training; up to schema 3, in one that allows any.
    """
    training, made = study.mechanism, second_moments.length(study)

    def one(sigma: float) -> Mechanism:
        return FullBatchSum(1, sigma, 1.0)

    whole = accounting.calibrate(one, training.epsilon, training.delta, 1).noise_multiplier

    def part(length: int, clip: float, share: float, planned: int, retries: int) -> PlannedPurpose:
        sigma = accounting.sigma_up(whole * math.sqrt((planned + retries) / share))
        mechanism = FullBatchSum(length, sigma, clip)
        return PlannedPurpose(mechanism, planned, retries, training.delta)

    needed = 2 if study.schema_version >= 4 else 1
    retry = int(training.retry_allowance >= needed)
    clip = training.clip * math.sqrt(second_moments.width(study)) * whitening.steepness(study)
    return {
        "moments": part(made, second_moments.MOST, _OF_MOMENTS, 1, retry),
        "training": part(
            training_length(study),
            clip,
            1 - _OF_MOMENTS,
            training.steps,
            training.retry_allowance,
        ),
    }


def training_length(study: Study) -> int:
    """Return the length of a training release: a gradient, or sums of products."""
    if study.mechanism.algorithm == "least-squares":
        return least_squares.length(study)
    return parameter_count(study)


def noise_shares(study: Study, cohort_size: int) -> int:
    """Return the number of shares of the noise: |cohort| - b for a masked sum, otherwise 1.

    A share protects only inside a sum. A study of FLO 0.1 with distributed noise has no masks, so
    each hospital adds the whole noise. A study whose sums survive dropouts has shares for levels of
    missing hospitals (``flo.study.tolerance``); ``cohort_size`` may be of a cohort or of survivors.
    """
    if study.mechanism.noise == "local" or not study.masked:
        return 1
    if tolerance := study.tolerance:
        return tolerance.shares(tolerance.level(cohort_size))
    return cohort_size - study.colluders


def ring_of(study: Study, part: PlannedPurpose, cohort_size: int) -> int:
    """Return the bits of the ring of a cohort's masked sum; 0 without masks.

    It also holds the noise of survivors, which is largest if as many are missing as may be.
    """
    if not study.masked:
        return 0
    fewest = study.cohort_floor if study.tolerance else cohort_size
    each = part.mechanism.variance_steps(noise_shares(study, fewest))
    return ring.bits(cohort_size, study.largest_size, each * cohort_size)


def components_of(study: Study, part: PlannedPurpose, cohort_size: int) -> list[Component]:
    """Return the removable parts of each hospital's noise; none if sums survive no dropout."""
    tolerance = study.tolerance
    return components(part.mechanism, tolerance, cohort_size) if tolerance else []


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
