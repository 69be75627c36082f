"""Two data sets with survival, as studies of statistics ask about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from flo.study.document import Study, from_document
from flo.study.terms import round_size
from tests.flo.statistics import support2
from tests.proofs.hospitals import general_table


@dataclass(frozen=True)
class Source:
    """A data set with survival. ``numbers``: bounds; ``codes``; ``event``: the label.

    ``regressions``: parts of a study.
    """

    name: str
    table: pd.DataFrame  # with "hospital" and "days"
    numbers: dict[str, tuple[float, float]]
    codes: dict[str, tuple[str, ...]]
    event: str
    by: str
    edges: tuple[float, ...]
    most_days: float
    regressions: tuple[dict[str, Any], ...]

    def asking(self, epsilon: float, *parts: dict[str, Any]) -> Study:
        sizes = self.table["hospital"].value_counts()
        columns = [_number("days", self.table, 0, self.most_days)]
        columns += [_number(name, self.table, *ends) for name, ends in self.numbers.items()]
        columns += [
            {"kind": "category", "name": name, "codes": list(codes)}
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
                "mechanism": {"noise": "distributed", "masking": "on", "delta": 1e-6},
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
        *("support2", table, ends, support2.CODES, "death", "sex"),
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
        *("death", "hormon"),
        edges=tuple(365.0 * year for year in range(1, 13)),
        most_days=7500,
        regressions=(
            _regression("logistic", "death", "age", "nodes", "pgr", "hormon", "size"),
            _regression("linear", "nodes", "age", "pgr", "hormon", "size"),
        ),
    )
