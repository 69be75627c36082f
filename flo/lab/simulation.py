"""``flo simulate``: the same study and the same handlers, many hospitals in one process.

All but the network is real: the trainer of ``flo.clients``, the round loop of ``flo.server``, the
noise of ``flo.privacy``, and messages that are encoded and decoded. The simulation sees all
patients at once and prints exact numbers, so its results are *not private* and say so.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from flo.arrays import Floats
from flo.clients.data_process.trainer import Trainer, private_step
from flo.clients.prediction.finish import finished_log_odds, fit_at_home
from flo.clients.prediction.regression import unprotected
from flo.clients.quality.check import EncodedTable, encode_checked
from flo.clients.records.snapshot import Snapshot
from flo.clients.sources.files import DataFrameSource, TableSource, open_file
from flo.datasets import DATASETS
from flo.errors import DataError, UsageError
from flo.keys.claims import LedgerHead
from flo.lab.hospitals import RUN, SimulatedSites, enrol, run_keys
from flo.lab.result import Simulation
from flo.privacy.accounting.plan import Plan, ring_of
from flo.privacy.patients.split import position
from flo.privacy.secure_sum.ring import to_ring
from flo.scores.metrics import Scores
from flo.server.rounds.aggregation import StreamingSum
from flo.server.rounds.loop import run_study
from flo.server.rounds.state import RunState, advance
from flo.study.document import Study
from flo.study.models import log_odds
from flo.study.parameters import Vector

Progress = Callable[[str], None]


def load_hospitals(
    study: Study, data: Path | Mapping[str, pd.DataFrame] | None, id_column: str
) -> dict[str, EncodedTable]:
    """Return hospital id -> checked data.

    ``data``: a folder with ``HOSPITAL.{csv,parquet}``, tables by hospital, or None for the data set
    that ships for the study.

    Raises:
        UsageError: a hospital of the study has no data. DataError: some data do not fit; the
        message lists every such hospital and the reason.
    """
    if data is None:
        name = next((n for n in DATASETS if f"{study.name}-".startswith(f"{n}-")), None)
        if name is None:
            raise UsageError(
                f"FLO ships no data set for study {study.name!r}", hint="give --data DIR"
            )
        data = DATASETS[name]()
    sources: dict[str, TableSource] = {}
    for hospital in study.hospitals:
        if isinstance(data, Path):
            files = sorted(p for p in data.glob(f"{hospital.id}.*") if p.is_file())
            if not files:
                raise UsageError(f"no file {data}/{hospital.id}.csv or .parquet")
            sources[hospital.id] = open_file(files[0], id_column)
        elif hospital.id not in data:
            raise UsageError(f"the data have no table for hospital {hospital.id!r}")
        else:
            table = pa.Table.from_pandas(data[hospital.id], preserve_index=False)
            sources[hospital.id] = DataFrameSource(hospital.id, id_column, table)
    checked, unfit = dict[str, EncodedTable](), dict[str, DataError]()
    for name, source in sources.items():
        try:
            checked[name] = encode_checked(source, study.data, id_column)
        except DataError as error:
            unfit[name] = error
    if unfit:
        hints = dict.fromkeys(error.hint for error in unfit.values() if error.hint)
        raise DataError(
            "\n".join(f"{name}: {error}" for name, error in unfit.items()), hint="; ".join(hints)
        )
    return checked


@dataclass
class Fold:
    """One train/test split: a snapshot per hospital.

    ``tested``: the patient number of each held-out record, in the order of the snapshots, the same
    in every fold; if None, patients are numbered within this fold.
    """

    snapshots: dict[str, Snapshot]
    tested: npt.NDArray[np.int64] | None = None


Engine = Callable[[Study, Fold], tuple[RunState, list[float]]]


def folds(hospitals: dict[str, EncodedTable], count: int, seed: int) -> Iterator[Fold]:
    """Yield ``count`` splits by keyed hash of the patient id; the key depends on ``seed`` only.

    Fold k holds out the patients whose position lies in [k/count, (k+1)/count).
    """
    key = hashlib.sha256(f"flo simulate {seed}".encode()).digest()
    everyone = dict.fromkeys((h, name) for h, c in hospitals.items() for name in c.patient_ids)
    numbers = {known: number for number, known in enumerate(everyone)}
    for k in range(count):
        aside = {
            hospital: within(checked, key, k / count, (k + 1) / count)
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
    """Run the whole study on one fold. Return the final state and seconds per round."""
    enrolled, identities = enrol(study)
    if fast:
        return _run_fast(enrolled, fold)
    store, trainers = Memory(), trainers_of(enrolled, fold)
    exchange = _InProcess(SimulatedSites(enrolled, trainers, run_keys(enrolled, identities)))
    state, _ = run_study(enrolled, RUN, RunState.start(enrolled), exchange, store)
    return state, store.seconds


def simulate(
    study: Study,
    hospitals: dict[str, EncodedTable],
    *,
    fold_count: int = 5,
    seeds: int = 1,
    redraws: int = 1,
    compare: bool = False,
    fast: bool = False,
    engine: Engine | None = None,
    progress: Progress = lambda text: None,
) -> Simulation:
    """Cross-validate: train the whole study on each fold, test it on the held-out patients.

    ``seeds``: repetitions with other folds. ``redraws``: trainings of each fold, which differ only
    in the noise. ``fast``: sum in the clear inside this process instead of through masks; noise and
    ε are the same. ``engine``: runs a study on a fold; this process if None.

    Raises:
        UsageError: a survey, which trains no model; too few patients for the folds; fewer than two
        folds, or no seed or redraw.
    """
    for name, count, least in (
        ("folds", fold_count, 2),
        ("seeds", seeds, 1),
        ("redraws", redraws, 1),
    ):
        if count < least:
            raise UsageError(f"{name} = {count} is too few, at least {least}")
    if study.survey:
        raise UsageError("a survey trains no model", hint="simulate the planned study instead")
    run = engine or partial(run_once, fast=fast)
    hospitals = {hospital.id: hospitals[hospital.id] for hospital in study.hospitals}
    found = Simulation(
        study, "none: summed in the clear" if fast or not study.masked else "as deployed"
    )
    for seed in range(seeds):
        for number, fold in enumerate(folds(hospitals, fold_count, seed)):
            tests = []
            for redraw in range(redraws):
                again = f", noise {redraw + 1}/{redraws}" if redraws > 1 else ""
                progress(f"seed {seed + 1}/{seeds}, fold {number + 1}/{fold_count}{again}")
                state, per_round = run(study, fold)
                found.seconds.extend(per_round)
                found.models.append(state.model)
                found.published.append(state.estimate)
                tests.append(_tested(fold, partial(log_odds, study, state.model)))
            found.private.extend(tests)
            found.redrawn.append([test.auc for test in tests])
            if compare:
                _compare(found, fold, state.model)
    return found


def _compare(found: Simulation, fold: Fold, weights: Vector) -> None:
    """Add scores of the same patients by the finished models and by regressions without privacy."""
    found.finished.append(_finished(found.study, fold, weights))
    found.pooled.append(pooled(fold))
    for number, snapshot in enumerate(fold.snapshots.values()):
        everywhere = _tested(fold, unprotected([snapshot.training]))
        found.elsewhere.append(everywhere)
        found.alone.append(everywhere.of(number))


def _run_fast(study: Study, fold: Fold) -> tuple[RunState, list[float]]:
    """Sum the same releases directly: no messages, no keys, no masks."""
    trainers = trainers_of(study, fold)
    state, seconds = RunState.start(study), list[float]()
    everyone = tuple(sorted(trainers))
    while state.phase != "done":
        began = time.monotonic()
        part = Plan.of(study).purpose(state.purpose)
        gathered = StreamingSum(study, part, len(everyone))
        ring = ring_of(study, part, len(everyone))
        for hospital in everyone:
            noisy = trainers[hospital].release(state.purpose, state.asked, len(everyone))
            gathered.add(hospital, to_ring(noisy, ring) if ring else noisy)
        state = advance(study, replace(state, cohort=everyone), gathered)
        seconds.append(time.monotonic() - began)
    return state, seconds


def trainers_of(study: Study, fold: Fold) -> dict[str, Trainer]:
    """Create a trainer for each hospital; all share one module."""
    step = private_step(study, "cpu")
    return {
        hospital: Trainer(study, snapshot, step=step)
        for hospital, snapshot in fold.snapshots.items()
    }


def pooled(fold: Fold) -> Scores:
    """Score an ordinary logistic regression on all hospitals' patients, without privacy."""
    return _tested(fold, unprotected([snapshot.training for snapshot in fold.snapshots.values()]))


def _finished(study: Study, fold: Fold, weights: Vector) -> Scores:
    """Score each hospital's held-out patients with the model that it finished at home.

    A hospital with too few patients to finish a model uses the published one.
    """
    scores = []
    for snapshot in fold.snapshots.values():
        inputs = snapshot.held_out.inputs
        try:
            last = fit_at_home(study, weights, snapshot.training).finished
        except DataError:
            scores.append(log_odds(study, weights, inputs))
        else:
            scores.append(finished_log_odds(study, weights, last, inputs))
    return _scores(fold, np.concatenate(scores))


class _InProcess:
    """All hospitals of the simulation in this process, with encoded messages."""

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
    """A run store in memory: seconds per round and the last heads."""

    seconds: list[float] = field(default_factory=list)
    seen: dict[str, LedgerHead] = field(default_factory=dict)

    def save(self, state: RunState) -> None:
        """Do not save: a simulation is never resumed."""

    def save_round(self, state: RunState, **facts: object) -> None:
        """Store the round's seconds."""
        self.seconds.append(float(str(facts["seconds"])))

    def heads(self) -> dict[str, LedgerHead]:
        """Return each hospital's last head."""
        return self.seen

    def keep_head(self, hospital: str, head: LedgerHead) -> None:
        """Store the head; simulated hospitals have no ledger, so it never changes."""
        self.seen[hospital] = head

    def event(self, kind: str, **facts: object) -> None:
        """Ignore the event."""

    def stop_requested(self) -> bool:
        """Return False: a simulation ends by itself."""
        return False


def within(checked: EncodedTable, key: bytes, low: float, high: float) -> set[str]:
    """Return the patients whose position lies in [low, high)."""
    return {name for name in set(checked.patient_ids) if low <= position(key, name) < high}


def _tested(fold: Fold, score: Callable[[Floats], Floats]) -> Scores:
    """Score the held-out patients of all hospitals; one known to two hospitals counts twice."""
    held = [snapshot.held_out for snapshot in fold.snapshots.values()]
    return _scores(fold, score(np.concatenate([patients.inputs for patients in held])))


def _scores(fold: Fold, scores: Floats) -> Scores:
    """Return the scores (records,) of the held-out records in the order of the snapshots."""
    held = [snapshot.held_out for snapshot in fold.snapshots.values()]
    tested = fold.tested
    if tested is None:
        before = np.cumsum([0, *(patients.count for patients in held)])
        tested = np.concatenate([p.patient + n for p, n in zip(held, before, strict=False)])
    sizes = [len(patients.labels) for patients in held]
    return Scores(
        scores,
        np.concatenate([patients.labels for patients in held]),
        tested,
        np.repeat(np.arange(len(held)), sizes),
    )
