"""Parts of a hospital's noise that can be made again from a seed, and so removed from a sum.

Steps 10 and 14 of the protocol in ``flo.privacy.secure_sum.masking``. The base share of the noise
comes from the operating system and cannot be made again. A component is exact discrete Gaussian
noise from ChaCha20 streams (RFC 8439). Each segment of the vector has a stream of its own, so that
several cores can make a long vector's noise. Its key is HKDF-SHA256 (RFC 5869) of a seed, the
attempt, the component and the segment's number: two parties with the seed make the same integers
(``flo.privacy.mechanisms.discrete_gaussian``).

The seeds of a hospital form a chain: each is the hash of the one before. The first makes the
component of level 1, and so on; the last one makes the self mask. So who knows the seed of a level
can remove the components from that level on and the self mask, and no component below.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from flo.arrays import Integers
from flo.privacy.mechanisms import discrete_gaussian
from flo.privacy.mechanisms.discrete_gaussian import placed
from flo.privacy.mechanisms.entropy import KeyedStream
from flo.privacy.mechanisms.mechanisms import Mechanism
from flo.privacy.secure_sum.masking import Attempt
from flo.privacy.secure_sum.ring import Masked, to_ring
from flo.privacy.secure_sum.sharing import PRIME
from flo.study.tolerance import Tolerance

SEED_BYTES = 32
_SMALLEST_COMPONENT = 100  # grid steps², as for a share of noise
# Numbers from one stream. Part of what a seed means: with another number, hospital and coordinator
# make other noise from the same seed.
SEGMENT = 1 << 20


@dataclass(frozen=True)
class Component:
    """One removable part of each hospital's noise: its place in the levels, and its variance."""

    level: int
    variance: int


def components(mechanism: Mechanism, tolerance: Tolerance, cohort: int) -> list[Component]:
    """Return the components that each of ``cohort`` hospitals adds to its base share.

    With the base share for the cohort's level, those up to a level add up to exactly the share of
    that level.

    Raises:
        ValueError: more than d hospitals are missing from the cohort, or a component would have a
            variance below 100 grid steps².
    """
    first, shares = (
        tolerance.level(cohort),
        [
            mechanism.variance_steps(tolerance.shares(level))
            for level in range(len(tolerance.levels))
        ],
    )
    found = [
        Component(level, shares[level] - shares[level - 1])
        for level in range(first + 1, len(shares))
    ]
    for component in found:
        if component.variance < _SMALLEST_COMPONENT:
            raise ValueError(
                f"a component of the noise needs a variance of at least {_SMALLEST_COMPONENT} grid "
                f"steps², got {component.variance}"
            )
    return found


def seed_after(seed: bytes, steps: int = 1) -> bytes:
    """Return the seed ``steps`` later in the chain, a number below PRIME in 32 bytes."""
    for _ in range(steps):
        hashed = hashlib.sha256(b"flo seed" + seed).digest()
        seed = (int.from_bytes(hashed) % PRIME).to_bytes(SEED_BYTES)
    return seed


def noise(seed: bytes, attempt: Attempt, component: Component, segment: int) -> Iterator[Integers]:
    """Return a component's exact noise for a segment (0, 1, ..), in pieces.

    Together SEGMENT integers; fewer in the last segment of the attempt's vector.
    """
    info = {"level": component.level, "variance": component.variance, "segment": segment}
    stream = KeyedStream(attempt.derive(b"flo noise ", info, seed))
    length = min(SEGMENT, attempt.length - segment * SEGMENT)
    return discrete_gaussian.blocks(component.variance, length, stream)


def add_noise(
    total: Masked, attempt: Attempt, seeded: Iterable[tuple[bytes, Component]], *, sign: int = 1
) -> None:
    """Add components to ``total`` (attempt.length,), in place and in its ring; subtract if -1.

    ``seeded``: each component with the seed that makes it. Runs on every core.

    Raises:
        ValueError: ``total`` has another length.
    """
    if len(total) != attempt.length:
        raise ValueError(f"noise for {attempt.length} numbers, got {len(total)}")
    seeded, change = list(seeded), {1: np.add, -1: np.subtract}[sign]

    def one(segment: int) -> None:
        part = total[segment * SEGMENT : (segment + 1) * SEGMENT]
        for seed, component in seeded:
            for place, piece in placed(noise(seed, attempt, component, segment), len(part)):
                change(part[place], to_ring(piece, attempt.ring), out=part[place])

    with ThreadPoolExecutor(os.cpu_count()) as cores:
        for _ in cores.map(one, range(-(-len(total) // SEGMENT))):
            pass
