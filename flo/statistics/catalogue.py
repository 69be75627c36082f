"""A catalogue from its noisy block: counts in any cells of a column or of a pair of columns.

Components are orthogonal, and a count is linear in them: over the cells of a 0/1 mask M of a pair
(a, a') it is N·ΣM/(aa') + (C·M·1)·m/a' + (C'·Mᵀ·1)·m'/a + (C·M·C'ᵀ)·D, with the components N of all
patients, m and m' of the columns and D of the pair. So it has no bias, and its noise is known.

Tables whose cells are all needed at once, for associations and made-up rows, have D shrunk towards
independence (James and Stein, with a positive part): λ = max(0, 1 - (k - 2)·σ²/‖d‖²), where d is
what D differs from independence and k is its dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import chdtri

from flo.arrays import Floats
from flo.privacy.releases.catalogue import CatalogueBlock, Places, contrasted, contrasts_of, inside
from flo.statistics.estimates import Estimate, Linear, counted, of_patients, proportion

FALSE_ALARM = 0.01  # of the test whether a pair is associated


@dataclass(frozen=True)
class Counted:
    """How many patients, and their share of all."""

    patients: Estimate
    share: Estimate


@dataclass(frozen=True)
class CatalogueRead:
    """``values``: the block, divided by its scale and by √u of each component, so in patients.

    ``variance``: of the noise of a coordinate of the block, in patients, before division by √u.
    """

    block: CatalogueBlock
    values: Floats
    variance: float

    @cached_property
    def associations(self) -> dict[Places, float | None]:
        """``association`` of each pair."""
        return {pair: self.association(pair) for pair in self.block.pairs}

    @property
    def name(self) -> str:
        """The part's name."""
        return self.block.part.name

    @property
    def patients(self) -> Estimate:
        """All patients, with an interval that covers the noise."""
        everyone = self._all
        return of_patients(everyone.value, everyone.noise(self.variance))

    def counted(self, places: Places, mask: Floats) -> Counted:
        """Count the patients in the cells where ``mask``, (a,) or (a, a'), is 1.

        ``places``: of one column, or of a pair that the catalogue has.
        """
        cell, everyone = self._sum(places, mask), self._all
        return Counted(
            counted(cell, everyone.value, self.variance),
            proportion(cell, everyone, self.variance),
        )

    def column(self, place: int) -> Floats:
        """Return a column's counts, (a,), none of them negative, which add up to all patients."""
        size = self.block.columns[place].size
        everyone = self._all.value
        found = everyone / size + contrasts_of(size).T @ self._values((place,))
        found = np.maximum(found, 0.0)
        if found.sum() <= 0:  # noise only
            found = np.ones(size)
        return np.asarray(found * (max(everyone, 1.0) / found.sum()))

    def table(self, pair: Places) -> Floats:
        """Return a pair's counts, (a, a'), shrunk towards independence; none is negative."""
        rows, columns = (self.column(n) for n in pair)
        independent = np.outer(rows, columns) / rows.sum()
        apart = self._pair(pair) - contrasted(independent)
        variance, squared = self._noise(pair), float((apart**2).sum())
        shrunk = max(0.0, 1 - max(apart.size - 2, 0.5) * variance / max(squared, 1e-300))
        one, other = (contrasts_of(self.block.columns[n].size) for n in pair)
        found = independent + shrunk * one.T @ apart @ other
        return _raked(np.maximum(found, 0.0), rows, columns)

    def association(self, pair: Places) -> float | None:
        """Return Cramér's V of a pair, in [0, 1]; None if it may well be independent.

        The test is of size ``FALSE_ALARM``. Under independence what the pair differs from the
        product of its columns has the covariance Σ of chance, of its own noise, and of the noise of
        either column and of all patients; its squared norm is about a χ² (Satterthwaite 1946),
        by tr Σ and tr Σ².
        """
        everyone = max(self._all.value, 1.0)
        one, other = (self._values((n,)) for n in pair)
        apart = self._pair(pair) - np.outer(one, other) / everyone
        shares = [self.column(n) / everyone for n in pair]
        chance = [_contrast_covariance(share) for share in shares]
        noise = [self._noise((n,)) for n in pair]
        of_one, of_other = (np.outer(c, c) / everyone**2 for c in (one, other))
        rows, columns = np.eye(len(one)), np.eye(len(other))
        terms = [
            (self._noise(pair) * rows, columns),
            (everyone * chance[0], chance[1]),
            (noise[0] * rows, of_other),
            (of_one, noise[1] * columns),
            (self._noise(()) * of_one, of_other),  # of the number of all patients
        ]
        trace = sum(float(np.trace(x) * np.trace(y)) for x, y in terms)
        of_square = sum(
            float(np.trace(x @ z) * np.trace(y @ w)) for x, y in terms for z, w in terms
        )
        least = of_square / trace * chdtri(trace**2 / of_square, FALSE_ALARM)
        if float((apart**2).sum()) <= least:
            return None
        table = self.table(pair)
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
        there = expected > 0
        squared = float(((table - expected)[there] ** 2 / expected[there]).sum())
        return min(1.0, math.sqrt(squared / table.sum() / (min(table.shape) - 1)))

    def _pair(self, pair: Places) -> Floats:
        """Return a pair's component, (a - 1, a' - 1)."""
        shape = [self.block.columns[n].size - 1 for n in pair]
        return self._values(pair).reshape(shape)

    def _noise(self, places: Places) -> float:
        """Return the variance of the noise of each number of a component, in patients."""
        return self.variance / self.block.components[places].weight ** 2

    def _values(self, places: Places) -> Floats:
        component = self.block.components[places]
        return self.values[component.start : component.end]

    @cached_property
    def _all(self) -> Linear:
        return self._sum((), np.ones(()))

    def _sum(self, places: Places, mask: Floats) -> Linear:
        """Return the count over a mask, with its gradient by the block's noisy coordinates."""
        gradient = np.zeros(len(self.values))
        value = 0.0
        for of in inside(places):
            kept = mask
            for axis in reversed(range(len(places))):
                if places[axis] not in of:
                    kept = kept.mean(axis=axis)
            component, factors = self.block.components[of], contrasted(kept).ravel()
            value += float(factors @ self._values(of))
            gradient[component.start : component.end] = factors / component.weight
        return Linear(value, gradient)


def read_catalogue(block: CatalogueBlock, noisy: Floats, variance: float) -> CatalogueRead:
    """Read a catalogue of a study's noisy sum, (length,); ``variance``: of a coordinate of it."""
    values = noisy[block.start : block.end] / block.scale
    for component in block.components.values():
        values[component.start : component.end] /= component.weight
    return CatalogueRead(block, values, variance / block.scale**2)


def _contrast_covariance(shares: Floats) -> Floats:
    """Return C·(diag(p) - ppᵀ)·Cᵀ, the covariance of a patient's contrasts."""
    contrasts = contrasts_of(len(shares))
    return np.asarray(contrasts @ (np.diag(shares) - np.outer(shares, shares)) @ contrasts.T)


def _raked(table: Floats, rows: Floats, columns: Floats) -> Floats:
    """Return the table with these sums (iterative proportional fitting; Deming, Stephan 1940)."""
    found = table + 1e-9
    for _ in range(50):
        found = found * (rows / np.maximum(found.sum(axis=1), 1e-300))[:, None]
        found = found * (columns / np.maximum(found.sum(axis=0), 1e-300))
    return np.asarray(found)
