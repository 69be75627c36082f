"""Checks of a trainer's noise and clip, by its releases of made-up patients.

The study's trainer releases many times at two shadow sites. Subtracting a release with zero noise
injected leaves the noise alone: N (releases, numbers), independent discrete Gaussians of the
variance v that the mechanism states (``Mechanism.variance_steps``). At this size they are Gaussian
to all digits that matter. Under distributed noise N is one hospital's share, for the largest and
for the smallest cohort. A check rejects a correct trainer with probability at most
``_FALSE_ALARM``, corrected for the number of tests within it (Bonferroni):

* ``too little noise``: Σ N²/v over all is chi-squared. Detects less than stated, from a tenth on.
* ``a release``: the same over the numbers of each release. Detects one with less noise or none.
* ``a number``: the same over the releases of each number. Detects a weight or cell with less.
* ``cancelling``: Σ over numbers of (Σ N)²/(v·releases) is too small. Detects noise that later
  noise cancels.
* ``repeated``: the same is too large. Detects the same noise again, also in part.
* ``equal numbers``: |N| is equal in two releases more often than by chance (Poisson). Detects the
  same bits again, also with the other sign, also at both sites.
* ``clip``: one made-up patient, without noise, has a norm above the clip. Detects a clip that is
  missing or too large, also that of one layer alone, if a made-up patient reaches it.
* ``sampling``: how often a made-up patient is in a step is binomial. Detects another probability.

They do not detect: noise of the right variance that someone can predict, unless two sites or two
releases have it in common; a clip that no made-up patient reaches; errors in reading the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import stats

from flo.arrays import Floats, Integers
from flo.clients.data_process.trainer import Trainer, private_step
from flo.clients.records.snapshot import Snapshot
from flo.lab.canaries import contributions, made_up_patients, request_for
from flo.privacy.accounting.plan import Plan, noise_shares
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.mechanisms.entropy import SystemStream
from flo.privacy.mechanisms.mechanisms import GRID, PoissonSum
from flo.privacy.patients.patients import Patients
from flo.study import models
from flo.study.document import Study
from flo.study.features import input_names
from flo.study.parameters import Vector
from flo.study.terms import Purpose

Progress = Callable[[str], None]
MakeTrainer = Callable[..., Trainer]

_FALSE_ALARM = 1e-6  # per check; a study has at most about fifty
_RELEASES, _FEWEST = 40, 12  # at each of two sites
_MOST_NUMBERS = 8_000_000  # drawn in all, for a large model
_CANARIES, _COINS = 8, 400
_SCALES = (1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Check:
    """Result of one check.

    ``p``: probability, in [0, 1], that a correct trainer gives this result or a worse one; 0 if a
    norm exceeds the clip. ``failed``: ``p`` is below the allowed false alarm rate. ``seen``: False
    if the check could not be made.
    """

    of: str
    name: str
    p: float
    failed: bool
    said: str
    seen: bool = True


class NoNoise:
    """Noise of zero and coins that always choose, so that every patient takes part."""

    def sample(self, variance: int, size: int) -> Integers:
        """Return zeros (size,)."""
        return np.zeros(size, dtype=np.int64)

    def choose(self, probability: float, count: int) -> npt.NDArray[np.bool_]:
        """Choose every patient, (count,)."""
        return np.ones(count, dtype=np.bool_)


def checks(
    study: Study, make_trainer: MakeTrainer = Trainer, progress: Progress = lambda text: None
) -> Iterator[Check]:
    """Run all checks of a planned study. ``make_trainer`` takes ``Trainer``'s arguments."""
    make_trainer = partial(make_trainer, step=private_step(study, "cpu"))
    if study.gate and not study.gate.is_filled_in:
        study = study.without_gate()
    for purpose in study.purposes:
        part = Plan.of(study).purpose(purpose)
        for cohort in sorted({study.cohort_floor, len(study.hospitals)}):
            shares = noise_shares(study, cohort)
            progress(f"noise of {purpose}, {cohort} hospitals")
            noise = _noise(study, purpose, cohort, make_trainer)
            of = f"{purpose}, {cohort} hospitals" if shares > 1 else purpose
            yield from _of_noise(of, noise, part.mechanism.variance_steps(shares))
            if shares == 1:
                break  # the noise is the same for every cohort
    progress("clip, one made-up patient at a time")
    for purpose in study.purposes:
        if purpose not in ("evaluation", "gate"):  # proven for every model that is asked
            yield _clip(study, purpose, make_trainer)
    mechanism = Plan.of(study).purpose("training").mechanism
    if isinstance(mechanism, PoissonSum):
        progress("coins")
        yield _sampling(study, mechanism, make_trainer)


def _noise(study: Study, purpose: Purpose, cohort: int, make_trainer: MakeTrainer) -> Integers:
    """Return each release of two sites minus its site's exact release, (releases, numbers)."""
    length = Plan.of(study).purpose(purpose).mechanism.length
    wanted = _RELEASES if purpose == "training" else _FEWEST  # its many numbers compensate
    count = max(_FEWEST, min(wanted, _MOST_NUMBERS // (2 * length)))
    weights, rows = request_for(study, purpose, models.initial_weights(study)), []
    # Coins choose the patients of a sampled step: only without patients is the rest pure noise.
    patients = 0 if study.mechanism.sampling != 1 and purpose == "training" else _CANARIES
    for _ in range(2):
        snapshot = _snapshot(study, patients)
        exact = make_trainer(study, snapshot, noise=NoNoise()).release(purpose, weights, cohort)
        trainer = make_trainer(study, snapshot)
        rows += [trainer.release(purpose, weights, cohort) - exact for _ in range(count)]
    return np.array(rows)


def _of_noise(of: str, noise: Integers, variance: int) -> Iterator[Check]:
    releases, numbers = noise.shape
    scaled = noise / math.sqrt(variance)
    squares = scaled**2
    by_number = squares.sum(0)

    def found(name: str, p: float, said: str) -> Check:
        return Check(of, name, p, p < _FALSE_ALARM, said)

    def low(statistic: Floats, freedom: int) -> float:
        """Return the smallest statistic's lower tail, corrected for the number of statistics."""
        return min(1.0, len(statistic) * float(stats.chi2.cdf(statistic.min(), freedom)))

    total = np.array([squares.sum()])
    share = float(total[0] / squares.size)
    yield found("too little noise", low(total, squares.size), f"{share:.3f} of the variance stated")
    said = f"at least {squares.mean(1).min():.3f} of it in each of {releases} releases"
    yield found("a release", low(squares.sum(1), numbers), said)
    said = f"at least {by_number.min() / releases:.3f} of it in each of {numbers} numbers"
    yield found("a number", low(by_number, releases), said)
    together = np.array([(scaled.sum(0) ** 2).sum() / releases])
    said = f"the sum has {together[0] / numbers:.3f} of its variance"
    yield found("cancelling", low(together, numbers), said)
    yield found("repeated", float(stats.chi2.sf(together[0], numbers)), said)
    equal, expected = _equal(noise), _expected_equal(noise, variance)
    p = float(stats.poisson.sf(equal - 1, expected)) if equal else 1.0
    yield found("equal numbers", p, f"{equal} where {expected:.2g} are expected")


def _equal(noise: Integers) -> int:
    """Count values whose size equals another release's value of the same number."""
    return int((np.diff(np.sort(np.abs(noise), axis=0), axis=0) == 0).sum())


def _expected_equal(noise: Integers, variance: int) -> float:
    """Return the expected result of ``_equal``.

    Two independent values have |x| = |y| with probability 1/√(π·variance).
    """
    releases, numbers = noise.shape
    return float(numbers * releases * (releases - 1) / 2 / math.sqrt(math.pi * variance))


def _clip(study: Study, purpose: Purpose, make_trainer: MakeTrainer) -> Check:
    """Compare the largest norm of one made-up patient's release without noise with the clip.

    Second moments of a record within its bounds need no clipping, so those inputs are tripled.
    """
    mechanism = Plan.of(study).purpose(purpose).mechanism
    largest, reached = 0.0, 0.0
    allowed = mechanism.sensitivity_steps / GRID
    canaries = made_up_patients(study.data, _CANARIES)
    times = 3 if purpose == "moments" else 1
    for number in range(_CANARIES):
        own = canaries.patient == number
        alone = Patients(
            times * canaries.inputs[own], canaries.labels[own], np.zeros(own.sum(), int), 1
        )
        trainer = make_trainer(study, Snapshot(alone, _nobody(study)), noise=NoNoise())
        for weights in _weights_tried(study):
            asked = request_for(study, purpose, weights)
            released = trainer.release(purpose, asked, len(study.hospitals))
            norm = float(np.linalg.norm(released.astype(np.float64))) / GRID
            largest = max(largest, norm)
            exact = float(np.linalg.norm(contributions(study, purpose, weights, alone)))
            reached = max(reached, exact / mechanism.norm)
    failed = largest > allowed
    said = f"at most {largest:.3f} clips, of patients with parts of up to {reached:.3g}"
    return Check(purpose, "clip", 0.0 if failed else 1.0, failed, said, seen=reached > 1.01)


def _sampling(study: Study, mechanism: PoissonSum, make_trainer: MakeTrainer) -> Check:
    """Test how often one made-up patient is in a step, noise off and coins on."""
    canary = made_up_patients(study.data, 1)
    trainer = make_trainer(study, Snapshot(canary, _nobody(study)), noise=_CoinsOnly())
    weights = models.initial_weights(study)
    inside = sum(
        bool(trainer.release("training", weights, len(study.hospitals)).any())
        for _ in range(_COINS)
    )
    p = float(stats.binomtest(inside, _COINS, mechanism.sampling).pvalue)
    said = f"in {inside} of {_COINS} steps, q = {mechanism.sampling:g}"
    return Check("training", "sampling", p, p < _FALSE_ALARM, said)


class _CoinsOnly(NoNoise):
    """Noise of zero, and the system's coins."""

    def choose(self, probability: float, count: int) -> npt.NDArray[np.bool_]:
        """Toss real coins, (count,)."""
        return SystemNoise().choose(probability, count)


def _snapshot(study: Study, patients: int) -> Snapshot:
    """Make up ``patients`` patients to train on, and as many held out."""
    if not patients:
        return Snapshot(_nobody(study), _nobody(study))
    return Snapshot(made_up_patients(study.data, patients), made_up_patients(study.data, patients))


def _nobody(study: Study) -> Patients:
    return Patients(np.zeros((0, len(input_names(study.data)))), np.zeros(0), np.arange(0), 0)


def _weights_tried(study: Study) -> Iterator[Vector]:
    """Yield initial weights, then random ones of growing scale: some model errs on any patient."""
    yield models.initial_weights(study)
    words = SystemStream().words(models.parameter_count(study))
    even = 2 * ((words >> np.uint64(11)) * 2.0**-53) - 1
    for scale in _SCALES:
        yield (scale * even).astype(models.precision(study))
