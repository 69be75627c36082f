"""A comparison of versions calls a version worse or better, wrongly, as seldom as it says, though
it is looked at after every outcome.

Real patients, models that FLO trained at several ε, with the risks that their cards state. Patients
of each run are drawn anew, with replacement, from all that were held out, and their outcomes become
known one by one. Where two versions must be exactly alike, patients are drawn with weights under
which the mean difference of log losses is 0. A version with wrong odds is compared with
one whose risks are right on average. Beside it stands what is usual: a test that is made for one
look, made at every look; and a rule that gives patients to the version that seems to do better
(Thompson sampling on squared errors), with outcomes that come 30 days late.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import permutations

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, log_expit, logit
from scipy.stats import norm

from flo.arrays import Floats
from flo.clients.comparison.result import ALPHA, FARTHEST, LEAST, MOST
from flo.scores.always_valid import bounds, first_known
from tests.proofs.hospitals import CHOSEN_ON, GENERAL
from tests.proofs.release_gate import World
from tests.proofs.rows import Row, chance

_RUNS, _QUICK_RUNS = 2000, 200
_OUTCOMES, _QUICK_OUTCOMES = 5000, 2000  # of a run that is looked at after each
_LONGEST = 20_000
_PAIRS, _QUICK_PAIRS = 8, 2
_SETS = ("support2", "nass")
_ODDS = 1.5
_MEDIAN = {"support2": 4000, "nass": 10_000}  # outcomes
_FIRST_LOOK = 30  # of the test that is made for one look
_PATIENTS, _LATE, _BATCH = 3000, 300, 10  # a day has ten patients, outcomes come after 30 days


def rows(quick: bool) -> Iterator[Row]:
    """False alarms, coverage, the time to find wrong odds; peeking, and bandits."""
    for name in _SETS[: 1 if quick else None]:
        yield from _of_set(name, quick)


def _of_set(name: str, quick: bool) -> Iterator[Row]:
    began, consortium = time.monotonic(), (CHOSEN_ON | GENERAL)[name]()
    world = World.of(consortium, 2 if quick else 4)
    runs = _QUICK_RUNS if quick else _RUNS
    count = _QUICK_OUTCOMES if quick else _OUTCOMES
    generator = np.random.default_rng(11)
    pairs = _alike(world, _QUICK_PAIRS if quick else _PAIRS)
    worse, peeking, held = 0, 0, 0
    for run in range(runs):
        gains, weights = pairs[run % len(pairs)]
        drawn = generator.choice(gains, count, p=weights)
        worse += _is_told(drawn)
        peeking += _is_told_by_peeking(drawn)
        if run < runs // 10:
            interval = bounds(drawn, ALPHA)
            held += interval.low <= 0 <= interval.high
    seconds = time.monotonic() - began
    title = f"{name}: called worse or better, alike ({len(pairs)} pairs), {count:,} looks"
    yield Row(title, worse / runs, runs, seconds, most=ALPHA + chance(ALPHA, runs))
    least = 1 - ALPHA - chance(ALPHA, runs // 10)
    title = f"{name}: interval holds the mean at the last look"
    yield Row(title, held / (runs // 10), runs // 10, seconds, least)
    title = f"{name}: beside it: a z-test of 5 %, at every look"
    yield Row(title, peeking / runs, runs, seconds)
    season = _misled_by_a_season(pairs, generator, runs // 10)
    title = f"{name}: the interval misses a mean that goes up and down"
    most = ALPHA + chance(ALPHA, runs // 10)
    yield Row(title, season, runs // 10, time.monotonic() - began, most=most)
    found = _found(world, generator, runs // 10)
    known = np.sort([one if one is not None else _LONGEST for one in found])
    seconds = time.monotonic() - began
    title = f"{name}: outcomes until odds x {_ODDS:g} are found: median"
    yield Row(title, float(np.median(known)), len(found), seconds, most=_MEDIAN[name])
    title = f"{name}: outcomes until odds x {_ODDS:g} are found: nine of ten"
    yield Row(title, float(np.quantile(known, 0.9)), len(found), seconds)
    for title, figure in _bandits(world, generator, runs // 2).items():
        yield Row(f"{name}: bandit: {title}", figure, runs // 2, time.monotonic() - began)


def _gains(old: Floats, own: Floats, labels: Floats) -> Floats:
    """g / log ``FARTHEST`` of every patient (``flo.clients.comparison.result``)."""
    before = logit(np.clip(old, LEAST, MOST))
    limit = np.log(FARTHEST)
    after = np.clip(logit(np.clip(own, LEAST, MOST)), before - limit, before + limit)
    sign = np.where(labels == 1, 1, -1)
    gains: Floats = (log_expit(sign * after) - log_expit(sign * before)) / limit
    return gains


def _alike(world: World, most: int) -> list[tuple[Floats, Floats]]:
    """Pairs of models: g of every patient, and with which weights its mean is exactly 0."""
    found = []
    for one, other in permutations(range(len(world.risks)), 2):
        gains = _gains(world.risks[one], world.risks[other], world.labels)

        def tilted(tilt: float, g: Floats = gains) -> Floats:
            exponents: Floats = tilt * g
            weights: Floats = np.exp(exponents - exponents.max())
            return np.asarray(weights / weights.sum())

        scale = 1 / max(float(gains.std()), 1e-9)
        ends = [float(tilted(end * scale) @ gains) for end in (-1.0, 1.0)]
        if ends[0] < 0 < ends[1]:
            tilt = brentq(lambda t, g=gains: float(tilted(t) @ g), -scale, scale)
            found.append((gains, tilted(tilt)))
    chosen = np.random.default_rng(5).permutation(len(found))[:most]
    return [found[place] for place in chosen]


def _misled_by_a_season(
    pairs: list[tuple[Floats, Floats]], generator: np.random.Generator, runs: int
) -> float:
    """How often the interval is above the mean so far, or below it, at any of some looks, when the
    mean goes up and down."""
    wrong = 0
    for run in range(runs):
        gains, weights = pairs[run % len(pairs)]
        drawn = generator.choice(gains, _QUICK_OUTCOMES, p=weights)
        shift = 0.3 * np.sin(np.arange(_QUICK_OUTCOMES) / 200)
        means = np.cumsum(shift) / np.arange(1, _QUICK_OUTCOMES + 1)
        seen = (drawn * 0.7) + shift
        looks = range(100, _QUICK_OUTCOMES + 1, 100)
        found = [(bounds(seen[:look], ALPHA), means[look - 1]) for look in looks]
        wrong += not all(one.low <= mean <= one.high for one, mean in found)
    return wrong / runs


def _is_told(drawn: Floats) -> bool:
    """Whether the version is called worse or better at any look."""
    return any(first_known(sign * drawn, ALPHA / 2) is not None for sign in (1, -1))


def _is_told_by_peeking(drawn: Floats) -> bool:
    counts = np.arange(1, len(drawn) + 1)
    mean = np.cumsum(drawn) / counts
    deviation = np.sqrt(np.maximum(np.cumsum(drawn**2) / counts - mean**2, 1e-12))
    z = np.abs(mean) / (deviation / np.sqrt(counts))
    return bool((z[_FIRST_LOOK:] > norm.ppf(1 - ALPHA / 2)).any())


def _found(world: World, generator: np.random.Generator, runs: int) -> list[int | None]:
    """After how many outcomes a version with wrong odds is called worse."""
    found = []
    for run in range(runs):
        old = right_on_average(world, run)
        own = times_odds(old, _ODDS)
        drawn = generator.integers(0, len(old), _LONGEST)
        gains = _gains(old[drawn], own[drawn], world.labels[drawn])
        found.append(first_known(-gains, ALPHA / 2))
    return found


def right_on_average(world: World, run: int) -> Floats:
    """A model's risks, with the factor on its odds that makes their mean the outcomes' mean."""
    risks, wanted = world.risks[run % len(world.risks)], world.labels.mean()
    factor = brentq(lambda f: float(times_odds(risks, f).mean() - wanted), 0.02, 50.0)
    return times_odds(risks, factor)


def times_odds(risks: Floats, factor: Floats | float) -> Floats:
    odds: Floats = expit(logit(np.clip(risks, 1e-6, 1 - 1e-6)) + np.log(factor))
    return odds


def _bandits(world: World, generator: np.random.Generator, runs: int) -> dict[str, float]:
    """What Thompson sampling does with two versions that are the same, and with a worse one."""
    same, wrong, biased = [], [], []
    for run in range(runs):
        old = right_on_average(world, run)
        share, difference = _thompson(world, old, old, generator)
        same.append(share)
        biased.append(difference)
        share, _ = _thompson(world, old, times_odds(old, _ODDS), generator)
        wrong.append(share)
    shares = np.array(same)
    return {
        "same versions: one gets over 80 % of patients": float(
            np.mean((shares > 0.8) | (shares < 0.2))
        ),
        f"odds x {_ODDS:g}: the worse gets over half of patients": float(
            np.mean(np.array(wrong) > 0.5)
        ),
        "same versions: z-test of the end calls one better": float(np.mean(biased)),
    }


def _thompson(
    world: World, old: Floats, own: Floats, generator: np.random.Generator
) -> tuple[float, bool]:
    """Return the share of patients who got the other version, and whether a z-test of 5 % at the
    end tells the versions apart."""
    drawn = generator.integers(0, len(old), _PATIENTS)
    y = world.labels[drawn]
    errors = np.stack([(old[drawn] - y) ** 2, (own[drawn] - y) ** 2])
    arms = np.zeros(_PATIENTS, dtype=int)
    for day in range(0, _PATIENTS, _BATCH):
        known = slice(0, max(0, day - _LATE))
        draws = []
        for arm in (0, 1):
            seen = errors[arm, known][arms[known] == arm]
            spread = max(float(seen.std()) if len(seen) > 1 else 0.3, 1e-3)
            mean = float(seen.mean()) if len(seen) else 0.25
            scale = spread / np.sqrt(len(seen) + 1)
            draws.append(generator.normal(mean, scale, _BATCH))
        arms[day : day + _BATCH] = draws[1] < draws[0]
    both = [errors[arm][arms == arm] for arm in (0, 1)]
    if min(map(len, both)) < _FIRST_LOOK:
        return float(arms.mean()), False
    variance = sum(float(one.var()) / len(one) for one in both)
    z = abs(float(both[0].mean() - both[1].mean())) / np.sqrt(variance)
    return float(arms.mean()), bool(z > norm.ppf(1 - ALPHA / 2))
