"""A watched study with two columns and a fine, dull month of answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from flo.clients.home.site_home import SiteHome
from flo.clients.watching.calibration import Kept as KeptAnswer
from flo.clients.watching.kept import Arrived, KeptWatch, Watched
from flo.clients.watching.watch import Answered, Watch
from flo.documents.document import parse
from flo.scoring.record import RecordEncoder
from flo.study.schema import Schema

COLUMNS = [
    {
        **{"kind": "number", "name": "crea", "unit": "mg/dL", "minimum": 0, "maximum": 15},
        **{"about": "creatinine", "missing": "indicator", "missing_value": 1},
    },
    {"kind": "category", "name": "sex", "codes": ["female", "male"]},
]
FIRST = 730_000  # an ordinal
DAY = 86_400.0
Record = dict[str, Any]


def schema() -> Schema:
    facts = {"record": "patient", "label": "died", "columns": COLUMNS}
    return parse(Schema, facts, "the schema")


def new_watch() -> Watch:
    return Watch(schema(), ["sex=female", "sex=male"], (0.1, 0.3))


class Ward:
    """Patients of a hospital: creatinine around 1, 40 % women, 5 % without creatinine."""

    def __init__(self, watch: Watch, seed: int = 1) -> None:
        self.watch, self.generator = watch, np.random.default_rng(seed)
        self.encoder = RecordEncoder(schema().columns)

    def record(self) -> Record:
        draw = self.generator.random
        crea = float(min(np.exp(self.generator.normal(0, 0.4)), 14.0))
        sex = "female" if draw() < 0.4 else "male"
        return {"crea": None if draw() < 0.05 else crea, "sex": sex}

    def answered(self, record: Record, ward: str = "", **more: Any) -> Answered:
        """As a worker and the front make it of a record."""
        encoded, study = self.encoder.encode(record), self.watch.layout.study
        if encoded.inputs is None:
            broken = tuple(study.of_rules(encoded.broken))
            usual = Answered(ward, 0.01, None, broken, None, True, False)
        else:
            cells = study.of_inputs(np.array([encoded.inputs]))[0]
            usual = Answered(ward, 0.01, cells, (), 0.2, True, True)
        return usual._replace(**more)

    def day(
        self,
        day: int,
        count: int = 40,
        change: Callable[[Record], Record] = lambda one: one,
        ward: Callable[[int], str] = lambda number: "",
        **more: Any,
    ) -> None:
        """Let a day pass."""
        several = [
            self.answered(change(self.record()), ward(number), **more) for number in range(count)
        ]
        self.watch.count(FIRST + day, several, 24 * day)

    def month(self, **more: Any) -> None:
        """A first week, and the days whose counts become what is usual."""
        for day in range(-7, 29):
            self.day(day, **more)


def kept(outcomes: Sequence[bool | None], *, risk: float = 0.2, day: int = 0) -> list[KeptAnswer]:
    """Patients of one day with these outcomes, which were reported on that day."""
    return [
        KeptAnswer(("all patients",), risk, one, 0 if one is None else FIRST + day)
        for one in outcomes
    ]


def a_dull_month(home: SiteHome, watched: Watched, changed_days: int = 0) -> None:
    """Days of patients of ``tiny`` around 50, until yesterday, or until some around 20 came."""
    generator = np.random.default_rng(2)
    with closing(KeptWatch(home, watched)) as kept:
        columns = kept.watch.layout.study.columns
        for day in range(37 + changed_days, 0, -1):
            ages = generator.normal(20 if day <= changed_days else 50, 5, 40)
            wards = generator.integers(0, 2, 40)
            several = [
                Arrived(
                    *(f"{day:018}{n:018}", "ehr", 0.01, f"{day:032}{n:032}", ""),
                    np.array([columns[0].of_values(ages[n : n + 1])[0], wards[n]], dtype=np.uint16),
                    (),
                    0.2,
                )
                for n in range(40)
            ]
            kept.take(several, 3, time.time() - day * DAY)
