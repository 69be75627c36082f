"""Rates of groups hold the truth, equal groups seldom differ, and thresholds close gaps.

Real patients and models that FLO trained. The evaluated patients of each draw are drawn anew, with
replacement, from all that were held out; the hospitals' noise is drawn by the mechanism. The truth
is the exact rate of all held out. Settings were chosen on seven in ten of FARS' people and on
``health``; FARS is judged here on the other three, and ``nass`` had no part in any choice.
``codes`` is FARS with four columns of codes alone: few scores, and many patients at each.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from flo.arrays import Floats
from flo.lab.folds import within
from flo.lab.simulation import load_hospitals
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import evaluation, group_rates
from flo.privacy.releases.evaluation import Positions
from flo.privacy.releases.group_rates import Gap, GroupThresholds
from flo.study import models
from flo.study.document import Study, from_document
from flo.study.features import Codes, cell_of
from flo.study.parameters import Vector
from tests.proofs.hospitals import CHOSEN_ON, GENERAL, Consortium
from tests.proofs.rows import Row, chance
from tests.proofs.truth import by_position, contributions, released, trained, trained_without

_DRAWS, _QUICK_DRAWS, _MODELS, _QUICK_MODELS = 500, 40, 5, 1
_EPSILON = 0.5
_SOME = 0.02  # of all positives: groups whose gap is judged
_BANDS = (25, 45, 65)  # years
_CODES = ("restraint", "ejection", "air_bag", "sex")
_SIZES = {
    **{"fars": (20_000, 5000, 2000), "codes": (20_000, 5000), "nass": (13_000, 5000)},
    **{"health": (6000, 2000)},
}
_COLUMNS = {
    **{"fars": ("sex", "age_band"), "codes": ("sex",), "nass": ("sex", "seatbelt")},
    **{"health": ("female", "outwork", "kids")},
}
_VISIBLE = "fars", 20_000  # where the gap must close
_CLOSES, _QUICK_CLOSES, _ANY = -0.3, -0.1, 0.005  # of the gap; quick runs have one model
_COSTS = -0.005  # of the share classified rightly
_LEVEL, _LEAST, _SIZE, _WORSE = 0.87, 0.8, 0.05, 0.05


def rows(quick: bool) -> Iterator[Row]:
    """Coverage, size, and what thresholds do, for each set and number of patients."""
    draws = _QUICK_DRAWS if quick else _DRAWS
    for name, sizes in _SIZES.items():
        if quick and name != "fars":
            continue
        consortium = _consortium(name)
        made = [_trained(name, consortium, n) for n in range(_QUICK_MODELS if quick else _MODELS)]
        # At the threshold where most are classified rightly, and where half of all are flagged.
        worlds = [World.of(consortium.study, *one, half=half) for one in made for half in (0, 1)]
        for patients in sizes[:1] if quick else sizes:
            yield from _of(worlds, name, patients, draws)


@dataclass
class _Found:
    """Of every draw. ``held``: by group; the others by column, but for ``gap_held``."""

    held: dict[str, list[bool]] = field(default_factory=dict)
    gap_held: list[bool] = field(default_factory=list)
    closed: dict[str, list[float]] = field(default_factory=dict)
    right: dict[str, list[float]] = field(default_factory=dict)
    worse: dict[str, list[bool]] = field(default_factory=dict)
    differ: list[bool] = field(default_factory=list)

    def add(self, world: World, patients: int, number: int) -> None:
        sums, variance = world.released(patients, number)
        for gap in group_rates.gaps(world.study, sums, variance, world.place):
            for group, held in world.held(gap).items():
                self.held.setdefault(group, []).append(held)
            if len(gap.known) > 1:
                self.gap_held.append(world.gap_held(gap))
        chosen = group_rates.thresholds(world.study, sums, variance, world.place)
        for column in world.groups:
            self._judge(world, column, chosen.get(column))
        self.differ.append(world.said_to_differ(*world.alike(patients, number)))

    def _judge(self, world: World, column: str, chosen: GroupThresholds | None) -> None:
        (before, was), (after, now) = world.judged(column, None), world.judged(column, chosen)
        changed = (after - before) / before if before else after
        self.closed.setdefault(column, []).append(changed)
        self.right.setdefault(column, []).append(now - was)
        self.worse.setdefault(column, []).append(after > before)


def _of(worlds: list[World], name: str, patients: int, draws: int) -> Iterator[Row]:
    began, title, found = time.monotonic(), f"{name}, {patients:,}", _Found()
    for number in range(draws):
        found.add(worlds[number % len(worlds)], patients, number)
    seconds, visible = time.monotonic() - began, (name, patients) == _VISIBLE
    every = [held for each in found.held.values() for held in each]

    def row(what: str, values: list[Any], least: float = -math.inf, most: float = math.inf) -> Row:
        figure = float(np.mean(values)) if values else 1.0
        return Row(f"{title}{what}", figure, len(values), seconds, least, most)

    yield row(": interval holds the rate", every, _LEVEL - chance(_LEVEL, draws))
    worst = min(found.held.values(), key=np.mean)
    yield row(": the same, worst group", worst, _LEAST - chance(_LEAST, len(worst)))
    yield row(": interval holds the gap", found.gap_held, _LEVEL - chance(_LEVEL, draws))
    for column in worlds[0].groups:
        closes = (_CLOSES if draws == _DRAWS else _QUICK_CLOSES) if visible else _ANY
        yield row(f", {column}: gap changed by thresholds", found.closed[column], most=closes)
        yield row(f", {column}: classified rightly, changed", found.right[column], _COSTS)
        worse = found.worse[column]
        yield row(f", {column}: gap made worse", worse, most=_WORSE + chance(_WORSE, draws))
    most = _SIZE + chance(_SIZE, draws)
    yield row(": equal groups are said to differ", found.differ, most=most)


@dataclass
class World:
    """Held-out patients and a model that never saw them.

    ``told`` (patients, length): what each adds to the release. ``groups``: column -> code of each
    record. ``place``: position of the threshold.
    """

    study: Study
    held_out: Patients
    positions: Floats
    told: Floats
    groups: dict[str, Codes]
    place: float

    @classmethod
    def of(cls, study: Study, held_out: Patients, model: Vector, *, half: int) -> World:
        scores = models.log_odds(study, model, held_out.inputs)
        positions = Positions.of_model(study, model).of(scores)
        weight = 1 / np.bincount(held_out.patient)[held_out.patient]
        told = contributions(study, model, held_out, scores, weight)
        groups = {
            column: cell_of(study.data, column, held_out.inputs, 0)
            for column in study.evaluation.subgroups
        }
        place = float(np.median(positions)) if half else _best(positions, held_out.labels)
        return cls(study, held_out, positions, told, groups, place)

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

    def held(self, gap: Gap) -> dict[str, bool]:
        """Whether each stated interval holds the exact rate, by group; of groups that exist."""
        label = 1 if gap.kind == "sensitivity" else 0
        truth = self.rates(gap.column, label)
        code = self.groups[gap.column]
        there = np.bincount(
            code[(code >= 0) & (self.held_out.labels == label)], minlength=len(truth)
        )
        return {
            f"{gap.column}={one.group}, {gap.kind}": bool(one.low <= true <= one.high)
            for one, true, many in zip(gap.rates, truth, there, strict=True)
            if many > 0
        }

    def gap_held(self, gap: Gap) -> bool:
        """Whether the interval holds the largest exact difference of the groups it is about."""
        truth = self.rates(gap.column, 1 if gap.kind == "sensitivity" else 0)
        known = [true for one, true in zip(gap.rates, truth, strict=True) if one.value is not None]
        return bool(gap.low <= max(known) - min(known) <= gap.high)

    def judged(self, column: str, chosen: GroupThresholds | None) -> tuple[float, float]:
        """The exact gap in sensitivity of groups that are not tiny, and the share classified
        rightly."""
        code, ill = self.groups[column], self.held_out.labels == 1
        places = chosen.places if chosen else None
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
    consortium = (CHOSEN_ON | GENERAL)["fars" if name == "codes" else name]()
    tables = consortium.tables
    document = consortium.study.model_dump(mode="json", exclude_none=True)
    columns = document["data"]["columns"]
    if name == "codes":
        document["data"]["columns"] = [one for one in columns if one["name"] in _CODES]
        tables = {s: t[["patient_id", *_CODES, "died"]] for s, t in tables.items()}
    if name == "fars":
        names = [f"to {_BANDS[0]}", *(f"from {age}" for age in _BANDS)]
        tables = {site: _with_bands(table, names) for site, table in tables.items()}
        columns.append(
            {"kind": "category", "name": "age_band", "codes": names, "missing": "indicator"}
        )
    document["evaluation"] |= {"subgroups": list(_COLUMNS[name]), "epsilon": _EPSILON}
    study = from_document(document)
    return Consortium(study, load_hospitals(study, tables, "patient_id"), tables)


def _trained(name: str, consortium: Consortium, number: int) -> tuple[Patients, Vector]:
    if name not in ("fars", "codes"):
        return trained(consortium, number)
    key = hashlib.sha256(b"fair").digest()  # of the people on whom the settings were chosen
    aside = {
        site: set(one.patient_ids) - within(one, key, 0, 0.7)
        for site, one in consortium.hospitals.items()
    }
    return trained_without(consortium, aside)


def _best(positions: Floats, labels: Floats) -> float:
    order = np.argsort(positions)
    right = np.cumsum(np.where(labels[order] == 1, -1, 1))  # of the records up to each, unflagged
    return float(positions[order][int(np.argmax(right))])


def _with_bands(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    ends = [-math.inf, *_BANDS, math.inf]
    return table.assign(
        age_band=pd.cut(table["age"], ends, right=False, labels=names).astype(object)
    )
