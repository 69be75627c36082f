"""Data sets, as studies of statistics ask about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from flo.datasets import fars
from flo.datasets import support2 as data_support2
from flo.study.document import Study, from_document
from flo.study.terms import largest_delta, round_size
from tests.flo.statistics import support2
from tests.proofs import hospitals
from tests.proofs.hospitals import general_table


@dataclass(frozen=True)
class Source:
    """A data set. ``numbers``: bounds; ``codes``; ``event``: the label.

    ``regressions``: parts of a study. ``by``, ``edges``, ``most_days``: of survival, if it has
    "days". ``enlarged``: how many times as many patients are drawn from it as it has.
    """

    name: str
    table: pd.DataFrame  # with "hospital"
    numbers: dict[str, tuple[float, float]]
    codes: dict[str, tuple[str, ...]]
    event: str
    regressions: tuple[dict[str, Any], ...]
    by: str = ""
    edges: tuple[float, ...] = ()
    most_days: float = 0.0
    enlarged: int = 1

    def asking(self, epsilon: float, *parts: dict[str, Any]) -> Study:
        sizes = self.enlarged * self.table["hospital"].value_counts()
        columns = [_number("days", self.table, 0, self.most_days)] if self.edges else []
        delta = largest_delta(max(round_size(int(size)) for size in sizes))
        columns += [_number(name, self.table, *ends) for name, ends in self.numbers.items()]
        columns += [
            {"kind": "category", "name": name, "codes": list(codes)}
            | ({"missing": "indicator"} if self.table[name].isna().any() else {})
            for name, codes in self.codes.items()
        ]
        return from_document(
            {
                **{"schema_version": 4, "name": self.name, "version": 1, "purpose": "Prove it."},
                **{"legal_basis": "Public, anonymised data.", "expires": "2099-12-31"},
                "hospitals": [
                    {"id": name, "declared_size": round_size(int(n))} for name, n in sizes.items()
                ],
                "data": {"record": "patient", "label": self.event, "columns": columns},
                "mechanism": {"noise": "distributed", "masking": "on", "delta": delta},
                "statistics": {"epsilon": epsilon, "parts": list(parts)},
                "limits": {"minimum_cohort": 2},
            }
        )

    @property
    def parts(self) -> list[dict[str, Any]]:
        columns = [*self.numbers, *self.codes]
        curve: dict[str, Any] = {"kind": "survival", "time": "days", "event": self.event}
        curve |= {"edges": list(self.edges)}
        return [
            {"kind": "table", "name": "table", "columns": columns, "by": self.event},
            curve | {"name": "all"},
            curve | {"name": "groups", "by": self.by},
        ]


def _regression(family: str, outcome: str, *predictors: str) -> dict[str, Any]:
    part = {"kind": "regression", "name": f"{family}-{outcome}", "family": family}
    return part | {"outcome": outcome, "predictors": list(predictors)}


def _number(name: str, table: pd.DataFrame, low: float, high: float) -> dict[str, Any]:
    column = {"kind": "number", "name": name, "unit": "1", "minimum": low, "maximum": high}
    missing = {"missing": "indicator", "missing_value": (low + high) / 2}
    return column | (missing if table[name].isna().any() else {})


def support2_source() -> Source:
    """Seriously ill patients of eight hospitals, with which the methods were chosen."""
    table = support2.table()
    ends: dict[str, tuple[float, float]] = dict(support2.NUMBERS)
    return Source(
        *("support2", table, ends, support2.CODES, "death"),
        by="sex",
        edges=support2.EDGES,
        most_days=2100,
        regressions=(
            _regression("logistic", "death", "age", "meanbp", "sex", "ca"),
            _regression("linear", "meanbp", "age", "sex", "ca"),
        ),
    )


def rotterdam() -> Source:
    """Women with breast cancer (survival's rotterdam): had no part in any choice."""
    table = general_table("survival", "rotterdam")
    table["patient_id"] = [f"rotterdam-{number}" for number in table["pid"]]
    table["days"] = table["dtime"].clip(0, 7500)
    table["hospital"] = "site-" + pd.cut(table["year"], 4, labels=False).astype(str)
    table["size"] = table["size"].map({"<=20": "small", "20-50": "middle", ">50": "large"})
    table["hormon"] = table["hormon"].map({0: "no", 1: "yes"})
    for name, most in (("nodes", 20), ("pgr", 500)):
        table[name] = table[name].clip(0, most)
    columns = ["patient_id", "hospital", "days", "death", "age", "nodes", "pgr", "size", "hormon"]
    return Source(
        "rotterdam",
        table[columns],
        {"age": (20, 95), "nodes": (0, 20), "pgr": (0, 500)},
        {"size": ("small", "middle", "large"), "hormon": ("no", "yes")},
        "death",
        by="hormon",
        edges=tuple(365.0 * year for year in range(1, 13)),
        most_days=7500,
        regressions=(
            _regression("logistic", "death", "age", "nodes", "pgr", "hormon", "size"),
            _regression("linear", "nodes", "age", "pgr", "hormon", "size"),
        ),
    )


def fars_source() -> Source:
    """People in fatal crashes, by state; states of fewer than 1,000 are one hospital."""
    parts = [part.assign(hospital=name) for name, part in fars.load().items()]
    table = pd.concat(parts, ignore_index=True)
    sizes = table["hospital"].map(table["hospital"].value_counts())
    table["hospital"] = table["hospital"].where(sizes >= 1000, "small-states")
    names = ("sex", "ejected", "drunk")  # rare codes are merged
    table["sex"] = table["sex"].where(table["sex"].isin(["Male", "Female"]))
    known = {"Not_Ejected": "no", "Totally_Ejected": "yes", "Partially_Ejected": "yes"}
    table["ejected"] = table["ejection"].map(known)
    table["drunk"] = table["alcohol"].str.split("_").str[0].str.lower()
    table["drunk"] = table["drunk"].replace("not", "unknown")  # not reported
    codes = {name: tuple(sorted(table[name].dropna().unique())) for name in names}
    return Source(
        "fars",
        table[["patient_id", "hospital", "died", "age", *names]],
        {"age": (0, 97)},
        codes,
        "died",
        (_regression("logistic", "died", "age", *names),),
    )


def nass_source() -> Source:
    """People in crashes, of whom 4.5 % died: a rare outcome; had no part in any choice."""
    table = pd.concat(
        part.assign(hospital=name) for name, part in hospitals.nass().tables.items()
    ).reset_index(drop=True)
    names = ("airbag", "seatbelt", "frontal", "sex")
    codes = {name: tuple(sorted(table[name].dropna().unique())) for name in names}
    return Source(
        "nass",
        table[["patient_id", "hospital", "died", "ageOFocc", "yearVeh", *names]],
        {"ageOFocc": (15, 100), "yearVeh": (1950, 2005)},
        codes,
        "died",
        (_regression("logistic", "died", "ageOFocc", *names),),
    )


def panel() -> Source:
    """A year of 6,127 people (COUNT's rwm5yr) and how often they saw a doctor: a count.

    Poisson regressions need more people, so ten times as many are drawn from them.
    """
    table = general_table("COUNT", "rwm5yr").drop_duplicates("id").reset_index(drop=True)
    table["patient_id"] = [f"panel-{number}" for number in table["id"]]
    table["hospital"] = "site-" + table["edlevel"].astype(str)
    table["docvis"] = table["docvis"].clip(0, 40)
    table["visited"] = (table["docvis"] > 0).astype(int)
    names = ("female", "outwork", "married")
    for name in names:
        table[name] = table[name].map({0: "no", 1: "yes"})
    return Source(
        "panel",
        table[["patient_id", "hospital", "visited", "docvis", "age", *names]],
        {"docvis": (0, 40), "age": (20, 70)},
        dict.fromkeys(names, ("no", "yes")),
        "visited",
        (_regression("poisson", "docvis", "age", *names),),
        enlarged=10,
    )


SUPPORT2_RANGES: dict[
    str, list[float]
] = {  # clinical thresholds, chosen before anything was counted
    **{"age": [45, 60, 75], "num.co": [1, 2, 3], "hday": [2, 4], "scoma": [1, 50]},
    **{"aps": [25, 40, 60], "meanbp": [65, 90, 110], "hrt": [80, 110, 130], "resp": [16, 24, 32]},
    **{"temp": [36, 38], "wblc": [4, 11, 20], "pafi": [200, 300, 400], "alb": [2.5, 3.5]},
    **{"bili": [1.2, 2, 6], "crea": [1.2, 2, 3.5], "sod": [130, 135, 145], "ph": [7.35, 7.45]},
    "bun": [20, 40],
}


def _catalogue(ranges: dict[str, list[float]]) -> dict[str, Any]:
    found = [{"column": name, "at": at} for name, at in ranges.items()]
    return {"kind": "catalogue", "name": "all", "ranges": found}


def support2_catalogue() -> tuple[Source, dict[str, Any]]:
    """All 20 columns of SUPPORT2's example, 190 pairs."""
    parts = [part.assign(hospital=name) for name, part in data_support2.load().items()]
    codes = {"sex": ("female", "male"), "ca": ("no", "yes", "metastatic")}
    limits: dict[str, tuple[float, float]] = dict(data_support2.LIMITS)
    source = Source("support2", pd.concat(parts, ignore_index=True), limits, codes, "hospdead", ())
    return source, _catalogue(SUPPORT2_RANGES)


def fars_catalogue() -> tuple[Source, dict[str, Any]]:
    """All 13 columns of FARS with all of their codes, up to 26, of 51 states."""
    parts = [part.assign(hospital=name) for name, part in fars.load().items()]
    table = pd.concat(parts, ignore_index=True)
    codes = {name: tuple(sorted(table[name].unique())) for name in fars.COLUMNS}
    source = Source("fars", table, {"age": (0, 97)}, codes, "died", ())
    return source, _catalogue({"age": [16, 25, 45, 65]})
