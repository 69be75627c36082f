"""Smaller costs: start-up of the command line, and sampling of exact noise."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from flo.bench import BenchRow, compared
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise

_VARIANCE = 1_500_000**2


def start(commands: Sequence[str]) -> Iterator[BenchRow]:
    """Measure each command's ``--help`` ("": ``flo`` itself) against an empty Python program."""

    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    for command in commands:
        words = [*command.split(), "--help"]
        yield compared(
            "start",
            " ".join(["flo", *words]),
            lambda words=words: run("-m", "flo.cli", *words),  # type: ignore[misc]
            lambda: run("-c", "pass"),
            how="python -c pass",
            runs=3 if command else 9,
        )


def noise() -> Iterator[BenchRow]:
    """Measure exact discrete Gaussians against numpy's float Gaussians, which are not private."""
    source, generator = SystemNoise(), np.random.default_rng()

    def sample(size: int) -> None:
        source.sample(_VARIANCE, size)

    def normal(size: int) -> None:
        generator.normal(size=size)

    for size in (100, 10_000, 1_000_000):
        yield compared(
            "noise",
            f"{size:,} exact samples",
            lambda size=size: sample(size),  # type: ignore[misc]
            lambda size=size: normal(size),  # type: ignore[misc]
            how="numpy normal, not private",
            runs=9,
        )
