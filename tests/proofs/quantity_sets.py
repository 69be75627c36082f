"""Real patients with a number or a count, and ordinary regressions on them without privacy.

*visits* and *blood* were in view when the prior of ``flo.privacy.releases.quantities`` was chosen,
with six more sets (docs/decisions/0048); results of the others were seen in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flo.arrays import Floats, Mask
from flo.clients.quality.check import EncodedTable
from flo.lab.folds import Fold
from flo.lab.simulation import load_hospitals
from flo.study import usual
from flo.study.document import Study, from_document
from flo.study.quantity import Quantity
from flo.study.terms import round_size
from tests.proofs.hospitals import category, general_table, number

_RIDGE, _STEPS = 1.0, 30


@dataclass(frozen=True)
class Measured:
    """Hospitals with their patients, and each record's exact value, in one order."""

    study: Study
    hospitals: dict[str, EncodedTable]
    ids: list[str]
    inputs: Floats
    values: Floats

    @classmethod
    def of(cls, study: Study, tables: Mapping[str, pd.DataFrame]) -> Measured:
        hospitals = load_hospitals(study, tables, "patient_id")
        every = [hospitals[one.id] for one in study.hospitals]
        quantity = study.data.quantity
        assert quantity is not None
        values = quantity.valued(np.concatenate([one.labels for one in every]))
        ids = [name for one in every for name in one.patient_ids]
        return cls(study, hospitals, ids, np.concatenate([one.inputs for one in every]), values)

    @property
    def quantity(self) -> Quantity:
        assert self.study.data.quantity is not None
        return self.study.data.quantity

    def held_out(self, fold: Fold) -> Mask:
        """A mask of the records of the fold's held-out patients, (n,)."""
        aside = {name for names in fold.aside.values() for name in names}
        return np.array([name in aside for name in self.ids])

    def regression(self, chosen: Mask) -> Floats:
        """The values (n,) that a regression on some foresees, without privacy: least squares of a
        number, Poisson's of a count."""
        inputs = np.hstack([self.inputs, np.ones((len(self.inputs), 1))])
        if self.quantity.kind == "number":
            return inputs @ _least_squares(inputs[chosen], self.values[chosen])
        return np.exp(inputs @ _poisson(inputs[chosen], self.values[chosen]))


def _least_squares(inputs: Floats, values: Floats) -> Floats:
    penalty = _RIDGE * np.eye(inputs.shape[1])
    penalty[-1, -1] = 0.0
    return np.asarray(np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ values))


def _poisson(inputs: Floats, values: Floats) -> Floats:
    """Newton's steps, with a ridge of 1."""
    weights = np.zeros(inputs.shape[1])
    weights[-1] = np.log(values.mean())
    for _ in range(_STEPS):
        rate = np.exp(inputs @ weights)
        curved = (inputs * rate[:, None]).T @ inputs + _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curved, inputs.T @ (values - rate) - _RIDGE * weights)
        weights += step * min(1.0, 2.0 / max(np.abs(inputs @ step).max(), 1e-9))
    return weights


def made(
    name: str,
    table: pd.DataFrame,
    columns: list[dict[str, Any]],
    label: str,
    outcome: dict[str, Any],
    ids: str = "",
    epsilon: float = 0.9,
) -> Measured:
    """As ``flo study new`` would draft it, for four hospitals that are drawn by a fixed seed.

    ``ids``: the column of patients who have several records; "" if each has one.
    """
    terms = Quantity(**outcome)
    table = table.dropna(subset=[label]).reset_index(drop=True)
    place = pd.factorize(table[ids])[0] if ids else np.arange(len(table))
    table["patient_id"] = [f"{name}-{number:05}" for number in place]
    table[label] = table[label].clip(terms.levels[0], terms.levels[-1])
    for column in columns:
        if column["kind"] == "number":
            table[column["name"]] = table[column["name"]].clip(column["minimum"], column["maximum"])
        else:
            cells = table[column["name"]]
            table[column["name"]] = cells.astype(str).where(cells.notna(), None)
    site = np.random.default_rng(7).integers(0, 4, place.max() + 1)[place]
    kept = ["patient_id", *(column["name"] for column in columns), label]
    tables = {f"site-{n}": table.loc[site == n, kept].reset_index(drop=True) for n in range(4)}
    sizes = {h: round_size(part["patient_id"].nunique()) for h, part in tables.items()}
    document = {
        **{"schema_version": 4, "name": name, "version": 1, "expires": "2099-12-31"},
        **{"purpose": "Prove a promise.", "legal_basis": "Public, anonymised data."},
        "hospitals": [{"id": name, "declared_size": size} for name, size in sizes.items()],
        "data": {
            **{"record": "record", "label": label, "columns": columns},
            "records_per_patient": "many" if ids else "one",
            "outcome": terms.model_dump(mode="json"),
        },
        "model": {"kind": "logistic"},
        "mechanism": {
            **{"noise": "distributed", "epsilon": epsilon, "delta": 1e-6, "retry_allowance": 1},
            **usual.whitened(sum(sizes.values()), epsilon, terms),
        },
        "evaluation": {"epsilon": epsilon, "retry_allowance": 0},
        "limits": {"deadline_seconds": 60, "minimum_cohort": 3},
    }
    return Measured.of(from_document(document), tables)


def visits() -> Measured:
    """Old people in the United States (AER's NMES1988): visits to a physician in a year."""
    yes_no = ("afam", "married", "employed", "insurance", "medicaid")
    columns = [
        *(number("hospital", 0, 4, "stays"), number("chronic", 0, 8, "conditions")),
        *(number("age", 6.5, 10, "decades"), number("school", 0, 18, "years")),
        *(
            number("income", 0, 15, "10,000 dollars"),
            category("health", "poor", "average", "excellent"),
        ),
        *(category("adl", "normal", "limited"), category("gender", "female", "male")),
        category("region", "midwest", "northeast", "other", "west"),
        *(category(name, "no", "yes") for name in yes_no),
    ]
    outcome = {"kind": "count", "unit": "visits", "levels": (0, 2, 5, 12, 40)}
    return made("visits", general_table("AER", "NMES1988"), columns, "visits", outcome)


def germans() -> Measured:
    """Germans over five years (COUNT's rwm5yr): visits to a physician in three months."""
    names = ("outwork", "female", "married", "kids", "self")
    columns = [
        *(number("age", 25, 65, "years"), number("hhninc", 0, 15, "1,000 marks")),
        *(number("educ", 7, 18, "years"), *(category(name, "0", "1") for name in names)),
    ]
    outcome = {"kind": "count", "unit": "visits", "levels": (0, 1, 3, 8, 40)}
    return made("germans", general_table("COUNT", "rwm5yr"), columns, "docvis", outcome, "id")


def insured() -> Measured:
    """Americans in an experiment with insurances (sampleSelection's RandHIE): visits in a year."""
    columns = [
        *(number("xage", 0, 65, "years"), number("educdec", 0, 20, "years")),
        *(number("linc", 0, 11, "log dollars"), number("num", 1, 10, "people")),
        *(number("disea", 0, 40, "conditions"), number("logc", 0, 5, "log percent")),
        *(category("female", "0.0", "1.0"), category("physlm", "0.0", "1.0")),
        *(category(name, "0.0", "1.0") for name in ("hlthg", "hlthf", "hlthp")),
    ]
    outcome = {"kind": "count", "unit": "visits", "levels": (0, 1, 3, 8, 40)}
    table = general_table("sampleSelection", "RandHIE")
    for name in ("female", "physlm", "hlthg", "hlthf", "hlthp"):
        table[name] = (table[name] > 0.5).astype(float)
    return made("insured", table, columns, "mdvis", outcome, "zper")


def students() -> Measured:
    """Students of schools in the United States (openintro's yrbss): weight in kilograms."""
    columns = [
        *(number("age", 12, 18, "years"), number("height", 1.3, 2.1, "m")),
        *(number("physically_active_7d", 0, 7, "days"), category("gender", "female", "male")),
        category("grade", "9", "10", "11", "12", "other"),
    ]
    outcome = {"kind": "number", "unit": "kg", "levels": (30, 55, 65, 80, 180)}
    return made("students", general_table("openintro", "yrbss"), columns, "weight", outcome)


def injured() -> Measured:
    """Injured workers (wooldridge's injury): weeks of absence, logarithm."""
    columns = [
        *(number("age", 15, 80, "years"), number("prewage", 0, 1000, "dollars")),
        *(number("totmed", 0, 20000, "dollars"), category("male", "0.0", "1.0")),
        *(category("married", "0.0", "1.0"), category("hosp", "0", "1"), category("ky", "0", "1")),
        *(category("afchnge", "0", "1"), category("highearn", "0", "1")),
        category("injtype", *(str(n) for n in range(1, 9))),
    ]
    outcome = {"kind": "number", "unit": "weeks", "levels": (0, 2, 5, 15, 100)}
    return made("injured", general_table("wooldridge", "injury"), columns, "durat", outcome)


def blood() -> Measured:
    """Residents of Olmsted County (survival's flchain): lambda light chains in serum."""
    columns = [
        *(number("age", 50, 100, "years"), number("creatinine", 0.4, 4, "mg/dl")),
        *(number("kappa", 0, 6, "mg/dl"), category("sex", "F", "M"), category("mgus", "0", "1")),
    ]
    outcome = {"kind": "number", "unit": "mg/dl", "levels": (0, 1, 1.5, 2.5, 10)}
    return made("blood", general_table("survival", "flchain"), columns, "lambda", outcome)


SETS: dict[str, Callable[[], Measured]] = {
    **{"visits": visits, "germans": germans, "insured": insured},
    **{"students": students, "injured": injured, "blood": blood},
}
