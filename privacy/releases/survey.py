"""A survey: noisy counts of a hospital's patients by label and by column, before a study.

One release: a histogram for the label and one for each column the survey names, concatenated. A
patient weighs 1 in each, so k histograms have norm √k and noise grows with it. All patients are
counted, on both sides of the split, so both sub-ledgers are charged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from flo.arrays import Floats
from flo.errors import StudyError
from flo.privacy.patients.patients import Patients
from flo.privacy.releases.histograms import weighted_counts
from flo.study.document import Study
from flo.study.features import cell_of, cells
from flo.study.terms import Survey


@dataclass(frozen=True)
class Counted:
    """Noisy numbers of patients of one column, and the half width of their intervals."""

    column: str
    cells: tuple[str, ...]
    patients: tuple[float, ...]
    half_width: float


def layout(study: Study) -> dict[str, list[str]]:
    """Return column -> its cells, the label first, in the order of the release."""
    survey = _survey(study)
    columns = {column.name: column for column in study.data.columns}
    named = {name: cells(columns[name], survey.bins) for name in survey.columns}
    return {study.data.label: ["0", "1"], **named}


def length(study: Study) -> int:
    """Return the number of cells of the release, with the label's. Raises StudyError: no survey."""
    return sum(len(names) for names in layout(study).values())


def counts(study: Study, patients: Patients) -> Floats:
    """Return exact counts, shape (length,); each column's add up to the number of patients."""
    survey = _survey(study)
    parts = []
    for name, names in layout(study).items():
        if name == study.data.label:
            cell = np.where(patients.labels == 1, 1, 0)
        else:
            cell = cell_of(study.data, name, patients.inputs, survey.bins)
        parts.append(weighted_counts(cell, patients.patient, patients.count, len(names)))
    return np.concatenate(parts)


def half_width(variance: float, level: float = 0.9) -> float:
    """Return the half width of the interval of a count whose noise has that variance."""
    return NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)


def read(study: Study, noisy: Floats, variance: float) -> list[Counted]:
    """Split a noisy release (or a sum of some) by column; unclamped, so sums stay unbiased."""
    half, found, start = half_width(variance), [], 0
    for name, names in layout(study).items():
        values = tuple(float(v) for v in noisy[start : start + len(names)])
        found.append(Counted(name, tuple(names), values, half))
        start += len(names)
    return found


def _survey(study: Study) -> Survey:
    if study.survey is None:
        raise StudyError(f"study {study.name} is not a survey")
    return study.survey
