"""A plan of ``flo study check --years``: yearly studies on made-up patients, with no data.

As many made-up patients as planned arrive each year, and each takes part in one study. They are
those of ``flo.lab.advice`` in one of its worlds, so they say how noise compares with the size of a
study, and not how well its columns predict.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flo.clients.records.snapshot import Snapshot
from flo.lab.advice import auc_of, unsupported_reason
from flo.lab.by_year import WAYS, Years
from flo.lab.folds import Fold
from flo.lab.in_the_clear import train_in_the_clear
from flo.lab.made_up import World, laws_for, made_up, of_at_most
from flo.lab.simulation import Progress
from flo.lab.years import study_of_a_year
from flo.privacy.accounting.life_budget import LifetimeBudget
from flo.privacy.accounting.plan import Plan
from flo.privacy.patients.patients import Patients
from flo.server.rounds.continuing import EarlierModel
from flo.study.document import Study, from_document
from flo.study.parameters import Vector
from flo.study.terms import round_size
from flo.study.usual import worth

_LIVES = (0.9, 0.5)  # life budgets of hospitals
_WORLD = World(0.2, 0.75)
_MOST_PATIENTS = 20_000  # a year


@dataclass(frozen=True)
class YearsPlan:
    """``expected``: patients of a year, by hospital. ``studies``: how many a life budget pays for.

    ``aucs``: of made-up patients; None where ``flo.lab.advice`` tries no study of this kind.
    """

    expected: dict[str, int]
    studies: dict[float, int]
    aucs: Years | None


def plan_years(study: Study, years: int, progress: Progress = lambda text: None) -> YearsPlan:
    """Plan a study that is repeated each year. Raises UsageError as ``study_of_a_year`` does."""
    first = study_of_a_year(study, 0, years)
    studies = dict[float, int]()
    for epsilon in _LIVES:
        life = LifetimeBudget.create(epsilon, study.mechanism.delta)
        studies[epsilon] = int(1 / max(Plan.of(first).shares(life).values()))
    expected = {hospital.id: hospital.planned for hospital in first.hospitals}
    if unsupported_reason(study):
        return YearsPlan(expected, studies, None)
    found, small = Years(years), of_at_most(first, _MOST_PATIENTS)
    for law in laws_for(small):
        progress(f"made-up patients of {years} years, law {law + 1}")
        _try(small, _of_all_years(small, study, years), law, found)
    return YearsPlan(expected, studies, found)


def _of_all_years(of_a_year: Study, study: Study, years: int) -> Study:
    """Return one study of the patients of all years, trained as ``study`` is."""
    document = of_a_year.model_dump(mode="json")
    document["mechanism"] = study.mechanism.model_dump(mode="json")
    for hospital in document["hospitals"]:
        of_one = hospital.pop("expected") or hospital["declared_size"]
        hospital["declared_size"] = round_size(years * of_one)
    return from_document(document)


def _try(study: Study, of_all_years: Study, law: int, found: Years) -> None:
    """Add one law's AUCs by year to ``found``."""
    runs: dict[str, list[float]] = {way: [] for way in WAYS}
    folds = [made_up(study, law, _WORLD, draw=year) for year in range(found.count)]
    models = dict[str, Vector]()
    earlier: EarlierModel | None = None
    for fold in folds:
        models["fresh"] = train_in_the_clear(study, fold)
        models.setdefault("first_only", models["fresh"])
        before = earlier.worth if earlier else 0.0
        own = train_in_the_clear(study, fold, earlier) if earlier else models["fresh"]
        earlier = EarlierModel(own, before + worth(study))
        models["continued"] = own
        for way, weights in models.items():
            runs[way].append(auc_of(study, weights, folds[0]))
    together = auc_of(study, train_in_the_clear(of_all_years, _together(folds)), folds[0])
    runs["all_at_once"] = [together] * found.count
    for way, aucs in runs.items():
        found.runs[way].append(aucs)


def _together(folds: list[Fold]) -> Fold:
    """Return the patients of all years as those of one study."""

    def all_of(name: str) -> Patients:
        parts = [fold.snapshots[name].training for fold in folds]
        inputs = np.concatenate([part.inputs for part in parts])
        labels = np.concatenate([part.labels for part in parts])
        return Patients(inputs, labels, np.arange(len(labels)), len(labels))

    first = folds[0].snapshots
    return Fold({name: Snapshot(all_of(name), first[name].held_out) for name in first})
