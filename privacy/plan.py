"""What a study implies before anything runs: noise, cost, and how wide the answer will be.

``Plan.of(study)`` is the one place where a study's ε becomes σ. The coordinator, every site, the
simulation and the auditor call it and must find the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from flo.models import parameter_count
from flo.privacy import accounting
from flo.privacy.life import LifeBudget
from flo.privacy.mechanisms import GRID, NoisySum
from flo.study import Study


@dataclass(frozen=True)
class Part:
    """One purpose of a study: its mechanism and how many releases σ covers."""

    mechanism: NoisySum
    planned: int
    allowance: int
    delta: float

    @property
    def releases(self) -> int:
        """The most releases a site may make: planned ones and the retry allowance."""
        return self.planned + self.allowance

    @property
    def epsilon(self) -> float:
        """The study's own ε for this part, retries included (RDP)."""
        return accounting.epsilon_of(self.mechanism.noise_multiplier, self.releases, self.delta)

    @property
    def epsilon_pld(self) -> float:
        return accounting.pld_epsilon(self.mechanism.noise_multiplier, self.releases, self.delta)

    def cost(self, order: int) -> float:
        """Rényi cost of all releases at ``order``: what a site reserves."""
        return self.releases * self.mechanism.rdp(order)


@dataclass(frozen=True)
class Plan:
    training: Part
    evaluation: Part

    @classmethod
    def of(cls, study: Study) -> Plan:
        delta = study.mechanism.delta
        training, evaluation = study.mechanism, study.evaluation
        train_releases = training.steps + training.retry_allowance
        test_releases = 1 + evaluation.retry_allowance
        return cls(
            Part(
                NoisySum(
                    "full-batch-sum",
                    training.clip,
                    parameter_count(study),
                    accounting.calibrate(training.epsilon, delta, train_releases),
                ),
                training.steps,
                training.retry_allowance,
                delta,
            ),
            Part(
                NoisySum(
                    "score-histogram",
                    1.0,
                    2 * evaluation.bins,
                    accounting.calibrate(evaluation.epsilon, delta, test_releases),
                ),
                1,
                evaluation.retry_allowance,
                delta,
            ),
        )

    def part(self, purpose: str) -> Part:
        return {"training": self.training, "evaluation": self.evaluation}[purpose]

    @property
    def epsilon(self) -> float:
        """One patient's ε: training and evaluation touch disjoint patients, so the larger."""
        return max(self.training.epsilon, self.evaluation.epsilon)

    def epsilon_at_two_hospitals(self, noise: str) -> float:
        """ε at the same δ of a patient known to two hospitals of the study.

        Local noise: two independent series of releases. Distributed: one series that the patient
        moves twice as far.
        """

        def doubled(part: Part) -> float:
            sigma = part.mechanism.noise_multiplier
            if noise == "local":
                return accounting.epsilon_of(sigma, 2 * part.releases, part.delta)
            return accounting.epsilon_of(sigma / 2, part.releases, part.delta)

        return max(doubled(self.training), doubled(self.evaluation))

    def shares(self, life: LifeBudget) -> dict[str, float]:
        """Fraction of a life budget that the study takes, for each sub-ledger."""
        return {
            purpose: life.share(self.part(purpose).cost(life.order))
            for purpose in ("training", "evaluation")
        }


def noise_shares(study: Study, cohort_size: int) -> int:
    """Into how many shares the noise is divided: 1 for local noise, |cohort| - b otherwise."""
    if study.mechanism.noise == "local":
        return 1
    return cohort_size - study.colluders


def combined_variance(study: Study, part: Part, cohort_size: int) -> float:
    """Noise variance of the cohort's sum, in the squared unit of what is summed."""
    shares = noise_shares(study, cohort_size)
    steps = part.mechanism.variance_steps(shares) * cohort_size
    unit = part.mechanism.clip / GRID
    return steps * unit * unit
