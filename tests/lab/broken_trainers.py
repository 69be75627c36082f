"""Trainers that are broken in one way each; ``flo audit attack`` has to refuse them all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from flo.arrays import Integers, Mask
from flo.clients.data_process.trainer import Trainer
from flo.clients.records.snapshot import Snapshot
from flo.privacy.gradients import exact_sums
from flo.privacy.gradients.batches import Batches
from flo.privacy.mechanisms.discrete_gaussian import Noise, SystemNoise
from flo.study.document import Study
from flo.study.parameters import Vector

Sampler = Callable[[int, int], Integers]
Make = Callable[..., Trainer]


class Broken(SystemNoise):
    """The system's coins, and noise that ``sampler`` makes of a variance and a size."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def sample(self, variance: int, size: int) -> Integers:
        return self._sampler(variance, size)


def _with_noise(make_sampler: Callable[[], Sampler]) -> Make:
    def make(
        study: Study, snapshot: Snapshot, *, noise: Noise | None = None, **known: Any
    ) -> Trainer:
        return Trainer(study, snapshot, noise=noise or Broken(make_sampler()), **known)

    return make


def _right(variance: int, size: int) -> Integers:
    return SystemNoise().sample(variance, size)


def _reused() -> Sampler:
    kept: dict[tuple[int, int], Integers] = {}

    def sample(variance: int, size: int) -> Integers:
        return kept.setdefault((variance, size), _right(variance, size)).copy()

    return sample


def _none_in_every_fifth() -> Sampler:
    count = iter(range(10**9))
    return lambda variance, size: _right(variance, size) * (next(count) % 5 != 4)


def _one_number_without() -> Sampler:
    return lambda variance, size: _right(variance, size) * (np.arange(size) != size // 2)


def _constant_seed() -> Sampler:
    generator = np.random.default_rng(7)
    return lambda variance, size: np.rint(generator.normal(scale=variance**0.5, size=size)).astype(
        np.int64
    )


def _antithetic() -> Sampler:
    kept: list[Integers] = []

    def sample(variance: int, size: int) -> Integers:
        if kept:
            return -kept.pop()
        kept.append(_right(variance, size))
        return kept[0].copy()

    return sample


def _divided(by: int) -> Callable[[], Sampler]:
    return lambda: lambda variance, size: _right(max(1, variance // by**2), size)


def _clip_times(factor: float) -> Make:
    def make(study: Study, snapshot: Snapshot, **known: Any) -> Trainer:
        trainer = Trainer(study, snapshot, **known)
        trainer._step = copy.copy(trainer._step)  # it is shared with other trainers
        trainer._step._clip *= factor
        return trainer

    return make


def _one_layer_unclipped(study: Study, snapshot: Snapshot, **known: Any) -> Trainer:
    """The last number, a bias, is summed as it is."""
    trainer = Trainer(study, snapshot, **known)
    trainer._step = step = copy.copy(trainer._step)
    integer_sum, clip = step.integer_sum, step._clip

    def half(weights: Vector, batches: Batches, chosen: Mask | None = None) -> Any:
        clipped = integer_sum(weights, batches, chosen)
        step._clip = 1e9
        whole = step.to_real(integer_sum(weights, batches, chosen))
        step._clip = clip
        unclipped = exact_sums.zeros(len(whole))
        exact_sums.add(unclipped, whole, clip, step._batch)
        clipped[:, -1] = unclipped[:, -1]
        return clipped

    step.integer_sum = half  # type: ignore[method-assign]
    return trainer


BROKEN: dict[str, tuple[Make, str]] = {  # and the check that has to say so
    "noise reused": (_with_noise(_reused), "repeated"),
    "none in every fifth release": (_with_noise(_none_in_every_fifth), "a release"),
    "one number without noise": (_with_noise(_one_number_without), "a number"),
    "a constant seed": (_with_noise(_constant_seed), "equal numbers"),
    "antithetic noise": (_with_noise(_antithetic), "cancelling"),
    "half of the noise": (_with_noise(_divided(2)), "too little noise"),
    "a third of the noise": (_with_noise(_divided(3)), "too little noise"),
    "a tenth of the noise": (_with_noise(_divided(10)), "too little noise"),
    "no noise": (_with_noise(lambda: lambda v, size: np.zeros(size, np.int64)), "a release"),
    "clip times 2": (_clip_times(2), "clip"),
    "clip times 10": (_clip_times(10), "clip"),
    "no clip": (_clip_times(1e12), "clip"),
    "one layer unclipped": (_one_layer_unclipped, "clip"),
}
