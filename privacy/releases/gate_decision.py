"""What a gate's release says of a candidate model: pass, fail, or cannot tell.

With the sums S, Q, H, N of ``flo.privacy.releases.gate``, whose noise has known variances s², at
level a = SIZE/(attempts·(1 + retry_allowance)), with z the normal quantile of 1 - a:

* *it keeps enough*: S - o > z·√V, V = Q⁺ + s_S². Over samples of patients S and H have at most
  the variance E Q. Q⁺ is the noisy Q plus one deviation of its noise, and at least 0. o is 0, or in
  a study that also evaluates ``_FITTED``/c: the candidate's risks were calibrated, by two numbers,
  on the same patients. That makes their summed Brier losses look better by about 2·mean of p(1 - p)
  for each number, at most 1 in all.
* *few large losses*: U = H - f·N < -z·√(V_H), f = most_large_losses, V_H = Q⁺ + s_H²
  + f²·s_N².

A candidate passes if both hold. Each is a test at level a, and for a candidate that must not pass
at least one of their hypotheses is true, so both together have level a (intersection-union: Berger
1982, "Multiparameter hypothesis testing and acceptance sampling"). It fails if one of the two, or
the first for a subgroup, is as far on the other side, at a divided by the number of these tests.
Otherwise the gate cannot tell. Nothing is divided by a number of patients: declared sizes may be
ten times those that are there, and then a bad candidate would pass.

The first test is about the mean of capped differences. The mean of the differences themselves is
lower if the largest losses exceed the largest gains; the second test limits how many these are
(docs/decisions/0036 measures by how much the two means differ). Without a current model nothing is
capped, and there is no second test.

Intervals are Fieller's (1954) of S/N and H/N. If N may be 0 no figure is stated, and the gate
cannot tell. Everything here is post-processing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from flo.arrays import Floats
from flo.documents.document import Document
from flo.privacy.releases.gate import LENGTH, clip_of, gate_of, groupings, scales_of
from flo.study.document import Study

_FITTED = 1.0  # summed Brier loss: 2 numbers, each at most 2·1/4
Verdict = Literal["pass", "fail", "cannot tell"]
_Ratio = Annotated[float, Field(ge=-1, le=1)]


class Estimate(Document):
    """``low`` <= ``value`` <= ``high``; -1 to 1 if patients are too few for any figure.

    ``patients``: about how many, by the noisy count.
    """

    verdict: Verdict
    value: _Ratio
    low: _Ratio
    high: _Ratio
    patients: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _ordered(self) -> Estimate:
        if not self.low <= self.value <= self.high:
            raise ValueError("low <= value <= high does not hold")
        return self


class Comparison(Document):
    """What the release says. ``kept``: the mean of c·x, above 0 if the candidate keeps enough.
    ``losses``: by which share of patients large losses outnumber large gains; None without a
    current model. ``subgroups``: as ``kept``, by ``column=code``. ``level``: of the intervals of
    ``kept`` and ``losses``; those of subgroups are wider, so that together they miss as rarely.
    """

    verdict: Verdict
    kept: Estimate
    losses: Estimate | None
    subgroups: dict[str, Estimate]
    level: Annotated[float, Field(gt=0, lt=1)]


def read(study: Study, noisy: Floats, variance: float) -> Comparison:
    """Return what a noisy release (length,) says; ``variance`` > 0 of the noise in each number."""
    gate, scales, clip = gate_of(study), scales_of(study), clip_of(study)
    each = [
        (f"{column}={code}" if column else "", scales[column])
        for column, codes in groupings(study).items()
        for code in codes
    ]
    found = {
        name: _Sums.of(noisy[LENGTH * place : LENGTH * (place + 1)], variance, scale)
        for place, (name, scale) in enumerate(each)
    }
    everyone, against = found.pop(""), gate.current is not None
    z, of_subgroups = _quantile(gate.level), _quantile(gate.level / max(1, len(found)))
    fails = _quantile(gate.level / (1 + against + len(found)))
    fitted = _FITTED / clip if study.trains else 0.0
    kept = everyone.kept(clip, fitted, z, fails)
    losses = everyone.losses(gate.most_large_losses, z, fails) if against else None
    subgroups = {name: one.kept(clip, 0.0, of_subgroups, fails) for name, one in found.items()}
    needed = [kept.verdict, *([losses.verdict] if losses else [])]
    verdict: Verdict = "cannot tell"
    if "fail" in (*needed, *(one.verdict for one in subgroups.values())):
        verdict = "fail"
    elif set(needed) == {"pass"}:
        verdict = "pass"
    level = 1 - 2 * gate.level
    return Comparison(verdict=verdict, kept=kept, losses=losses, subgroups=subgroups, level=level)


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf(1 - level)


@dataclass(frozen=True)
class _Sums:
    """S, Q, H, N of some patients, and the standard deviations of their noise."""

    values: Floats
    deviations: Floats

    @classmethod
    def of(cls, noisy: Floats, variance: float, scales: Floats) -> _Sums:
        return cls(noisy / scales, math.sqrt(variance) / scales)

    def kept(self, clip: float, fitted: float, z: float, fails: float) -> Estimate:
        """Test that the candidate keeps enough, and estimate the mean of c·x."""
        s, of_s = float(self.values[0]) - fitted, float(self.deviations[0])
        variance = self._squares + of_s**2
        verdict = _verdict(s, math.sqrt(variance), z, fails)
        return self._estimate(verdict, self._ratio(s, variance, z), clip)

    def losses(self, most: float, z: float, fails: float) -> Estimate:
        """Test that large losses hardly outnumber large gains, and estimate by which share."""
        h, n = float(self.values[2]), float(self.values[3])
        of_h, of_n = float(self.deviations[2]), float(self.deviations[3])
        variance = self._squares + of_h**2
        deviation = math.sqrt(variance + (most * of_n) ** 2)
        verdict = _verdict(most * n - h, deviation, z, fails)
        return self._estimate(verdict, self._ratio(h, variance, z), 1.0)

    @property
    def _squares(self) -> float:
        return max(float(self.values[1] + self.deviations[1]), 0.0)

    def _ratio(self, top: float, variance: float, z: float) -> tuple[float, float, float] | None:
        """Return value, low and high of top/N: Fieller's set {r: (top - r·N)² <= z²·V(r)}.

        V(r) = ``variance`` + r²·s_N². None if N may be 0: the set then has no ends.
        """
        n, of_n = float(self.values[3]), float(self.deviations[3])
        a = n**2 - (z * of_n) ** 2
        if n <= 0 or a <= 0:
            return None
        b, c = -2 * top * n, top**2 - z**2 * variance
        middle, half = -b / (2 * a), math.sqrt(max(b * b - 4 * a * c, 0.0)) / (2 * a)
        low, high = (float(np.clip(one, -1.0, 1.0)) for one in (middle - half, middle + half))
        return float(np.clip(top / n, low, high)), low, high

    def _estimate(
        self, verdict: Verdict, found: tuple[float, float, float] | None, unit: float
    ) -> Estimate:
        patients = max(float(self.values[3]), 0.0)
        if found is None:
            return Estimate(verdict="cannot tell", value=0, low=-1, high=1, patients=patients)
        value, low, high = (unit * one for one in found)
        return Estimate(verdict=verdict, value=value, low=low, high=high, patients=patients)


def _verdict(statistic: float, deviation: float, z: float, fails: float) -> Verdict:
    if statistic > z * deviation:
        return "pass"
    return "fail" if statistic < -fails * deviation else "cannot tell"
