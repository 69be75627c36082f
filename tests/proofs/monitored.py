"""A paid monitor raises false alarms as seldom as it says, and finds changes soon.

Models that FLO trained on real patients, with the risks that their cards state. Each period's
patients are drawn anew, with replacement, from all that were held out; an outcome is drawn with a
probability whose odds are within the tolerance of the stated risk's, or beyond it. The noise is
that of the hospitals' mechanism.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from flo.arrays import Floats, Mask
from flo.privacy.accounting.plan import Plan, combined_variance, noise_shares
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.mechanisms.mechanisms import FullBatchSum
from flo.privacy.releases import monitor
from flo.privacy.report.sheet_monitor import periods_until
from flo.scores.change_detector import NOTHING, times_odds
from flo.scores.drift import LOADINGS, Period, log_factors, odds_factor
from flo.study.document import Study
from tests.monitored import period
from tests.proofs.hospitals import CHOSEN_ON, GENERAL
from tests.proofs.release_gate import World
from tests.proofs.rows import Row, chance

_SETS = ("support2", "fars", "nass")
_HISTORIES, _QUICK_HISTORIES = 1000, 200
_LONG, _QUICK_LONG = 240, 60  # periods until a history is ended
_A_PERIOD, _FEW, _HELD_OUT = 800, 200, 240  # patients counted; of 800 new ones 3 in 10 are held out
_EPSILON, _TOLERANCE, _ALARM = 0.5, 1.25, 60
_CHANGE, _BEGINS = 1.5, 12  # odds beyond what is tolerated; periods before that
_SOON = 3.0  # periods
_MANY, _ODDS, _LOWER = 3000, (0.6, 1.0, 1.5, 1.875, 2.5), 0.03
_TWICE = 0.3  # of the patients, whom two hospitals count
_RARE = "nass"  # of whom 4 % died: how soon is stated, not promised

# Scenario: the factor on the odds of each patient in a period, within 1/_TOLERANCE .. _TOLERANCE.
Scenario = Callable[[int, Floats, np.random.Generator], Floats]
_UNCHANGED: dict[str, Scenario] = {
    "as stated": lambda month, risks, rng: np.ones_like(risks),
    "more, as tolerated": lambda month, risks, rng: np.full_like(risks, _TOLERANCE),
    "fewer, as tolerated": lambda month, risks, rng: np.full_like(risks, 1 / _TOLERANCE),
    "half years of either": lambda month, risks, rng: np.full_like(
        risks, _TOLERANCE ** (1 if month // 6 % 2 else -1)
    ),
    "each patient otherwise": lambda month, risks, rng: (
        _TOLERANCE ** rng.uniform(-1, 1, risks.shape)
    ),
    "many of the ill, few of the well": lambda month, risks, rng: np.where(
        risks > np.median(risks), _TOLERANCE, 1 / _TOLERANCE
    ),
}


def rows(quick: bool) -> Iterator[Row]:
    """Time to a false alarm in each scenario; time until a change is found."""
    for name in _SETS[: 1 if quick else None]:
        world = World.of((CHOSEN_ON | GENERAL)[name](), 1 if quick else 2)
        histories, longest = (_QUICK_HISTORIES, _QUICK_LONG) if quick else (_HISTORIES, _LONG)
        for title, scenario in list(_UNCHANGED.items())[: 2 if quick else None]:
            began = time.monotonic()
            made = Histories(world, _A_PERIOD, histories)
            times = made.until_alarm(scenario, longest)
            # Means of times that were cut off are below the true mean.
            least = _ALARM if not quick else _QUICK_LONG * (1 - _QUICK_LONG / (2 * _ALARM))
            seconds = time.monotonic() - began
            said = f"{name}: {title}: periods to a false alarm, at least"
            yield Row(said, float(times.mean()), histories, seconds, least)
        for patients in (_A_PERIOD, _HELD_OUT, _FEW):
            for factor in (_CHANGE, 1 / _CHANGE):
                yield from _found(name, world, patients, factor, histories, longest)
        for factor in _ODDS if not quick else _ODDS[::2]:
            began, made = time.monotonic(), Histories(world, _MANY, histories)
            held = made.held(factor)
            said = f"{name}: 90 % interval holds odds x {factor}, of {_MANY} patients"
            least = 0.9 - _LOWER - chance(0.9, histories)
            yield Row(said, held, histories, time.monotonic() - began, least)
        if not quick:
            began, made = time.monotonic(), Histories(world, _A_PERIOD, histories, twice=_TWICE)
            mean = float(made.until_alarm(_UNCHANGED["as stated"], longest).mean())
            said = f"{name}: as stated, {_TWICE:.0%} counted twice: periods to a false alarm"
            yield Row(said, mean, histories, time.monotonic() - began, _ALARM)


def _found(
    name: str, world: World, patients: int, factor: float, histories: int, longest: int
) -> Iterator[Row]:
    """How soon a change beyond what is tolerated is found, and whether study check says so."""
    began, made = time.monotonic(), Histories(world, patients, histories)
    odds = factor * _TOLERANCE ** np.sign(np.log(factor))

    def changed(month: int, risks: Floats, rng: np.random.Generator) -> Floats:
        return np.full_like(risks, odds if month >= _BEGINS else 1.0)

    found = made.until_alarm(changed, longest)
    late = found[found > _BEGINS] - _BEGINS
    soon = patients == _A_PERIOD and name != _RARE and factor > 1
    of = f"odds x {factor:.2g} beyond"
    said = f"{name}: {of}: periods, of {patients} patients"
    most, seconds = _SOON if soon else np.inf, time.monotonic() - began
    yield Row(said, float(late.mean()), len(late), seconds, most=float(most))
    variance = float((made.risks * (1 - made.risks)).mean())
    share = float(made.world.labels.mean())
    told = periods_until(made.study, patients, odds, share, variance)
    said = f"{name}: the same, up to 60, over what study check says, of {patients}"
    figure = float(np.minimum(late, 60).mean()) / told
    yield Row(said, figure, len(late), seconds, 0.7, 1.4)


@dataclass
class Histories:
    """So many histories of a monitor side by side, each of one of the world's models."""

    world: World
    patients: int
    count: int
    twice: float = 0.0

    def __post_init__(self) -> None:
        watched = self.world.study.without_gate().with_mechanism(noise="distributed", masking="on")
        self.study: Study = period(watched=watched, epsilon=_EPSILON)
        self.risks = np.stack([np.clip(one, 1e-6, 1 - 1e-6) for one in self.world.risks])
        self.generator = np.random.default_rng(self.patients)

    def until_alarm(self, scenario: Scenario, longest: int) -> Floats:
        """Return the period of each history's first alarm; ``longest`` if there is none."""
        log_m = np.full((self.count, len(LOADINGS)), NOTHING)
        times = np.full(self.count, float(longest))
        running: Mask = np.ones(self.count, dtype=bool)
        for month in range(longest):
            log_m = np.logaddexp(log_m, 0.0) + self._factors(scenario, month)
            evidence = logsumexp(log_m, axis=1) - np.log(len(LOADINGS))
            raised = running & (evidence >= np.log(_ALARM))
            times[raised] = month + 1
            running &= ~raised
        return times

    def held(self, factor: float) -> float:
        """Return how often the interval of one period holds the factor of all odds."""
        periods = self._period(lambda month, risks, rng: np.full_like(risks, factor), 0)
        found = map(odds_factor, periods)
        held = sum(one is not None and one[0] <= factor <= one[2] for one in found)
        return held / self.count

    def _factors(self, scenario: Scenario, month: int) -> Floats:
        """Return log L of a period, (count, loadings)."""
        return np.stack([log_factors(one, _TOLERANCE) for one in self._period(scenario, month)])

    def _period(self, scenario: Scenario, month: int) -> list[Period]:
        """Return what one period of each history releases."""
        rng = self.generator
        model = np.arange(self.count) % len(self.risks)
        once = round(self.patients * (1 - self.twice))
        who = rng.integers(self.risks.shape[1], size=(self.count, once))
        risks = self.risks[model[:, None], who]
        labels = rng.random(risks.shape) < times_odds(risks, scenario(month, risks, rng))
        again = np.ones(once)
        again[: self.patients - once] = 2  # the same people, at another hospital
        more = ((labels - risks) * again).sum(axis=1)
        variance = monitor.OF_VARIANCE * (risks * (1 - risks) * again).sum(axis=1)
        noisy = self._released(np.stack([more, variance], axis=1))
        noise = combined_variance(self.study, Plan.of(self.study).purpose("monitor"), self._sites)
        other = noise / monitor.OF_VARIANCE**2
        return [Period(s, w / monitor.OF_VARIANCE, noise, other) for s, w in noisy.tolist()]

    def _released(self, exact: Floats) -> Floats:
        """Return sums with the noise that all hospitals add, each its share of it."""
        part = Plan.of(self.study).purpose("monitor").mechanism
        many = FullBatchSum(exact.size, part.noise_multiplier, part.norm)
        shares, system = noise_shares(self.study, self._sites), SystemNoise()
        total = many.release(exact.ravel(), system, shares=shares)
        for _ in range(self._sites - 1):
            total = total + many.release(np.zeros(exact.size), system, shares=shares)
        return np.asarray(many.to_real(total)).reshape(exact.shape)

    @property
    def _sites(self) -> int:
        return len(self.study.hospitals)
