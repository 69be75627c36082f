"""Rates of groups hold the truth, equal groups seldom differ, and thresholds close gaps.

Real patients and a model that FLO trained. The evaluated patients of each draw are drawn anew, with
replacement, from all that were held out; the hospitals' noise is drawn by the mechanism. The truth
is the exact rate of all held out. The settings were chosen on FARS, with another model and other
patients held out; ``health`` had no part in any choice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flo.arrays import Floats
from flo.lab.simulation import load_hospitals
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import evaluation, group_rates
from flo.privacy.releases.evaluation import Positions
from flo.privacy.releases.group_rates import Gap
from flo.study import models
from flo.study.document import Study, from_document
from flo.study.features import Codes, cell_of
from flo.study.parameters import Vector
from tests.proofs.hospitals import CHOSEN_ON, GENERAL, Consortium
from tests.proofs.rows import Row, chance
from tests.proofs.truth import by_position, contributions, released, trained

_DRAWS, _QUICK_DRAWS = 500, 40
_EPSILON, _FOLD = 0.5, 7
_SOME = 0.02  # of all positives: groups whose gap is judged
_BANDS = (25, 45, 65)  # years
_SIZES = {"fars": (20_000, 5000, 2000), "health": (6000, 2000)}
_COLUMNS = {"fars": ("sex", "age_band"), "health": ("female", "outwork", "kids")}
_VISIBLE = "fars", 20_000  # where the gap must close
_CLOSES, _COSTS = -0.3, -0.005  # of the gap; of the share classified rightly
_LEVEL, _SIZE, _WORSE = 0.87, 0.05, 0.05


def rows(quick: bool) -> Iterator[Row]:
    """Coverage, size, and what thresholds do, for each set and number of patients."""
    draws = _QUICK_DRAWS if quick else _DRAWS
    for name, sizes in _SIZES.items():
        if quick and name != "fars":
            continue
        world = World.of(name)
        for patients in sizes[:1] if quick else sizes:
            yield from _of(world, name, patients, draws)


def _of(world: World, name: str, patients: int, draws: int) -> Iterator[Row]:
    began, title = time.monotonic(), f"{name}, {patients:,}"
    held, gap_held, worse = list[bool](), list[bool](), {c: list[bool]() for c in world.groups}
    closed, right = ({c: list[float]() for c in world.groups} for _ in range(2))
    for number in range(draws):
        sums, variance = world.released(patients, number)
        found = group_rates.gaps(world.study, sums, variance, world.place)
        for gap in found:
            held += world.held(gap)
            if len(gap.known) > 1:
                gap_held.append(world.gap_held(gap))
        chosen = group_rates.thresholds(world.study, sums, variance, world.place)
        for column in world.groups:
            before, was = world.judged(column, None)
            places = chosen[column].places if column in chosen else None
            after, now = world.judged(column, places)
            closed[column].append(after / before - 1)
            right[column].append(now - was)
            worse[column].append(after > before)
    seconds, room = time.monotonic() - began, chance(_LEVEL, draws)
    for what, each in (("the rate", held), ("the largest gap", gap_held)):
        row = f"{title}: 90 % interval holds {what}"
        yield Row(row, float(np.mean(each)), len(each), seconds, _LEVEL - room)
    for column in world.groups:
        about, visible = f"{title}, {column}", (name, patients) == _VISIBLE
        changed, cost = float(np.mean(closed[column])), float(np.mean(right[column]))
        most, least = (_CLOSES, _COSTS) if visible else (math.inf, -math.inf)
        yield Row(f"{about}: gap changed by thresholds", changed, draws, seconds, most=most)
        yield Row(f"{about}: share classified rightly, changed", cost, draws, seconds, least)
        share, most = float(np.mean(worse[column])), _WORSE + chance(_WORSE, draws)
        yield Row(f"{about}: gap made worse", share, draws, seconds, most=most)
    began = time.monotonic()
    differ = [world.said_to_differ(*world.alike(patients, number)) for number in range(draws)]
    seconds = time.monotonic() - began
    title = f"{title}: equal groups are said to differ"
    yield Row(title, float(np.mean(differ)), draws, seconds, most=_SIZE + chance(_SIZE, draws))


@dataclass
class World:
    """Held-out patients and a model that never saw them.

    ``told`` (patients, length): what each adds to the release. ``groups``: column -> code of each
    record. ``place``: position of the threshold at which most records are classified rightly.
    """

    study: Study
    held_out: Patients
    positions: Floats
    told: Floats
    groups: dict[str, Codes]
    place: float

    @classmethod
    def of(cls, name: str) -> World:
        consortium = _consortium(name)
        study = consortium.study
        held_out, model = trained(consortium, _FOLD)
        return cls.made(study, held_out, model)

    @classmethod
    def made(cls, study: Study, held_out: Patients, model: Vector) -> World:
        scores = models.log_odds(study, model, held_out.inputs)
        positions = Positions.of_model(study, model).of(scores)
        weight = 1 / np.bincount(held_out.patient)[held_out.patient]
        told = contributions(study, model, held_out, scores, weight)
        groups = {
            column: cell_of(study.data, column, held_out.inputs, 0)
            for column in study.evaluation.subgroups
        }
        return cls(study, held_out, positions, told, groups, _best(positions, held_out.labels))

    def released(self, patients: int, number: int) -> tuple[Floats, float]:
        """The release of so many patients, and the noise variance of every number."""
        generator = np.random.default_rng(number)
        drawn = generator.integers(0, self.held_out.count, patients)
        total = np.bincount(drawn, minlength=self.held_out.count) @ self.told
        return released(self.study, total), self.variance

    @property
    def variance(self) -> float:
        """Of the noise in every number."""
        part = Plan.of(self.study).purpose("evaluation")
        return combined_variance(self.study, part, len(self.study.hospitals))

    def said_to_differ(self, sums: Floats, variance: float) -> bool:
        """Whether any rate of any column is said to differ between groups."""
        found = group_rates.gaps(self.study, sums, variance, self.place)
        return any(gap.differ for gap in found)

    def rates(self, column: str, label: int, places: tuple[float, ...] | None = None) -> Floats:
        """Exact share flagged of each group's records with this label, a patient weighing 1."""
        weight = 1 / np.bincount(self.held_out.patient)[self.held_out.patient]
        count = len(evaluation.groupings(self.study)[column])
        code = self.groups[column]
        limit = np.array(places)[code] if places else self.place
        chosen = (self.held_out.labels == label) & (code >= 0)
        flagged = np.bincount(
            code[chosen], weights=(weight * (self.positions >= limit))[chosen], minlength=count
        )
        many = np.bincount(code[chosen], weights=weight[chosen], minlength=count)
        return np.asarray(flagged / np.maximum(many, 1e-9))

    def held(self, gap: Gap) -> list[bool]:
        """Whether each stated interval holds the exact rate."""
        truth = self.rates(gap.column, 1 if gap.kind == "sensitivity" else 0)
        return [
            one.low <= true <= one.high
            for one, true in zip(gap.rates, truth, strict=True)
            if one.low is not None and one.high is not None
        ]

    def gap_held(self, gap: Gap) -> bool:
        """Whether the interval holds the largest exact difference of the groups it is about."""
        truth = self.rates(gap.column, 1 if gap.kind == "sensitivity" else 0)
        known = [true for one, true in zip(gap.rates, truth, strict=True) if one.value is not None]
        return bool(gap.low <= max(known) - min(known) <= gap.high)

    def judged(self, column: str, places: tuple[float, ...] | None) -> tuple[float, float]:
        """The exact gap in sensitivity of groups that are not tiny, and the share classified
        rightly."""
        code, ill = self.groups[column], self.held_out.labels == 1
        count = len(evaluation.groupings(self.study)[column])
        share = np.bincount(code[ill & (code >= 0)], minlength=count) / ill.sum()
        found = self.rates(column, 1, places)[share >= _SOME]
        limit = np.array(places)[code] if places else self.place
        right = float(((self.positions >= limit) == ill).mean())
        return float(found.max() - found.min()), right

    def alike(self, patients: int, number: int) -> tuple[Floats, float]:
        """A release of so many records whose scores are those of others of the same label.

        So no group's rates differ from another's, but for chance and noise.
        """
        generator, count = np.random.default_rng(number), len(self.positions)
        drawn = generator.integers(0, count, patients)
        positions = np.empty(patients)
        for label in (0, 1):
            own = self.held_out.labels[drawn] == label
            (others,) = np.nonzero(self.held_out.labels == label)
            positions[own] = self.positions[generator.choice(others, own.sum())]
        some = Patients(
            self.held_out.inputs[drawn],
            self.held_out.labels[drawn],
            np.zeros(patients, dtype=np.int64),
            1,
        )
        total = by_position(self.study, some, positions, np.ones(patients)).sum(0)
        return released(self.study, total), self.variance


def _consortium(name: str) -> Consortium:
    consortium = (CHOSEN_ON | GENERAL)[name]()
    tables = consortium.tables
    document = consortium.study.model_dump(mode="json", exclude_none=True)
    if name == "fars":
        names = [f"to {_BANDS[0]}", *(f"from {age}" for age in _BANDS)]
        tables = {site: _with_bands(table, names) for site, table in tables.items()}
        document["data"]["columns"].append(
            {"kind": "category", "name": "age_band", "codes": names, "missing": "indicator"}
        )
    document["evaluation"] |= {"subgroups": list(_COLUMNS[name]), "epsilon": _EPSILON}
    study = from_document(document)
    return Consortium(study, load_hospitals(study, tables, "patient_id"), tables)


def _best(positions: Floats, labels: Floats) -> float:
    order = np.argsort(positions)
    right = np.cumsum(np.where(labels[order] == 1, -1, 1))  # of the records up to each, unflagged
    return float(positions[order][int(np.argmax(right))])


def _with_bands(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    ends = [-math.inf, *_BANDS, math.inf]
    return table.assign(
        age_band=pd.cut(table["age"], ends, right=False, labels=names).astype(object)
    )
