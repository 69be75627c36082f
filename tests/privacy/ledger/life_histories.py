"""Random lives of a ledger, with the truth beside it: what each patient was really part of.

``live`` plays arrivals, approvals, releases, opt-outs, kills, backups and restores. It notes every
release that touched a patient, those in rows that a restore lost as well. ``read`` is a reader of
ledgers that knows the documented format only (``docs/concepts/generations.md``) and none of FLO's
code: it recomputes from the rows' public parts what each generation has paid.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flo.errors import BudgetError
from flo.keys.identity import Identity
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.admission import Approved
from flo.privacy.ledger.generations import LaterPatients
from flo.privacy.ledger.ledger import Ledger
from flo.study.document import Study
from tests.builders import small_study, study_document
from tests.privacy.ledgers import facts, register

KEY = Identity.new()
SIDES = ("training", "evaluation")
EPSILONS = (0.2, 0.3, 0.5, 0.9)
LIFE = {"epsilon": 0.9, "delta": 1e-6}


def study_of(number: int, epsilon: float, schema: int = 4) -> Study:
    document = study_document(name=f"study-{number}", schema_version=schema)
    for part in ("mechanism", "evaluation"):
        document[part]["epsilon"] = epsilon
    return small_study(**document)


def side_of(patient: str) -> str:
    """Three in ten are held out, by the last digit of their number."""
    return "evaluation" if int(patient[1:]) % 10 < 3 else "training"


@dataclass
class Running:
    """A study that may release: its reservation and the patients whom its snapshot has."""

    study: Study
    reservation: int
    patients: frozenset[str]
    made: Counter[str] = field(default_factory=Counter)


@dataclass
class Life:
    """One site's ledger, its patients, and what really happened to each of them."""

    folder: Path
    chosen: random.Random
    patients: list[str] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    running: list[Running] = field(default_factory=list)
    approved: dict[str, Approved] = field(default_factory=dict)
    touched: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    seen: Any = None  # the highest head that others saw
    came_after: set[str] = field(default_factory=set)  # first recorded after the last recovery
    later: LaterPatients | None = None
    restores: int = 0

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.path, KEY)
        register(self.ledger)
        self.arrive()

    @property
    def path(self) -> Path:
        return self.folder / "ledger.sqlite"

    def arrive(self) -> None:
        new = [f"p{len(self.patients) + n}" for n in range(self.chosen.choice((0, 1, 4, 9)))]
        self.patients += new
        self.came_after |= set(new)

    def sign_who_is_new(self) -> None:
        """The steward is right; the list is among the files of a backup."""
        recovery = self.ledger.recovery()
        if recovery is not None:
            self.later = LaterPatients(recovery, frozenset(self.came_after))

    def opt_out(self) -> None:
        if self.patients:
            left = self.chosen.choice(self.patients)
            self.gone.add(left)
            for one in self.running:
                one.patients -= {left}

    def approve(self) -> None:
        schema = 3 if self.chosen.random() < 0.1 else 4
        study = study_of(len(self.approved), self.chosen.choice(EPSILONS), schema)
        here = {one for one in self.patients if one not in self.gone}
        try:
            reservation = self.ledger.reserve(study, "main", here, later=self.later)
        except BudgetError:
            assert schema == 3, "a study that fits into a life always opens a generation"
            return
        if (
            self.chosen.random() < 0.2
        ):  # cut off before the snapshot was written, and approved again
            self.kill()
            self.arrive()
            here = {one for one in self.patients if one not in self.gone}
            assert self.ledger.reserve(study, "main", here, later=self.later) == reservation
        participants = self.ledger.participants(reservation)
        inside = frozenset(one for one in here if participants.include(one, side_of(one)))
        self.approved[study.digest] = Approved(study, "main", worst_case=False)
        self.running.append(Running(study, reservation, inside))
        self.see()

    def release(self) -> None:
        if not self.running:
            return
        one = self.chosen.choice(self.running)
        plan = Plan.of(one.study)
        purpose = self.chosen.choice(SIDES)
        order = self.ledger.balance().lives["main"].order
        for _ in range(self.chosen.randint(1, 4)):
            if one.made[purpose] >= plan.purpose(purpose).releases:
                return
            one.made[purpose] += 1
            request = f"{one.study.digest}/{purpose}/{one.made[purpose]}/{self.restores}"
            self.ledger.charge(
                one.reservation, purpose, request, facts(one.study, one.made[purpose])
            )
            self.costs.setdefault(one.study.digest, {})[purpose] = plan.purpose(
                purpose
            ).mechanism.rdp(order)
            for patient in one.patients:
                if side_of(patient) == purpose:
                    self.touched[patient][one.study.digest] += 1
        self.see()

    def settle(self) -> None:
        if self.running:
            one = self.running.pop(self.chosen.randrange(len(self.running)))
            self.ledger.settle(one.reservation, "ended")
            self.see()

    def see(self) -> None:
        self.seen = self.ledger.head()

    def kill(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(self.path, KEY)

    def back_up(self) -> None:
        with (
            closing(sqlite3.connect(self.path)) as source,
            closing(sqlite3.connect(self.folder / "backup.sqlite")) as copy,
        ):
            source.backup(copy)

    def restore(self) -> None:
        backup = self.folder / "backup.sqlite"
        if not backup.exists():
            return
        self.ledger.close()
        for beside in self.folder.glob("ledger.sqlite*"):
            beside.unlink()
        shutil.copy(backup, self.path)
        self.ledger = Ledger(self.path, KEY)
        self.restores += 1
        self.ledger.restore(list(self.approved.values()), self.seen)
        self.running.clear()
        self.came_after.clear()
        self.see()

    def true_cost(self, patient: str) -> float:
        """What the patient's releases cost together, at the ledger's order."""
        side = side_of(patient)
        return math.fsum(n * self.costs[study][side] for study, n in self.touched[patient].items())


ACTIONS = (
    *(Life.arrive, Life.arrive, Life.approve, Life.approve, Life.approve),
    *(Life.release, Life.release, Life.release, Life.settle, Life.settle),
    *(Life.opt_out, Life.kill, Life.back_up, Life.restore, Life.sign_who_is_new),
)


def live(folder: Path, seed: int, actions: int = 24) -> Life:
    """One history; the caller closes its ledger."""
    life = Life(folder, random.Random(seed))
    for _ in range(actions):
        life.chosen.choice(ACTIONS)(life)
    return life


# -- a reader of the format ------------------------------------------------------------------------


@dataclass
class Read:
    """What a ledger says: R, and the Rényi cost of each generation, by sub-ledger."""

    budget: float
    order: int
    paid: dict[str, dict[int, float]]

    def epsilon(self, generation: int) -> float:
        """Its life ε at δ, by the conversion of Canonne, Kamath, Steinke 2020, Prop. 12."""
        a, delta = self.order, LIFE["delta"]
        worst = max(self.paid[side].get(generation, 0.0) for side in SIDES)
        return worst - math.log(a / (a - 1)) - (math.log(delta) + math.log(a)) / (a - 1)


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with closing(sqlite3.connect(path)) as database:
        for sequence, public in database.execute(
            "SELECT sequence, public FROM rows ORDER BY sequence"
        ):
            yield sequence, json.loads(public)


def generations_of(path: Path) -> dict[str, int]:
    """Patient -> generation; 0 for those whose birth is not recorded."""
    with closing(sqlite3.connect(path)) as database:
        known = {name: 0 for (name,) in database.execute("SELECT hash FROM patients")}
        return known | dict(database.execute("SELECT hash, generation FROM generations"))


def read(path: Path) -> Read:
    budget, order, existing, restored = 0.0, 0, list[int](), False
    charged: dict[int, dict[str, set[int]]] = {}  # reservation -> side -> generations
    parts: dict[int, dict[str, Any]] = {}
    count: dict[int, Counter[str]] = {}
    over: set[int] = set()
    lost: set[int] = set()
    spent_until = 0
    for sequence, row in rows_of(path):
        match row["kind"]:
            case "birth":
                budget, order = row["renyi"], row["order"]
            case "reserve":
                parts[sequence], count[sequence] = row["parts"], Counter()
                if "generations" in row:
                    named = {side: {*row["generations"][side], sequence} for side in SIDES}
                    existing.append(sequence)
                else:
                    existing = sorted({0, *existing})
                    named = {side: set(existing) for side in SIDES}
                charged[sequence] = named
                if row.get("lost"):
                    lost.add(sequence)
                    over.add(sequence)
                    count[sequence] = Counter(
                        {p: part["releases"] for p, part in row["parts"].items()}
                    )
            case "release":
                count[row["reservation"]][row["purpose"]] += 1
            case "settle":
                over.add(row["reservation"])
            case "restored":
                restored, existing = True, sorted({0, *existing})
                for number in parts.keys() - over:
                    if row["head"] is not None:  # lost rows may be of an approval nobody shows
                        charged[number] = {side: set(existing) for side in SIDES}
                        lost.add(number)
                    count[number] = Counter(
                        {p: part["releases"] for p, part in parts[number].items()}
                    )
                    over.add(number)
                if row["exhausted"]:
                    spent_until = sequence
    assert restored or not lost
    paid: dict[str, dict[int, float]] = {side: {} for side in SIDES}
    for side in SIDES:
        for generation in existing:
            cost = 0.0
            for number, named in charged.items():
                part = parts[number].get(side)
                if part is not None and generation in named[side]:
                    n = count[number][side] if number in over else part["releases"]
                    cost += n * order / (2 * part["mechanism"]["noise_multiplier"] ** 2)
            if any(generation in charged[number][side] for number in lost):
                cost = min(cost, budget)
            if generation < spent_until:
                cost = max(cost, budget)
            paid[side][generation] = cost
    return Read(budget, order, paid)
