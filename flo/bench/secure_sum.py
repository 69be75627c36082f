"""A hospital's masks and noise against ChaCha20, and the coordinator's sum against a plain one.

Rows with "survives" are of sums from which a fifth of the hospitals may be missing: the hospital
adds noise in components, and the coordinator removes those that are not needed.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import tomli_w
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from flo.bench import BenchRow, compared, row
from flo.bench.rounds import demo
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.mechanisms.mechanisms import FullBatchSum
from flo.privacy.secure_sum.components import SEED_BYTES, add_noise, components
from flo.privacy.secure_sum.masking import Attempt, add_masks, masked
from flo.privacy.secure_sum.ring import from_ring, to_ring
from flo.privacy.secure_sum.unmasking import Member, Opened, remove
from flo.protocol.deals import Deal
from flo.study.loading import load
from flo.study.tolerance import Tolerance, usual_dropouts

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
    heart = load(_HEART)
    for masking in ("on", "off") * 2:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            noise = heart.mechanism.noise if masking == "on" else "local"
            variant = heart.with_mechanism(masking=masking, noise=noise)
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
    yield from _surviving(hospitals, attempt, secrets, name, runs)


def _surviving(
    hospitals: int, attempt: Attempt, secrets: dict[str, bytes], name: str, runs: int
) -> Iterator[BenchRow]:
    colluders = max(1, (hospitals - 1) // 3)
    tolerance = Tolerance(hospitals, colluders, usual_dropouts(hospitals))
    mechanism = FullBatchSum(attempt.length, 10.0, 1.0)
    added = components(mechanism, tolerance, hospitals)
    base = mechanism.variance_steps(tolerance.shares(0))
    exact, noise = np.arange(attempt.length, dtype=np.int64), SystemNoise()
    seeds = [os.urandom(SEED_BYTES) for _ in range(tolerance.last + 1)]

    def before() -> object:
        noisy = exact + noise.sample(base, attempt.length)
        return masked(noisy, "0" * 64, secrets, attempt)

    def site() -> object:
        noisy = exact + noise.sample(base, attempt.length)
        sent = to_ring(noisy, attempt.ring)
        add_noise(sent, attempt, [(seeds[each.level - 1], each) for each in added])
        add_masks(sent, "0" * 64, secrets, attempt, seeds[-1])
        return sent

    how = "the same without"
    yield compared("secure-sum", f"site, survives, {name}", site, before, how=how, runs=runs)
    total = masked(exact, "0" * 64, secrets, attempt)
    members = {f: Member(number, f, cast(Deal, None)) for number, f in enumerate(secrets, 1)}
    opened = Opened({f: os.urandom(SEED_BYTES) for f in members}, {})

    def removed() -> object:
        remove(total, attempt, members, opened, tolerance, added)
        return total

    def drawn() -> object:
        return [noise.sample(one.variance, attempt.length) for one in added for _ in members]

    how = "drawing that noise"
    yield compared("secure-sum", f"open, survives, {name}", removed, drawn, how=how, runs=1)
