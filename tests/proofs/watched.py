"""Monitors of a model at work find what changes, name it, and cry wolf as seldom as they say.

Streams are of real patients, drawn anew with replacement, with the risks that the card of a model
states that FLO trained without them; each patient is of one of three wards. A change is made in the
records, and records are encoded as those of requests are. Outcomes become known when their
follow-up is over. The risks of a stream that must be without any change are right on average.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flo.arrays import Floats, Integers, Mask
from flo.clients.watching.alarm import Alarm
from flo.clients.watching.calibration import TOLERATED, Kept
from flo.clients.watching.cells import Cells, StudyCells
from flo.clients.watching.watch import FALSE_ALARM_DAYS, Answered, Watch
from flo.clients.watching.words import in_words
from flo.scoring.record import Cell, RecordEncoder
from flo.study.columns import CellColumn
from flo.study.features import is_missing, names_of
from flo.study.schema import Schema
from tests.proofs.hospitals import CHOSEN_ON, GENERAL
from tests.proofs.release_gate import World
from tests.proofs.rows import Row
from tests.proofs.versions_compared import right_on_average, times_odds

_RUNS, _QUICK_RUNS = 200, 3
_A_DAY, _FOLLOW_UP = 80, 5
_BEGINS, _LONGEST = 45, 180  # days: when something changes, and until when it must be found
_READ = 3  # days after an alarm somebody reads what it says
_YEARS = 2  # of a stream without a change
_POOL, _VERSIONS = 6000, 3  # patients of a set; versions of each after a change
_WARDS = np.array(["ward 1", "ward 2", "ward 3"])
_SHARES = np.array([0.6, 0.3, 0.1])  # of the patients
_AGAIN, _LOST = 0.3, 0.03  # who is answered again; who lives and is never reported
_CLINIC, _OF_CLINIC = 2, 3.0  # the day of the week on which patients of the season come thrice
_NAMED = 0.95  # of the changes that are found
Record = dict[str, Any]
Changed = Callable[[Record, np.random.Generator], Record]


@dataclass(frozen=True)
class Change:
    """What changes, and what a hospital must then be told.

    ``about``: column or kind of the alarm. ``words``: one of which must be in what is said.
    ``records``: from a record to what arrives; ``ward``: where; "" everywhere. ``odds``: factor on
    the odds of the outcome, of patients for ``whom`` it holds. ``late``: days by which outcomes are
    late. ``weight``: how often a patient comes. ``slow``: share of slow answers.
    """

    name: str
    about: str
    words: str
    records: Changed | None = None
    ward: str = ""
    odds: float = 1.0
    whom: Callable[[Record], bool] = lambda record: True
    late: int = 0
    weight: Callable[[Record], float] | None = None
    slow: float = 0.0
    begins: int = _BEGINS


def _times(name: str, factor: float, offset: float = 0.0, share: float = 1.0) -> Changed:
    def changed(record: Record, generator: np.random.Generator) -> Record:
        value = record[name]
        if value is None or generator.random() >= share:
            return record
        return record | {name: value * factor + offset}

    return changed


def _to(name: str, cell: Cell, share: float = 1.0) -> Changed:
    return lambda record, rng: record | {name: cell} if rng.random() < share else record


def _exchanged(name: str, one: str, other: str) -> Changed:
    codes = {one: other, other: one}
    return lambda record, rng: record | {name: codes.get(record[name], record[name])}


def _clipped(name: str, factor: float, most: float) -> Changed:
    return lambda record, rng: (
        record if record[name] is None else record | {name: min(record[name] * factor, most)}
    )


def _are(name: str, code: str) -> Callable[[Record], bool]:
    return lambda record: record[name] == code


def _often(name: str, above: float, times: float) -> Callable[[Record], float]:
    return lambda record: times if record[name] is not None and record[name] > above else 1.0


_OF_ANY = (
    Change("outcomes: odds x 2", "outcomes", "more outcomes than the model states", odds=2.0),
    Change("outcomes ten days late", "late", "reported later than before", late=10, begins=90),
    Change("one answer in ten is slow", "slow", "of answers took more than a second", slow=0.1),
)
CHANGES: dict[str, tuple[Change, ...]] = {
    "support2": (
        Change("creatinine in other units", "crea", "µmol/L", _times("crea", 88.42)),
        Change("half of temperatures in °F", "temp", "°F", _times("temp", 1.8, 32, 0.5)),
        Change("codes exchanged", "ca", "exchanged", _exchanged("ca", "no", "yes")),
        Change("a code nobody knows", "ca", "does not fit", _to("ca", "unheard of", 0.3)),
        Change("bilirubin is missing", "bili", "is missing", _to("bili", None, 0.6)),
        Change("one ward: stuck", "pafi", "always", _to("pafi", 250.0), "ward 2"),
        Change("one device: x 1.3", "meanbp", "median", _clipped("meanbp", 1.3, 160), "ward 1"),
        Change("older patients", "age", "median", weight=_often("age", 70, 4.0)),
        Change("women: odds x 2.5", "outcomes", "sex=female", odds=2.5, whom=_are("sex", "female")),
        *_OF_ANY,
    ),
    "fars": (
        Change("age in months", "age", "months", _times("age", 12)),
        Change(
            "a fifth of ages is ten times",
            "age",
            "10 times|does not fit",
            _times("age", 10, 0, 0.2),
        ),
        Change("codes exchanged", "sex", "exchanged", _exchanged("sex", "Female", "Male")),
        Change("a code nobody knows", "ejection", "does not fit", _to("ejection", "5", 0.3)),
        Change(
            "drugs are not reported", "drugs", "Not_Reported", _to("drugs", "Not_Reported", 0.6)
        ),
        Change("one ward: stuck", "alcohol", "always", _to("alcohol", "Not_reported"), "ward 2"),
        Change("one device: x 1.3", "age", "median", _clipped("age", 1.3, 97), "ward 1"),
        Change("older people", "age", "median", weight=_often("age", 60, 4.0)),
        Change("women: odds x 2.5", "outcomes", "sex=Female", odds=2.5, whom=_are("sex", "Female")),
        *_OF_ANY,
    ),
    "nass": (
        Change("age in months", "ageOFocc", "months", _times("ageOFocc", 12)),
        Change(
            "a fifth of ages is a tenth",
            "ageOFocc",
            "1/10|does not fit",
            _times("ageOFocc", 0.1, 0, 0.2),
        ),
        Change("codes exchanged", "seatbelt", "exchanged", _exchanged("seatbelt", "no", "belted")),
        Change("a code nobody knows", "dvcat", "does not fit", _to("dvcat", "10 to 24", 0.3)),
        Change("airbags are missing", "airbag", "is missing", _to("airbag", None, 0.6)),
        Change("one ward: stuck", "dvcat", "always", _to("dvcat", "1-9"), "ward 2"),
        Change("one device: x 1.3", "ageOFocc", "median", _clipped("ageOFocc", 1.3, 100), "ward 1"),
        Change("older people", "ageOFocc", "median", weight=_often("ageOFocc", 50, 4.0)),
        Change("women: odds x 2.5", "outcomes", "sex=f", odds=2.5, whom=_are("sex", "f")),
        *_OF_ANY,
    ),
}
_SEASON = {
    "support2": _often("age", 65, 1.3),
    "fars": _often("age", 50, 1.3),
    "nass": _often("ageOFocc", 50, 1.3),
}


@dataclass(frozen=True)
class Patient:
    """A patient's record as the monitors see it."""

    cells: Cells | None
    broken: tuple[tuple[int, int | None], ...]


class Patients:
    """A set's held-out patients, as they arrive and as they arrive after a change."""

    def __init__(self, world: World) -> None:
        self.schema = world.study.data
        chosen = np.random.default_rng(9).permutation(len(world.labels))[:_POOL]
        self.labels = world.labels[chosen]
        self.risks = [right_on_average(world, n)[chosen] for n in range(len(world.risks))]
        self.cells = StudyCells(self.schema)
        self.encoder = RecordEncoder(self.schema.columns)
        self.records = _records(self.schema, world.held_out.inputs[chosen])
        self.whole = [self._seen(one) for one in self.records]
        self._changed = dict[str, list[list[Patient]]]()
        self._whom = dict[str, Mask]()
        sexes = next(c for c in self.schema.columns if c.name == "sex")
        assert sexes.kind == "category"
        self.codes = [f"sex={code}" for code in sexes.codes]
        self.groups = [(f"sex={one['sex']}",) for one in self.records]

    def after(self, change: Change, generator: np.random.Generator) -> list[Patient]:
        """Return the patients as they arrive after a change; one of a few such versions."""
        assert change.records is not None
        if change.name not in self._changed:
            rng = np.random.default_rng(3)
            self._changed[change.name] = [
                [self._seen(change.records(one, rng)) for one in self.records]
                for _ in range(_VERSIONS)
            ]
        return self._changed[change.name][int(generator.integers(_VERSIONS))]

    def weights(self, weight: Callable[[Record], float]) -> Floats:
        """Return how often each patient comes, beside others."""
        return np.array([weight(one) for one in self.records])

    def whom(self, change: Change) -> Mask:
        """Return whose odds change."""
        if change.name not in self._whom:
            self._whom[change.name] = np.array([change.whom(one) for one in self.records])
        return self._whom[change.name]

    def _seen(self, record: Record) -> Patient:
        encoded = self.encoder.encode(record)
        if encoded.inputs is not None:
            cells = self.cells.of_inputs(np.array([encoded.inputs]))[0]
            return Patient(cells, ())
        return Patient(None, tuple(self.cells.of_rules(encoded.broken)))


def _records(schema: Schema, inputs: Floats) -> list[Record]:
    """Return the records that become these inputs (n, d)."""
    columns, start = dict[str, list[Cell]](), 0
    for column in schema.columns:
        part = inputs[:, start : (start := start + len(names_of(column)))]
        missing = is_missing(column, part)
        assert isinstance(column, CellColumn)
        if column.kind == "number":
            width = column.maximum - column.minimum
            values = np.clip(
                (part[:, 0] + 1) / 2 * width + column.minimum, column.minimum, column.maximum
            )
            cells: list[Cell] = values.tolist()
        else:
            two = len(column.codes) == 2
            codes = part[:, 0] == 1 if two else np.argmax(part[:, : len(column.codes)], axis=1)
            cells = [column.codes[int(code)] for code in codes]
        columns[column.name] = [
            None if gone else cell for gone, cell in zip(missing, cells, strict=True)
        ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class Stream:
    """Patients who come day by day, with outcomes that come later.

    ``change``: None of a stream in which nothing changes by more than is tolerated: a season goes
    up and down, one day of the week has other patients, some come again, of who lives some are
    never reported, and the odds of outcomes are ``odds`` times those that are stated.
    """

    def __init__(
        self, patients: Patients, change: Change | None, seed: int, season: Floats, odds: float = 1
    ) -> None:
        self.patients, self.change, self.season, self.odds = patients, change, season, odds
        self.generator = np.random.default_rng(seed)
        self.risks = patients.risks[seed % len(patients.risks)]
        cuts = np.quantile(self.risks, [1 / 3, 2 / 3])
        self.watch = Watch(patients.schema, patients.codes, (float(cuts[0]), float(cuts[1])))
        self.today, self.kept = 0, dict[int, list[Kept]]()

    def day(self) -> list[Alarm]:
        """Let one day pass; return its new alarms."""
        self.today += 1
        change = self.change if self.change and self.today > self.change.begins else None
        drawn = self.generator.choice(len(self.risks), _A_DAY, p=self._weights(change))
        wards = _WARDS[self.generator.choice(len(_WARDS), _A_DAY, p=_SHARES)].tolist()
        answered = []
        for patient, ward in zip(drawn.tolist(), wards, strict=True):
            several = self.patients.whole
            if change and change.records and change.ward in ("", ward):
                several = self.patients.after(change, self.generator)
            one = several[patient]
            is_slow = change is not None and self.generator.random() < change.slow
            risk = None if one.cells is None else float(self.risks[patient])
            facts = 2.0 if is_slow else 0.01, one.cells, one.broken, risk
            answered.append(Answered(ward, *facts, True, one.cells is not None))
            if self.generator.random() < _AGAIN:
                answered.append(Answered(ward, *facts, False, False))
        for hour in range(24):
            self.watch.count(self.today, answered[hour::24], 24 * self.today + hour)
        self.kept[self.today] = self._kept(drawn, wards, change)
        self.watch.count_outcomes(self.today, _FOLLOW_UP, self._of_day, self._unknown)
        return self.watch.look(self.today)

    def _weights(self, change: Change | None) -> Floats:
        """How often each patient comes today."""
        if change is not None and change.weight is not None:
            weights = self.patients.weights(change.weight)
        else:
            part = 0.5 - 0.5 * np.cos(2 * np.pi * self.today / 365)
            weights = 1 + part * (self.season - 1)
            if self.change is None and self.today % 7 == _CLINIC:
                weights = weights * np.where(self.season > 1, _OF_CLINIC, 1.0)
        return np.asarray(weights / weights.sum())

    def _kept(self, drawn: Integers, wards: list[str], change: Change | None) -> list[Kept]:
        """What is kept of today's patients, with outcomes as they will be reported."""
        odds = np.full(len(drawn), self.odds)
        if change is not None:
            odds = np.where(self.patients.whom(change)[drawn], self.odds * change.odds, self.odds)
        labels = self.generator.random(len(drawn)) < times_odds(self.risks[drawn], odds)
        reported = self.today + _FOLLOW_UP + (change.late if change else 0)
        found = []
        for patient, ward, had in zip(drawn.tolist(), wards, labels.tolist(), strict=True):
            risk, of = float(self.risks[patient]), self.patients.groups[patient]
            groups = tuple(self.watch.groups_of(ward, risk, of))
            is_lost = self.change is None and not had and self.generator.random() < _LOST
            found.append(Kept(groups, risk, had, 10**9 if is_lost else reported))
        return found

    def _unknown(self, day: int) -> int:
        return sum(one.outcome is None for one in self._of_day(day))

    def _of_day(self, day: int) -> list[Kept]:
        return [
            one if one.reported <= self.today else replace(one, outcome=None, reported=0)
            for one in self.kept.get(day, [])
        ]


def rows(quick: bool) -> Iterator[Row]:
    """Each change: how often it is found and rightly named, and after how long; false alarms."""
    for name in list(CHANGES)[: 1 if quick else None]:
        yield from _of_set(name, quick)


def _of_set(name: str, quick: bool) -> Iterator[Row]:
    patients = Patients(World.of((CHOSEN_ON | GENERAL)[name](), 1 if quick else 2))
    season, runs = patients.weights(_SEASON[name]), _QUICK_RUNS if quick else _RUNS
    for change in CHANGES[name][: 2 if quick else None]:
        began = time.monotonic()
        told = [_found(Stream(patients, change, run, season)) for run in range(runs)]
        found = [one for one in told if one is not None]
        days = float(np.median([day for day, _ in found])) if found else np.inf
        rightly = sum(_is_right(change, words) for _, words in found) / runs
        seconds = time.monotonic() - began
        title = f"{name}: {change.name}"
        yield Row(f"{title}: found", len(found) / runs, runs, seconds, 1.0)
        yield Row(f"{title}: rightly named", rightly, runs, seconds, _NAMED)
        yield Row(f"{title}: days until then, median", days, runs, seconds)
    began, alarms = time.monotonic(), 0
    few = max(1, runs // 4)
    for run in range(few):
        odds = (TOLERATED, 1 / TOLERATED, 1.0)[run % 3]
        alarms += _false(Stream(patients, None, run, season, odds), 200 if quick else 365 * _YEARS)
    years = few * (200 / 365 if quick else _YEARS)
    expected = years * 2 * 365 / FALSE_ALARM_DAYS  # once in half of that many days
    title = f"{name}: nothing changes, {years:.0f} years at the edge: alarms"
    most = expected + 3.5 * expected**0.5
    yield Row(title, alarms, few, time.monotonic() - began, most=most)


def _false(stream: Stream, days: int) -> int:
    """Return how many alarms there were, each of which was settled at once."""
    alarms = 0
    for _ in range(days):
        for alarm in stream.day():
            alarms += 1
            stream.watch.settle(alarm.number, as_usual=False)
    return alarms


def _is_right(change: Change, words: str) -> bool:
    return any(one in words for one in change.words.split("|")) and change.ward in words


def _found(stream: Stream) -> tuple[int, str] | None:
    """Return after how many days the change was found, and what was said some days later; None if
    it was not."""
    change = stream.change
    assert change is not None
    for day in range(1, change.begins + _LONGEST + 1):
        for alarm in stream.day():
            if day > change.begins and change.about in (alarm.key.name, alarm.key.kind):
                for _ in range(_READ):
                    stream.day()
                return day - change.begins, in_words(stream.watch, alarm).words
    return None
