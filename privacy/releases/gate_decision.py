"""What a gate's release says of a candidate model: pass, fail, or cannot tell.

With the sums S, Q, H, N of ``flo.privacy.releases.gate``, whose noise has known variances s², at
level a = SIZE/(attempts·(1 + retry_allowance)), with z the normal quantile of 1 - a:

* *not worse*: S > z·√(Q⁺ + s_S²). S has at most the variance E Q over samples of patients. Q⁺ is
  the noisy Q plus one deviation of its noise, and at least 0.
* *few are harmed*: U = H - f·N < -z·√(f·(1 - f)·N⁺ + s_U²), with f = most_harmed.

A candidate passes if both hold. Each is a test at level a, and for a candidate that must not pass
at least one of their hypotheses is true, so both together have level a (intersection-union: Berger
1982, "Multiparameter hypothesis testing and acceptance sampling"). It fails if a statistic is as
far on the other side, for all patients or, with a divided by the number of codes, for a subgroup.
Otherwise the gate cannot tell. Nothing is divided by a number of patients: declared sizes may be
ten times those that are there, and then a bad candidate would pass.

The first test is about the mean of clipped differences. The mean of the differences themselves is
lower if the largest losses exceed the largest gains; the second test limits how many these are
(docs/decisions/0036 measures by how much the two means differ).

Intervals are Fieller's (1954) of S/N and H/N: they agree with the tests, because at the tests' own
values of these ratios they use the same variances. Everything here is post-processing.
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
from flo.privacy.releases.gate import LENGTH, gate_of, groupings, scales_of
from flo.study.document import Study
from flo.study.gate import Gate

Verdict = Literal["pass", "fail", "cannot tell"]
_Share = Annotated[float, Field(ge=0, le=1)]
_Difference = Annotated[float, Field(ge=-1, le=1)]


class Gain(Document):
    """By how much the mean Brier score of the candidate is better, each patient up to ``clip``.

    ``low`` <= ``gain`` <= ``high``; with ``patients`` about so many, by the noisy count.
    """

    verdict: Verdict
    gain: _Difference
    low: _Difference
    high: _Difference
    patients: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _ordered(self) -> Gain:
        if not self.low <= self.gain <= self.high:
            raise ValueError("low <= gain <= high does not hold")
        return self


class Harmed(Document):
    """The share of patients whose loss is worse by more than ``harmed_above``."""

    verdict: Verdict
    share: _Share
    low: _Share
    high: _Share

    @model_validator(mode="after")
    def _ordered(self) -> Harmed:
        if not self.low <= self.share <= self.high:
            raise ValueError("low <= share <= high does not hold")
        return self


class Comparison(Document):
    """The paid part of a gate. ``level``: of all intervals but those of ``subgroups``, which are
    wider: together they miss as rarely. ``subgroups``: by ``column=code``.
    """

    verdict: Verdict
    overall: Gain
    harmed: Harmed
    subgroups: dict[str, Gain]
    level: Annotated[float, Field(gt=0, lt=1)]


def read(study: Study, noisy: Floats, variance: float) -> Comparison:
    """Return what a noisy release (length,) says; ``variance`` > 0 of the noise in each number."""
    gate, scales = gate_of(study), scales_of(study)
    each = [
        (f"{column}={code}" if column else "", scales[column])
        for column, codes in groupings(study).items()
        for code in codes
    ]
    found = {
        name: _Sums.of(noisy[LENGTH * place : LENGTH * (place + 1)], variance, scale)
        for place, (name, scale) in enumerate(each)
    }
    everyone, level = found.pop(""), gate.level
    overall, harmed = everyone.gain(gate, level), everyone.harmed(gate, level)
    subgroups = {name: one.gain(gate, level / len(found)) for name, one in found.items()}
    verdicts = overall.verdict, harmed.verdict
    verdict: Verdict = "cannot tell"
    if "fail" in (*verdicts, *(one.verdict for one in subgroups.values())):
        verdict = "fail"
    elif verdicts == ("pass", "pass"):
        verdict = "pass"
    return Comparison(
        verdict=verdict, overall=overall, harmed=harmed, subgroups=subgroups, level=1 - 2 * level
    )


@dataclass(frozen=True)
class _Sums:
    """S, Q, H, N of some patients, and the standard deviations of their noise."""

    values: Floats
    deviations: Floats

    @classmethod
    def of(cls, noisy: Floats, variance: float, scales: Floats) -> _Sums:
        return cls(noisy / scales, math.sqrt(variance) / scales)

    def gain(self, gate: Gate, level: float) -> Gain:
        """Test that the candidate is not worse, at ``level``, with the interval of its gain."""
        z = NormalDist().inv_cdf(1 - level)
        s, q, _, n = (float(value) for value in self.values)
        of_s, of_q, _, of_n = (float(value) for value in self.deviations)
        variance = max(q + of_q, 0.0) + of_s**2
        low, high = _ratio(n**2 - (z * of_n) ** 2, -2 * s * n, s**2 - z**2 * variance, s, -1.0)
        gain, low, high = (
            float(np.clip(gate.clip * one - gate.margin, -1, 1))
            for one in (np.clip(s / max(n, 1.0), low, high), low, high)
        )
        verdict = _verdict(s, z * math.sqrt(variance))
        return Gain(verdict=verdict, gain=gain, low=low, high=high, patients=max(n, 0.0))

    def harmed(self, gate: Gate, level: float) -> Harmed:
        """Test that few are harmed, at ``level``, with the interval of their share."""
        z, most = NormalDist().inv_cdf(1 - level), gate.most_harmed
        _, _, h, n = (float(value) for value in self.values)
        _, _, of_h, of_n = (float(value) for value in self.deviations)
        many = max(n + of_n, 0.0)
        variance = most * (1 - most) * many + of_h**2 + (most * of_n) ** 2
        low, high = _ratio(
            n**2 + z**2 * (many - of_n**2),
            -2 * h * n - z**2 * many,
            h**2 - (z * of_h) ** 2,
            h,
            0.0,
        )
        share = float(np.clip(h / max(n, 1.0), low, high))
        verdict = _verdict(most * n - h, z * math.sqrt(variance))
        return Harmed(verdict=verdict, share=share, low=low, high=high)


def _verdict(statistic: float, needed: float) -> Verdict:
    if statistic > needed:
        return "pass"
    return "fail" if statistic < -needed else "cannot tell"


def _ratio(a: float, b: float, c: float, above: float, least: float) -> tuple[float, float]:
    """Return the values r in [least, 1] with a·r² + b·r + c <= 0, Fieller's set of a ratio.

    If a <= 0 the denominator may be 0, and the set has no ends: then only the sign of the numerator
    ``above`` is known, and only if c > 0.
    """
    if a <= 0:
        known = c > 0
        return (0.0 if known and above > 0 else least), (0.0 if known and above < 0 else 1.0)
    middle, half = -b / (2 * a), math.sqrt(max(b * b - 4 * a * c, 0.0)) / (2 * a)
    low, high = (float(np.clip(one, least, 1.0)) for one in (middle - half, middle + half))
    return low, high
