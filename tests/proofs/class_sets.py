"""Real patients with one of several classes, and studies that foresee it.

Settings were chosen on ``CHOSEN_ON``; ``GENERAL`` had no part in any choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flo.clients.quality.check import EncodedTable
from flo.datasets.support2 import LIMITS, _table
from flo.lab.simulation import load_hospitals
from flo.study import usual
from flo.study.classes import Classes
from flo.study.document import Study, from_document
from flo.study.terms import round_size
from tests.proofs.hospitals import category, general_table, number


@dataclass(frozen=True)
class Sorted:
    """A study of several classes and the data of its hospitals."""

    study: Study
    hospitals: dict[str, EncodedTable]

    @property
    def outcome(self) -> Classes:
        assert self.study.data.classes is not None
        return self.study.data.classes


def made(
    name: str,
    table: pd.DataFrame,
    columns: list[dict[str, Any]],
    label: str,
    classes: list[str],
    epsilon: float = 0.9,
) -> Sorted:
    """As ``flo study new`` would draft it, for four hospitals that are drawn by a fixed seed."""
    terms = Classes(kind="classes", classes=tuple(classes))
    table = table[table[label].isin(classes)].reset_index(drop=True)
    table["patient_id"] = [f"{name}-{number:05}" for number in range(len(table))]
    for column in columns:
        cells = table[column["name"]]
        if column["kind"] == "number":
            table[column["name"]] = cells.clip(column["minimum"], column["maximum"])
        else:
            table[column["name"]] = cells.astype(str).where(cells.notna(), None)
    site = np.random.default_rng(7).integers(0, 4, len(table))
    kept = ["patient_id", *(column["name"] for column in columns), label]
    tables = {f"site-{n}": table.loc[site == n, kept].reset_index(drop=True) for n in range(4)}
    sizes = {h: round_size(len(part)) for h, part in tables.items()}
    document = {
        **{"schema_version": 4, "name": name, "version": 1, "expires": "2099-12-31"},
        **{"purpose": "Prove a promise.", "legal_basis": "Public, anonymised data."},
        "hospitals": [{"id": name, "declared_size": size} for name, size in sizes.items()],
        "data": {
            **{"record": "patient", "label": label, "columns": columns},
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
    study = from_document(document)
    return Sorted(study, load_hospitals(study, tables, "patient_id"))


def function() -> Sorted:
    """SUPPORT2: how seriously ill patients live two months later."""
    table = _table()
    merged = {
        "no(M2 and SIP pres)": "independent",
        "adl>=4 (>=5 if sur)": "dependent",
        "SIP>=30": "severely limited",
        "Coma or Intub": "severely limited",
        "<2 mo. follow-up": "dead",
    }
    table["function"] = table["sfdm2"].map(merged)
    columns = [category("sex", "female", "male"), category("ca", "no", "yes", "metastatic")]
    columns += [number(name, *limits) for name, limits in LIMITS.items()]
    return made("function", table, columns, "function", sorted(set(merged.values())))


def illness() -> Sorted:
    """SUPPORT2: which of four groups of diseases a seriously ill patient has."""
    table = _table()
    columns = [category("sex", "female", "male")]
    columns += [number(name, *limits) for name, limits in LIMITS.items()]
    classes = ["ARF/MOSF", "COPD/CHF/Cirrhosis", "Cancer", "Coma"]
    return made("illness", table, columns, "dzclass", classes)


def leukaemia() -> Sorted:
    """Recipients of bone marrow (mstate's ebmt2): which leukaemia they have."""
    columns = [
        *(
            number("time", 0, 150, "months"),
            category("match", "No gender mismatch", "Gender mismatch"),
        ),
        category("cod", "Alive", "Relapse", "GvHD", "Bacterial", "Viral", "Fungal", "Other"),
        category("tcd", "No TCD", "TCD", "Unknown"),
        *(category("year", "1985-1989", "1990-1994", "1995-1998"),),
        category("age", "<=20", "20-40", ">40"),
    ]
    table = general_table("mstate", "ebmt2")
    table["dissub"] = table["dissub"].astype(str)
    return made("leukaemia", table, columns, "dissub", ["ALL", "AML", "CML"])


def smokers() -> Sorted:
    """Patients with a coronary event (DAAG's monica): current, former or no smokers."""
    names = ("premi", "diabetes", "highbp", "hichol", "angina", "stroke")
    columns = [
        *(number("age", 35, 69, "years"), category("sex", "f", "m"), category("hosp", "n", "y")),
        *(category("outcome", "dead", "live"), number("yronset", 85, 93)),
        *(category(name, "n", "nk", "y") for name in names),
    ]
    table = general_table("DAAG", "monica")
    table["smstat"] = table["smstat"].astype(str)
    return made("smokers", table, columns, "smstat", ["c", "n", "nk", "x"])


def tumours() -> Sorted:
    """Children with a tumour of the kidney (survival's nwtco): its stage."""
    columns = [
        *(category("instit", "1", "2"), category("histol", "1", "2"), category("study", "3", "4")),
        *(number("age", 0, 200, "months"), category("rel", "0", "1")),
        number("edrel", 0, 6000, "days"),
    ]
    table = general_table("survival", "nwtco")
    table["stage"] = table["stage"].astype(str)
    return made("tumours", table, columns, "stage", ["1", "2", "3", "4"])


def elderly() -> Sorted:
    """Old people in the United States (AER's NMES1988): how they perceive their health."""
    yes_no = ("afam", "married", "employed", "insurance", "medicaid")
    columns = [
        *(number("visits", 0, 40, "visits"), number("hospital", 0, 4, "stays")),
        *(number("chronic", 0, 8, "conditions"), number("age", 6.5, 10, "decades")),
        *(number("school", 0, 18, "years"), number("income", 0, 15, "10,000 dollars")),
        *(category("adl", "normal", "limited"), category("gender", "female", "male")),
        category("region", "midwest", "northeast", "other", "west"),
        *(category(name, "no", "yes") for name in yes_no),
    ]
    table = general_table("AER", "NMES1988")
    table["health"] = table["health"].astype(str)
    return made("elderly", table, columns, "health", ["poor", "average", "excellent"])


def families() -> Sorted:
    """Americans in families (stevedata's mm_nhis): their health, in four classes."""
    columns = [
        *(number("age", 26, 59, "years"), number("yedu", 0, 18, "years")),
        *(number("famsize", 2, 10, "people"), number("inc", 19000, 170000, "dollars")),
        *(category(name, "0", "1") for name in ("fml", "hi", "nwhite", "empl")),
    ]
    table = general_table("stevedata", "mm_nhis")
    table["hlth"] = table["hlth"].clip(2, 5).astype(int).astype(str)
    return made("families", table, columns, "hlth", ["2", "3", "4", "5"])


def enrolled() -> Sorted:
    """Americans in an experiment with insurances (Ecdat's DoctorContacts): their health."""
    columns = [
        *(number("mdu", 0, 20, "visits"), number("lc", 0, 5), number("lpi", 0, 8)),
        *(number("fmde", 0, 9), number("ndisease", 0, 40, "conditions"), number("linc", 0, 11)),
        *(number("lfam", 0, 3), number("educdec", 0, 20, "years"), number("age", 0, 65, "years")),
        *(category(n, "False", "True") for n in ("idp", "physlim", "child", "black")),
        category("sex", "female", "male"),
    ]
    table = general_table("Ecdat", "DoctorContacts")
    table["health"] = table["health"].astype(str).replace({"poor": "fair"})
    return made("enrolled", table, columns, "health", ["fair", "good", "excellent"])


def schooled() -> Sorted:
    """Germans in 1984 (COUNT's rwm1984): how long they went to school."""
    names = ("outwork", "female", "married", "kids", "self")
    columns = [
        *(number("docvis", 0, 30, "visits"), number("hospvis", 0, 5, "visits")),
        *(number("age", 25, 65, "years"), number("hhninc", 0, 15, "1,000 marks")),
        *(category(name, "0", "1") for name in names),
    ]
    table = general_table("COUNT", "rwm1984")
    table["edlevel"] = table["edlevel"].astype(str)
    return made("schooled", table, columns, "edlevel", ["1", "2", "3", "4"])


def chronic() -> Sorted:
    """Australians (Ecdat's DoctorAUS): a chronic condition that limits them, another, or none."""
    columns = [
        *(number("age", 0.1, 0.8, "centuries"), number("income", 0, 1.5, "10,000 dollars")),
        *(number("illness", 0, 5, "illnesses"), number("actdays", 0, 14, "days")),
        *(number("hscore", 0, 12), number("doctorco", 0, 5), number("prescrib", 0, 8)),
        *(
            category("sex", "0", "1"),
            category("insurance", "freepor", "freerepa", "levyplus", "medlevy"),
        ),
    ]
    table = general_table("Ecdat", "DoctorAUS")
    table["chcond"] = table["chcond"].astype(str)
    return made("chronic", table, columns, "chcond", ["np", "nla", "la"])


CHOSEN_ON: dict[str, Callable[[], Sorted]] = {
    **{"function": function, "illness": illness, "leukaemia": leukaemia, "smokers": smokers},
    **{"schooled": schooled, "chronic": chronic},
}
GENERAL: dict[str, Callable[[], Sorted]] = {
    **{"tumours": tumours, "elderly": elderly, "families": families, "enrolled": enrolled},
}
