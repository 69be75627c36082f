"""``flo simulate``: the same study and the same handlers, many hospitals in one process.

Everything but the distance is real: the trainer of ``flo.clients``, the round loop of
``flo.server``, the noise of ``flo.privacy``, and messages encoded and decoded in between. It sees
all patients at once and prints exact numbers, so its results are *not private* and say so.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.optimize import minimize

from flo.claims import Head
from flo.clients.quality.check import Checked, check
from flo.clients.snapshot import Snapshot
from flo.clients.sources.files import Frame, TableSource, open_file
from flo.clients.trainer import Trainer, private_step
from flo.datasets import DATASETS
from flo.errors import UsageError
from flo.models import log_odds
from flo.privacy.plan import Plan, ring_of
from flo.privacy.ring import enter
from flo.privacy.split import position
from flo.scores import Scores, interval
from flo.server.gathering import Gathered
from flo.server.rounds import RunState, advance
from flo.server.run import run_study
from flo.simulated_sites import RUN, SimulatedSites, enrol, run_keys
from flo.study import Study

Floats = npt.NDArray[np.float64]
Progress = Callable[[str], None]
_PENALTY = 3.0  # L2; of 1, 3, 10 and 30 the kindest to both comparisons on the heart data


def load_hospitals(study: Study, directory: Path | None, id_column: str) -> dict[str, Checked]:
    """Hospital id -> checked data, from ``directory/HOSPITAL.{csv,parquet}`` or the package.

    Raises:
        UsageError: a hospital of the study has no file. DataError: a file does not fit.
    """
    if directory is None:
        name = next((n for n in DATASETS if f"{study.name}-".startswith(f"{n}-")), None)
        if name is None:
            raise UsageError(
                f"study {study.name!r} has no data set of its own", hint="give --data DIR"
            )
        sources: dict[str, TableSource] = {
            hospital: Frame(hospital, id_column, pa.Table.from_pandas(table, preserve_index=False))
            for hospital, table in DATASETS[name]().items()
        }
    else:
        sources = {}
        for hospital in study.hospitals:
            files = sorted(p for p in directory.glob(f"{hospital.id}.*") if p.is_file())
            if not files:
                raise UsageError(f"no file {directory}/{hospital.id}.csv or .parquet")
            sources[hospital.id] = open_file(files[0], id_column)
    return {
        hospital.id: check(sources[hospital.id], study.data, id_column)
        for hospital in study.hospitals
    }


@dataclass
class Fold:
    """One train/test split: a snapshot per hospital.

    ``tested``: whose each held-out record is, in the order of the snapshots, by a number that is
    the same in every fold; left out, by their number in this one.
    """

    snapshots: dict[str, Snapshot]
    tested: npt.NDArray[np.int64] | None = None


Engine = Callable[[Study, Fold], tuple[RunState, list[float]]]


def folds(hospitals: dict[str, Checked], count: int, seed: int) -> Iterator[Fold]:
    """``count`` splits by keyed hash of the patient id; the key depends on ``seed`` only.

    Fold k holds out the patients whose position lies in [k/count, (k+1)/count).
    """
    key = hashlib.sha256(f"flo simulate {seed}".encode()).digest()
    everyone = dict.fromkeys((h, name) for h, c in hospitals.items() for name in c.patient_ids)
    numbers = {known: number for number, known in enumerate(everyone)}
    for k in range(count):
        aside = {
            hospital: _within(checked, key, k / count, (k + 1) / count)
            for hospital, checked in hospitals.items()
        }
        tested = [
            numbers[hospital, name]
            for hospital, checked in hospitals.items()
            for name in checked.patient_ids
            if name in aside[hospital]
        ]
        yield Fold(
            {h: Snapshot.divided(checked, aside[h]) for h, checked in hospitals.items()},
            np.array(tested, dtype=np.int64),
        )


def run_once(study: Study, fold: Fold, *, fast: bool = False) -> tuple[RunState, list[float]]:
    """Run the whole study on one fold. Returns the final state and seconds per round."""
    enrolled, identities = enrol(study)
    if fast:
        return _run_fast(enrolled, fold)
    store, trainers = Memory(), trainers_of(enrolled, fold)
    exchange = _InProcess(SimulatedSites(enrolled, trainers, run_keys(enrolled, identities)))
    state, _ = run_study(enrolled, RUN, RunState.start(enrolled), exchange, store)
    return state, store.seconds


@dataclass(frozen=True)
class Simulation:
    """A study tried by cross-validation: its ``private`` model, one test a fold and seed.

    Beside it, if asked for, an ordinary logistic regression without privacy: ``pooled`` over all
    hospitals' patients, and ``alone``, one for each hospital, all tested on the same patients.
    ``seconds``: of every round.
    """

    study: Study
    masks: str
    private: list[Scores] = field(default_factory=list)
    pooled: list[Scores] = field(default_factory=list)
    alone: list[Scores] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def auc(self) -> float:
        """Exact AUC on the held-out patients of all hospitals, mean over folds and seeds."""
        return _mean(self.private)

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, over who the test patients are (``flo.scores``)."""
        return interval(self.private)

    @property
    def document(self) -> dict[str, Any]:
        """The keys of ``flo simulate --json``.

        ``report`` is None: a simulation touches no ledger, so there is nothing to report.
        ``auc_std``: standard deviation over folds and seeds.
        """
        plan = Plan.of(self.study)
        budget = {"epsilon": plan.epsilon, "delta": self.study.mechanism.delta}
        result: dict[str, Any] = {
            "schema_version": 1,
            "private": False,
            "study": self.study.name,
            "digest": self.study.digest,
            "auc": self.auc,
            "auc_std": statistics.pstdev(test.auc for test in self.private),
            "auc_interval": list(self.interval),
            **budget,
            "trust_model": f"{self.study.mechanism.noise} noise",
            "masks": self.masks,
            "rounds": self.study.mechanism.steps,
            "seconds_per_round": statistics.median(self.seconds),
            "seconds_total": math.fsum(self.seconds),
            "report": None,
            "sites": {
                hospital.id: {
                    "declared_size": hospital.declared_size,
                    **budget,
                    "rounds": self.study.mechanism.steps,
                }
                for hospital in self.study.hospitals
            },
        }
        if self.pooled:
            result |= {"auc_pooled": _mean(self.pooled), "auc_alone": _mean(self.alone)}
        return result


def _mean(tests: list[Scores]) -> float:
    return statistics.fmean(test.auc for test in tests)


def simulate(
    study: Study,
    hospitals: dict[str, Checked],
    *,
    fold_count: int = 5,
    seeds: int = 1,
    compare: bool = False,
    fast: bool = False,
    engine: Engine | None = None,
    progress: Progress = lambda text: None,
) -> Simulation:
    """Cross-validate: train the whole study on each fold, test it on the patients left out.

    ``fast``: sums are taken in the clear inside this process instead of through masks; noise and ε
    are the same. ``engine``: what runs a study on a fold; this process if left out.

    Raises:
        UsageError: a survey, which trains nothing; too few patients for the folds.
    """
    if study.survey:
        raise UsageError("a survey trains nothing", hint="simulate the planned study instead")
    run = engine or partial(run_once, fast=fast)
    found = Simulation(
        study, "none: summed in the clear" if fast or not study.masked else "as deployed"
    )
    for seed in range(seeds):
        for number, fold in enumerate(folds(hospitals, fold_count, seed)):
            progress(f"seed {seed + 1}/{seeds}, fold {number + 1}/{fold_count}")
            state, per_round = run(study, fold)
            found.seconds.extend(per_round)
            found.private.append(_tested(fold, partial(log_odds, study, state.model)))
            if compare:
                found.pooled.append(pooled(fold))
                found.alone.extend(_unprotected([one], fold) for one in fold.snapshots.values())
    return found


def _run_fast(study: Study, fold: Fold) -> tuple[RunState, list[float]]:
    """The same releases, summed as they are made: no messages, no keys, no masks."""
    trainers = trainers_of(study, fold)
    state, seconds = RunState.start(study), list[float]()
    everyone = tuple(sorted(trainers))
    while state.phase != "done":
        began = time.monotonic()
        part = Plan.of(study).part(state.purpose)
        gathered, ring = Gathered(study, part, len(everyone)), ring_of(study, part, len(everyone))
        for hospital in everyone:
            noisy = trainers[hospital].release(state.purpose, state.asked, len(everyone))
            gathered.add(hospital, enter(noisy, ring) if ring else noisy)
        state = advance(study, replace(state, cohort=everyone), gathered)
        seconds.append(time.monotonic() - began)
    return state, seconds


def trainers_of(study: Study, fold: Fold) -> dict[str, Trainer]:
    """A trainer for each hospital; the module, which is the same for all, is made once."""
    step = private_step(study, "cpu")
    return {
        hospital: Trainer(study, snapshot, step=step)
        for hospital, snapshot in fold.snapshots.items()
    }


def pooled(fold: Fold) -> Scores:
    """An ordinary logistic regression on all hospitals' patients, without privacy."""
    return _unprotected(list(fold.snapshots.values()), fold)


class _InProcess:
    """Every hospital of the simulation in this process, behind messages as over the network."""

    def __init__(self, sites: SimulatedSites) -> None:
        self._sites = sites

    def ask(
        self, hospitals: Collection[str], request: tuple[bytes, memoryview], deadline_seconds: float
    ) -> Iterator[tuple[str, bytes]]:
        data = b"".join(request)
        for hospital in hospitals:
            yield hospital, self._sites.answer(hospital, data)

    def connected(self) -> set[str]:
        return self._sites.hospitals

    def reconnected(self) -> set[str]:
        return set()


@dataclass
class Memory:
    """A run store that forgets; it keeps only how long rounds took."""

    seconds: list[float] = field(default_factory=list)
    seen: dict[str, Head] = field(default_factory=dict)

    def save(self, state: RunState) -> None:
        """Nothing outlives a simulation."""

    def heads(self) -> dict[str, Head]:
        """The last head that each hospital showed."""
        return self.seen

    def keep_head(self, hospital: str, head: Head) -> None:
        """Simulated hospitals keep no ledger; theirs has one row for ever."""
        self.seen[hospital] = head

    def event(self, kind: str, **facts: object) -> None:
        """Only a round's seconds are kept."""
        if kind == "round":
            self.seconds.append(float(str(facts["seconds"])))

    def stop_requested(self) -> bool:
        """Never: a simulation ends by itself."""
        return False


def _within(checked: Checked, key: bytes, low: float, high: float) -> set[str]:
    """Patients whose position lies within [low, high)."""
    return {name for name in set(checked.patient_ids) if low <= position(key, name) < high}


def _tested(fold: Fold, score: Callable[[Floats], Floats]) -> Scores:
    """The held-out patients of all hospitals, scored; one known to two hospitals counts twice."""
    held = [snapshot.held_out for snapshot in fold.snapshots.values()]
    tested = fold.tested
    if tested is None:
        before = np.cumsum([0, *(patients.count for patients in held)])
        tested = np.concatenate([p.patient + n for p, n in zip(held, before, strict=False)])
    return Scores(
        score(np.concatenate([patients.inputs for patients in held])),
        np.concatenate([patients.labels for patients in held]),
        tested,
    )


def _unprotected(snapshots: list[Snapshot], fold: Fold) -> Scores:
    """An ordinary logistic regression on these hospitals' patients, without privacy."""
    inputs = np.concatenate([snapshot.training.inputs for snapshot in snapshots])
    labels = np.concatenate([snapshot.training.labels for snapshot in snapshots])
    inputs = np.hstack([inputs, np.ones((len(inputs), 1))])

    def loss(weights: Floats) -> tuple[float, Floats]:
        margin = inputs @ weights
        value = np.logaddexp(0, margin).sum() - labels @ margin
        value += 0.5 * _PENALTY * weights @ weights
        slope = inputs.T @ (0.5 * (1 + np.tanh(margin / 2)) - labels) + _PENALTY * weights
        return float(value), slope

    found = minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B")
    return _tested(fold, lambda rows: rows @ found.x[:-1] + found.x[-1])
