"""A hospital's masks and noise against ChaCha20, and the coordinator's sum against a plain one."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tomli_w
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from flo.bench import BenchRow, compared, row
from flo.bench.rounds import demo
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.secure_sum.masking import Attempt, masked
from flo.privacy.secure_sum.ring import from_ring
from flo.study.loading import load

_SIZES = tuple((sites, length) for length in (10**4, 10**6, 10**7) for sites in (4, 16, 50))
_QUICK = ((4, 10**4), (50, 10**6))
_VARIANCE = 1_500_000**2
_CHUNK = 1 << 18
_HEART = Path(__file__).parent.parent / "examples" / "heart" / "study.toml"


def rows(*, quick: bool) -> Iterator[BenchRow]:
    """Measure in a ring of 2^32, with made-up secrets: the key agreement runs only once per run."""
    for hospitals, length in _QUICK if quick else _SIZES:
        yield from _rows(hospitals, length, runs=9 if hospitals * length < 10**8 else 3)
    if not quick:
        yield _masked_round()


def _masked_round() -> BenchRow:
    """Measure a round of the demo: four agents and a coordinator as processes, over mutual TLS."""
    seconds: dict[str, list[float]] = {"on": [], "off": []}
    heart = load(_HEART).with_mechanism(noise="local")
    for masking in ("on", "off") * 2:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            variant = heart.with_mechanism(masking=masking)
            text = tomli_w.dumps(variant.model_dump(mode="json", exclude_none=True))
            (folder / "study.toml").write_text(text, encoding="utf-8")
            seconds[masking].append(demo(folder, own_data=False)["seconds_per_round"])
    both, runs = map(statistics.median, seconds.values()), 2 * heart.mechanism.steps
    name = "round of the demo, 4 agents"
    return row("secure-sum", name, *both, how="the same round unmasked", runs=runs)


def _rows(hospitals: int, length: int, *, runs: int) -> Iterator[BenchRow]:
    secrets = {f"{i:064x}": os.urandom(32) for i in range(1, hospitals)}
    attempt = Attempt("a" * 64, "run-1", "training", 1, 1, "b" * 64, "c" * 64, 32, length)
    exact, noise = np.arange(length, dtype=np.int64), SystemNoise()
    name = f"{hospitals} hospitals, {length:,} parameters"

    def site() -> object:
        noisy = exact + noise.sample(_VARIANCE, length)
        return masked(noisy, "0" * 64, secrets, attempt)

    def cipher() -> None:
        encryptor = Cipher(ChaCha20(os.urandom(32), bytes(16)), mode=None).encryptor()
        zeros, buffer = bytes(_CHUNK), bytearray(_CHUNK + 64)
        for _ in range(-(-4 * length * (hospitals - 1) // _CHUNK)):
            encryptor.update_into(zeros, buffer)

    def masks() -> object:
        return masked(exact, "0" * 64, secrets, attempt)

    yield compared("secure-sum", f"site, {name}", site, cipher, how="ChaCha20 alone", runs=runs)
    yield compared("secure-sum", f"masks, {name}", masks, cipher, how="ChaCha20 alone", runs=runs)
    reply, plain = masked(exact, "0" * 64, secrets, attempt), exact.copy()

    def summed() -> object:
        total = reply.copy()
        for _ in range(hospitals - 1):
            total += reply
        return from_ring(total, 32)

    def added() -> object:
        total = plain.copy()
        for _ in range(hospitals - 1):
            total += plain
        return total

    how = "numpy sum of int64"
    yield compared("secure-sum", f"sum, {name}", summed, added, how=how, runs=runs)
