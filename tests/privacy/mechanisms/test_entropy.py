"""Every word comes from a key of the operating system, across forks too, and no seed repeats it."""

from __future__ import annotations

import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import flo
from flo.privacy.mechanisms import discrete_gaussian as gaussian
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.mechanisms.entropy import SystemStream, Words
from tests.privacy.scripted_words import FALSE_ALARM, WORD, Script

NOT_PRIVATE = ("bench", "datasets", "lab")  # they make data up, and try


# The stream


def test_words_are_uniform() -> None:
    words = SystemStream().words(50_000)
    assert words.dtype == np.uint64
    for shift in range(0, 64, 8):
        counts = np.bincount(((words >> np.uint64(shift)) & np.uint64(255)).astype(np.int64))
        assert len(counts) == 256
        assert stats.chisquare(counts).pvalue > FALSE_ALARM  # false alarm 1e-6 for each byte


def test_the_stream_is_chacha20_from_its_first_block_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def zeros(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    monkeypatch.setattr(os, "urandom", zeros)
    words = SystemStream().words(8)
    # RFC 8439, A.1, test vector 1: key, nonce and counter all zero.
    assert words.astype("<u8").tobytes().hex() == (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )
    assert asked == [32]  # a key from the operating system


def test_a_stream_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: bytes(range(count)))
    whole, parts = SystemStream(), SystemStream()
    pieces: Sequence[Words] = [parts.words(count) for count in (1, 3, 700, 5)]
    assert np.concatenate(pieces).tolist() == whole.words(709).tolist()


def test_every_stream_has_its_own_key() -> None:
    values = {int(SystemStream().words(1)[0]) for _ in range(1000)}
    assert len(values) == 1000  # false alarm below 3e-14


def test_every_call_for_noise_has_its_own_stream() -> None:
    noise = SystemNoise()
    assert (noise.sample(2**80, 8) != noise.sample(2**80, 8)).all()  # false alarm below 3e-12


@pytest.mark.processes
def test_a_stream_is_refused_across_a_fork() -> None:
    stream = SystemStream()
    stream.words(1)
    child = os.fork()
    if child == 0:
        try:
            stream.words(1)
        except RuntimeError:
            os._exit(17)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 17
    assert len(stream.words(1)) == 1


@pytest.mark.processes
def test_two_forks_draw_different_noise() -> None:
    program = (
        "import os\n"
        "from flo.privacy.mechanisms.discrete_gaussian import SystemNoise\n"
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


# Seeds


def test_no_seed_of_any_library_repeats_the_noise() -> None:
    streams = []
    for _ in range(2):
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)
        streams.append(SystemNoise().sample(2**80, 8))
    assert (streams[0] != streams[1]).all()  # false alarm below 3e-12


def test_no_source_file_can_seed_randomness() -> None:
    forbidden = re.compile(
        r"manual_seed|default_rng|np\.random|numpy\.random|random\.seed|RandomState"
    )
    root = Path(flo.__file__).parent
    found = [
        Path(folder) / name
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
        if name.endswith(".py")
    ]
    sources = [path for path in found if path.relative_to(root).parts[0] not in NOT_PRIVATE]
    assert len(sources) > 200
    assert [str(f) for f in sources if forbidden.search(f.read_text())] == []


# Coins


@pytest.mark.parametrize("probability", [0.001, 0.01, 0.1, 1 / 3, 0.5, 1 - 2**-53])
def test_a_coin_is_exactly_as_likely_as_its_probability(
    monkeypatch: pytest.MonkeyPatch, probability: float
) -> None:
    heads = Fraction(probability) * WORD  # so many of the 2^64 words
    assert heads.denominator == 1
    script = Script(0, int(heads) - 1, int(heads), WORD - 1)
    monkeypatch.setattr(gaussian, "SystemStream", lambda: script)
    assert SystemNoise().choose(probability, 4).tolist() == [True, True, False, False]


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.5, 1.5, math.nan, 1e-4, 2.0**-65])
def test_a_probability_without_an_exact_coin_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match=r"probability|NaN"):
        SystemNoise().choose(probability, 1)


def test_coins_fall_as_often_as_they_should_and_differ_from_call_to_call() -> None:
    size = 200_000
    one, other = SystemNoise().choose(0.3, size), SystemNoise().choose(0.3, size)
    assert one.shape == (size,)
    assert one.dtype == np.bool_
    assert SystemNoise().choose(0.3, 0).shape == (0,)
    heads = stats.binom(size, 0.3)
    assert heads.ppf(5e-7) <= int(one.sum()) <= heads.isf(5e-7)  # false alarm 1e-6
    both = stats.binom(size, 0.09)
    assert both.ppf(5e-7) <= int((one & other).sum()) <= both.isf(5e-7)  # false alarm 1e-6
