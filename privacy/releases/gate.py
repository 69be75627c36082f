"""The release gate: one noisy comparison of two published models on held-out patients.

Every patient has a Brier loss (risk - label)² under three predictions: L_new of the candidate,
L_cur of the current model, and L_avg of stating everybody's average risk. With
d = L_cur - L_new, which is above 0 where the candidate is better, a patient adds

    x = clip(d + (1 - keeps)·(L_avg - L_cur), ±c)/c,   q = max(x², |h|),
    h = 1 if d < -large_loss, -1 if d > large_loss, else 0,   and 1,

each times its scale in ``SCALES``, to the sums S, Q, H, N. Q bounds the variances of S and H. The
mean of x before clipping is 0 where the candidate keeps exactly that share of what the current
model gains over the average: a margin that is as large as the model is useful ("preservation of
effect": Snapinn and Jiang 2008). Without a current model L_cur = L_avg, so the candidate must be
better than the average.

A patient's records share a weight of 1, and no record's vector is longer than (1, 1, 1, 1) so
scaled, so by convexity a patient moves the release by no more than that.

Subgroups. Everyone is counted once in all, and once in each of k category columns, by code. The
squared norm is divided: ``_OF_ALL`` of it for all, and the rest equally for the columns. So the
norm stays the same, and the noise of each part grows by 1/√share.

``flo.privacy.releases.gate_decision`` reads the release.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logit

from flo.arrays import Floats
from flo.privacy.patients.patients import Patients
from flo.privacy.releases.asked_model import Risks, risks_of
from flo.privacy.releases.histograms import record_weights
from flo.study import models
from flo.study.document import Study
from flo.study.features import cell_of, cells
from flo.study.gate import CURVE_POINTS, Gate
from flo.study.parameters import Vector

LENGTH = 4  # S, Q, H, N
SCALES = np.array([1.0, 0.35, 1.3, 0.25])
NORM = float(np.linalg.norm(SCALES)) * (1 + 1e-12)
_OF_ALL = 0.6
HELD_OUT = 0.3  # assumed share of the planned patients
_AT_ONCE = 1 << 14  # records


def groupings(study: Study) -> dict[str, list[str]]:
    """Return "" -> everyone, then subgroup column -> its codes."""
    named = gate_of(study).subgroups
    return {"": ["everyone"]} | {name: cells(study.data.category(name), 0) for name in named}


def scales_of(study: Study) -> dict[str, Floats]:
    """Return the scales of the four sums in each grouping, (4,)."""
    columns = gate_of(study).subgroups
    if not columns:
        return {"": SCALES}
    rest = (1 - _OF_ALL) / len(columns)
    return {"": SCALES * _OF_ALL**0.5} | dict.fromkeys(columns, SCALES * rest**0.5)


def length(study: Study) -> int:
    """Return the length of the release: four sums for each code of each grouping."""
    return LENGTH * sum(len(codes) for codes in groupings(study).values())


def request(candidate: Vector, current: Vector, average: float) -> Vector:
    """Return what a request carries: two scorers (``asked_model``) and the average risk."""
    return np.concatenate([candidate, current, [average]])


def of_average(study: Study, risk: float) -> Vector:
    """Return the scorer that states one risk in (0, 1) for everybody, in the study's own form."""
    curve = np.linspace(-1.0, 1.0, CURVE_POINTS), np.full(CURVE_POINTS, logit(risk))
    return np.concatenate([np.zeros(models.parameter_count(study)), *curve])


def sums(study: Study, asked: Vector, held_out: Patients) -> Floats:
    """Return the exact sums over a site's held-out patients, (length,).

    ``asked`` (request_length,): as ``request`` makes it. Whatever is asked, one
    patient moves the result by at most ``NORM`` and changes no other patient's contribution.
    """
    gate, weight = gate_of(study), record_weights(held_out.patient, held_out.count)
    candidate, current = scorers(study, asked[:-1])
    average, clip = float(asked[-1]), clip_of(study)
    scales = scales_of(study)
    totals = {name: np.zeros((len(codes), LENGTH)) for name, codes in groupings(study).items()}
    for start in range(0, len(held_out.labels), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        inputs, labels = held_out.inputs[some], held_out.labels[some]
        new, old = (candidate(inputs) - labels) ** 2, (current(inputs) - labels) ** 2
        gained = (average - labels) ** 2 - old
        usable = np.isfinite(new + old + gained) & ((labels == 0) | (labels == 1))
        each = contributions(
            gate, clip, np.where(usable, old - new, 0.0), np.where(usable, gained, 0.0)
        )
        each *= np.where(usable, weight[some], 0.0)[:, None]
        for name, total in totals.items():
            code = cell_of(study.data, name, inputs, 0) if name else np.zeros(len(each), np.int64)
            for place, column in enumerate((each * scales[name]).T):
                total[:, place] += np.bincount(code, weights=column, minlength=len(total))
    return np.concatenate([total.ravel() for total in totals.values()])


def contributions(gate: Gate, clip: float, better: Floats, gained: Floats) -> Floats:
    """Return (x, q, h, 1) of patients, (n, 4), from d and L_avg - L_cur, (n,), both finite."""
    x = np.clip((better + (1 - gate.keeps) * gained) / clip, -1.0, 1.0)
    large = np.where(np.abs(better) > gate.large_loss, -np.sign(better), 0.0)
    return np.stack([x, np.maximum(x * x, np.abs(large)), large, np.ones_like(x)], axis=1)


def clip_of(study: Study) -> float:
    """Return the study's clip c, from its terms and the patients that it plans to hold out."""
    planned = sum(hospital.planned for hospital in study.hospitals)
    return gate_of(study).clip_of(round(HELD_OUT * planned))


def scorers(study: Study, asked: Vector) -> tuple[Risks, Risks]:
    """Return the functions from inputs (n, d) to risks (n,) of candidate and current model.

    ``asked``: a request without the average.
    """
    forms = models.compared(study)
    divided = models.parameter_count(forms[0]) + 2 * CURVE_POINTS
    return risks_of(study, forms[0], asked[:divided]), risks_of(study, forms[1], asked[divided:])


def gate_of(study: Study) -> Gate:
    """Return the study's gate, which it must have."""
    assert study.gate is not None
    return study.gate
