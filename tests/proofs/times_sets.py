"""Real patients who were followed: sets of the time to an event, with Cox's regression beside them.

SUPPORT2 and *rotterdam* were in view when the settings were chosen, on four more sets
(docs/decisions/0047); *prostate* and *transplants* were not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flo.arrays import Floats, Mask
from flo.clients.quality.check import EncodedTable
from flo.datasets import DATASETS
from flo.lab.folds import Fold
from flo.lab.simulation import load_hospitals
from flo.study import usual
from flo.study.document import Study, from_document
from flo.study.loading import load
from flo.study.terms import round_size
from flo.study.time_to_event import TimeToEvent
from tests.paths import EXAMPLES
from tests.proofs.hospitals import category, general_table, number

_RIDGE, _STEPS = 1.0, 15


@dataclass(frozen=True)
class Followed:
    """Hospitals with their patients, and each patient's exact time and event, in one order."""

    study: Study
    hospitals: dict[str, EncodedTable]
    ids: list[str]
    inputs: Floats
    times: Floats
    events: Floats

    @classmethod
    def of(cls, study: Study, tables: Mapping[str, pd.DataFrame]) -> Followed:
        hospitals = load_hospitals(study, tables, "patient_id")
        ids = [name for one in study.hospitals for name in hospitals[one.id].patient_ids]
        everyone = pd.concat(tables.values()).set_index("patient_id").loc[ids]
        outcome = study.data.times
        assert outcome is not None
        return cls(
            *(study, hospitals, ids),
            np.concatenate([hospitals[one.id].inputs for one in study.hospitals]),
            everyone[outcome.time].to_numpy(dtype=float),
            everyone[study.data.label].to_numpy(dtype=float),
        )

    def held_out(self, fold: Fold) -> Mask:
        """A mask of the fold's held-out patients, (n,)."""
        aside = {name for names in fold.aside.values() for name in names}
        return np.array([name in aside for name in self.ids])

    def cox(self, chosen: Mask) -> Floats:
        """The scores (n,) of all patients by Cox's regression, without privacy, of some."""
        return self.inputs @ _cox(self.inputs[chosen], self.times[chosen], self.events[chosen])


def concordance_of(scores: Floats, times: Floats, events: Floats) -> float:
    """Harrell's concordance by exact times; ties of scores count half."""
    right = pairs = 0.0
    for time, score in zip(times[events == 1], scores[events == 1], strict=True):
        later = scores[(times > time) | ((times == time) & (events == 0))]
        right += float((score > later).sum() + 0.5 * (score == later).sum())
        pairs += len(later)
    return right / pairs


def kaplan_meier(times: Floats, events: Floats, until: float) -> float:
    """The share of patients with the event by a time, from exact times."""
    known = np.unique(times[(events == 1) & (times <= until)])
    alive = 1.0
    for time in known:
        alive *= 1 - ((times == time) & (events == 1)).sum() / (times >= time).sum()
    return 1 - alive


def _cox(inputs: Floats, times: Floats, events: Floats) -> Floats:
    """Newton's steps on Cox's partial likelihood (Breslow's ties), with a ridge of 1."""
    order = np.argsort(-times, kind="stable")
    x, t, event = inputs[order], times[order], events[order] == 1
    last = np.searchsorted(-t, -t, side="right") - 1  # of everybody still there
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        scores = x @ weights
        risk = np.exp(scores - scores.max())
        whole = np.cumsum(risk)[last]
        mean = np.cumsum(risk[:, None] * x, axis=0)[last] / whole[:, None]
        slope = (x[event] - mean[event]).sum(0) - _RIDGE * weights
        each = np.zeros(len(t))
        np.add.at(each, last[event], 1 / whole[event])
        times_risk = risk * np.cumsum(each[::-1])[::-1]
        curved = (x * times_risk[:, None]).T @ x - mean[event].T @ mean[event]
        step = np.linalg.solve(curved + _RIDGE * np.eye(len(weights)), slope)
        longest = np.abs(x @ step).max()
        weights = weights + step * min(1.0, 3.0 / max(longest, 1e-9))
    return np.asarray(weights)


def _made(
    name: str,
    table: pd.DataFrame,
    columns: list[dict[str, Any]],
    time: str,
    event: str,
    outcome: dict[str, Any],
) -> Followed:
    """As ``flo study new`` would draft it, for four hospitals that are drawn by a fixed seed."""
    table = table.dropna(subset=[time, event]).reset_index(drop=True)
    table["patient_id"] = [f"{name}-{place:05}" for place in range(len(table))]
    for column in columns:
        if column["kind"] == "number":
            table[column["name"]] = table[column["name"]].clip(column["minimum"], column["maximum"])
        else:
            cells = table[column["name"]]
            table[column["name"]] = cells.astype(str).where(cells.notna(), None)
    site = np.random.default_rng(7).integers(0, 4, len(table))
    kept = ["patient_id", *(column["name"] for column in columns), time, event]
    tables = {f"site-{n}": table.loc[site == n, kept].reset_index(drop=True) for n in range(4)}
    sizes = {hospital: round_size(len(part)) for hospital, part in tables.items()}
    terms = TimeToEvent(kind="time-to-event", time=time, **outcome)
    document = {
        **{"schema_version": 4, "name": name, "version": 1, "expires": "2099-12-31"},
        **{"purpose": "Prove a promise.", "legal_basis": "Public, anonymised data."},
        "hospitals": [{"id": name, "declared_size": size} for name, size in sizes.items()],
        "data": {"record": "patient", "label": event, "columns": columns}
        | {"outcome": terms.model_dump(mode="json")},
        "model": {"kind": "logistic"},
        "mechanism": {
            **{"noise": "distributed", "epsilon": 0.5, "delta": 1e-6, "retry_allowance": 1},
            **usual.whitened(sum(sizes.values()), 0.5, terms),
        },
        "evaluation": {"epsilon": 0.5, "retry_allowance": 0},
        "limits": {"deadline_seconds": 60, "minimum_cohort": 3},
    }
    return Followed.of(from_document(document), tables)


def support2() -> Followed:
    study = load(EXAMPLES / "survival" / "study.toml")
    return Followed.of(study, DATASETS[study.name]())


def rotterdam() -> Followed:
    """Women with breast cancer (survival's rotterdam): death, 43 %."""
    columns = [
        number("age", 20, 90, "years"),
        number("nodes", 0, 20, "nodes"),
        number("pgr", 0, 1000, "fmol/l"),
        number("er", 0, 1000, "fmol/l"),
        *(category("meno", "0", "1"), category("size", "20-50", "<=20", ">50")),
        *(category("grade", "2", "3"), category("hormon", "0", "1"), category("chemo", "0", "1")),
    ]
    outcome = {"unit": "days", "horizons": (730, 1825, 3650), "expected": 0.5}
    table = general_table("survival", "rotterdam")
    return _made("rotterdam", table, columns, "dtime", "death", outcome)


def prostate() -> Followed:
    """Men with prostate cancer (asaur's prostateSurvival): death of it, 6 %."""
    table = general_table("asaur", "prostateSurvival")
    table["died"] = (table["status"] == 1).astype(int)
    columns = [
        category("grade", *sorted(table["grade"].unique())),
        category("stage", *sorted(table["stage"].unique())),
        category("ageGroup", *sorted(table["ageGroup"].unique())),
    ]
    outcome = {"unit": "months", "horizons": (24, 48, 96), "expected": 0.1}
    return _made("prostate", table, columns, "survTime", "died", outcome)


def transplants() -> Followed:
    """Patients with a transplant of bone marrow (mstate's ebmt3): relapse or death, 46 %."""
    table = general_table("mstate", "ebmt3")
    names = ("dissub", "age", "drmatch", "tcd")
    columns = [category(name, *sorted(table[name].unique())) for name in names]
    outcome = {"unit": "days", "horizons": (180, 365, 1095), "expected": 0.45}
    return _made("transplants", table, columns, "rfstime", "rfsstat", outcome)


SETS: dict[str, Callable[[], Followed]] = {
    "support2": support2,
    "rotterdam": rotterdam,
    "prostate": prostate,
    "transplants": transplants,
}
