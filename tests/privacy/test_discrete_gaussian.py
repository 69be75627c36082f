"""The noise itself: the exact distribution, keyed by the operating system, never repeated."""

from __future__ import annotations

import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import flo
from flo.privacy.discrete_gaussian import SystemNoise, discrete_gaussian
from flo.privacy.entropy import SystemStream

ROOMS = ("cli", "clients", "infra", "privacy", "server")


def exact(variance: int, reach: int) -> dict[int, float]:
    """P[X = x] for |x| <= reach, normalised over a range that leaves out less than 1e-300."""
    weights = {x: math.exp(-x * x / (2 * variance)) for x in range(-60 * variance, 60 * variance)}
    total = math.fsum(weights.values())
    return {x: weights[x] / total for x in range(-reach, reach + 1)}


@pytest.mark.parametrize(("variance", "reach"), [(1, 4), (2, 5), (7, 10)])
def test_samples_follow_the_exact_distribution_into_its_tails(variance: int, reach: int) -> None:
    size = 40_000
    samples = SystemNoise().sample(variance, size)
    masses = exact(variance, reach)
    cells = [*masses.values(), 1 - math.fsum(masses.values())]
    counts = [int((samples == x).sum()) for x in masses]
    counts.append(size - sum(counts))
    # Cells below 5 expected are pooled from both ends, so that chi-square holds.
    expected = np.array(cells) * size
    small = expected < 5
    observed = np.append(np.array(counts)[~small], np.array(counts)[small].sum())
    wanted = np.append(expected[~small], expected[small].sum())
    # False alarm 1e-6 for each variance.
    assert stats.chisquare(observed, wanted).pvalue > 1e-6


@pytest.mark.parametrize("variance", [10**6 + 7, 10**12 + 39, 2**70 + 1])
def test_moments_hold_at_large_variance(variance: int) -> None:
    size = 4000
    scaled = SystemNoise().sample(variance, size).astype(np.float64) / math.sqrt(variance)
    # False alarm 1e-6 each for mean, variance and the share beyond two standard deviations.
    z = float(stats.norm.isf(5e-7))
    assert abs(scaled.mean()) < z / math.sqrt(size)
    spread = stats.chi2(size).cdf(float((scaled**2).sum()))
    assert 5e-7 < spread < 1 - 5e-7
    far = stats.binom(size, 2 * float(stats.norm.sf(2)))
    assert far.ppf(5e-7) <= int((np.abs(scaled) > 2).sum()) <= far.isf(5e-7)


def test_noise_never_falls_on_a_grid_coarser_than_one_step() -> None:
    samples = SystemNoise().sample(2**80 + 1, 500)
    # Floats of that size would all be even; false alarm 2^-499.
    assert len(set((samples % 2).tolist())) == 2


def test_uniform_integers_are_uniform() -> None:
    stream, bound, size = SystemStream(), 11, 33_000
    counts = np.bincount([stream.below(bound) for _ in range(size)], minlength=bound)
    assert len(counts) == bound
    assert stats.chisquare(counts).pvalue > 1e-6  # false alarm 1e-6
    assert {stream.below(1) for _ in range(5)} == {0}


@pytest.mark.parametrize("variance", [0, -1, 2**100])
def test_a_variance_that_64_bits_cannot_hold_is_refused(variance: int) -> None:
    with pytest.raises(ValueError, match="variance"):
        SystemNoise().sample(variance, 1)


def test_shapes_and_types() -> None:
    for size in (0, 1, 5):
        samples = SystemNoise().sample(100, size)
        assert samples.shape == (size,)
        assert samples.dtype == np.int64


class Recorded:
    """Plays back the same uniform integers every time."""

    def __init__(self) -> None:
        self._random = random.Random(4)

    def below(self, bound: int) -> int:
        return self._random.randrange(bound)


def test_a_sample_is_a_function_of_its_uniform_integers_only() -> None:
    one, other = Recorded(), Recorded()
    for _ in range(50):
        assert discrete_gaussian(10**9, one) == discrete_gaussian(10**9, other)


def test_no_seed_of_any_library_repeats_the_noise() -> None:
    streams = []
    for _ in range(2):
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)
        streams.append(SystemNoise().sample(2**40, 8))
    assert (streams[0] != streams[1]).all()  # false alarm below 1e-4 * 2^-20 a coordinate


def test_every_stream_has_its_own_key() -> None:
    values = {SystemStream().below(1 << 64) for _ in range(1000)}
    assert len(values) == 1000  # false alarm below 3e-14


def test_a_stream_is_refused_across_a_fork() -> None:
    stream = SystemStream()
    stream.below(1000)
    child = os.fork()
    if child == 0:
        try:
            stream.below(1000)
        except RuntimeError:
            os._exit(17)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 17
    assert stream.below(1000) < 1000


def test_two_forks_draw_different_noise() -> None:
    program = (
        "import os\n"
        "from flo.privacy.discrete_gaussian import SystemNoise\n"
        "SystemNoise().sample(2**60, 1)\n"
        "child = os.fork()\n"
        "os.write(1, b'%d\\n' % SystemNoise().sample(2**60, 1)[0])\n"
        "os.waitpid(child, 0) if child else os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    one, other = done.stdout.split()
    assert one != other  # false alarm below 1e-9


def test_no_source_file_can_seed_randomness() -> None:
    forbidden = re.compile(
        r"manual_seed|default_rng|np\.random|numpy\.random|random\.seed|RandomState"
    )
    root = Path(flo.__file__).parent
    sources = [*root.glob("*.py"), *(f for room in ROOMS for f in (root / room).rglob("*.py"))]
    assert len(sources) > 40
    assert [str(f) for f in sources if forbidden.search(f.read_text())] == []
