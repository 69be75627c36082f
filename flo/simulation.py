"""``flo simulate``: the same study and the same handlers, many hospitals in one process.

Everything but the distance is real: the trainer of ``flo.clients``, the round loop of
``flo.server``, the noise of ``flo.privacy``, and messages encoded and decoded in between. It sees
all patients at once and prints exact numbers, so its results are *not private* and say so.
"""

from __future__ import annotations

import hashlib
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
from scipy.stats import rankdata

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
        if study.name not in DATASETS:
            raise UsageError(
                f"study {study.name!r} has no data set of its own", hint="give --data DIR"
            )
        sources: dict[str, TableSource] = {
            name: Frame(name, id_column, pa.Table.from_pandas(table, preserve_index=False))
            for name, table in DATASETS[study.name]().items()
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
    """One train/test split: a snapshot per hospital."""

    snapshots: dict[str, Snapshot]


Engine = Callable[[Study, Fold], tuple[RunState, list[float]]]


def folds(hospitals: dict[str, Checked], count: int, seed: int) -> Iterator[Fold]:
    """``count`` splits by keyed hash of the patient id; the key depends on ``seed`` only.

    Fold k holds out the patients whose position lies in [k/count, (k+1)/count).
    """
    key = hashlib.sha256(f"flo simulate {seed}".encode()).digest()
    for k in range(count):
        yield Fold(
            {
                hospital: _split(checked, key, k / count, (k + 1) / count)
                for hospital, checked in hospitals.items()
            }
        )


def run_once(
    study: Study, fold: Fold, device: str = "cpu", *, fast: bool = False
) -> tuple[RunState, list[float]]:
    """Run the whole study on one fold. Returns the final state and seconds per round."""
    enrolled, identities = enrol(study)
    if fast:
        return _run_fast(enrolled, fold, device)
    store, trainers = Memory(), trainers_of(enrolled, fold, device)
    exchange = _InProcess(SimulatedSites(enrolled, trainers, run_keys(enrolled, identities)))
    state, _ = run_study(enrolled, RUN, RunState.start(enrolled), exchange, store)
    return state, store.seconds


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
) -> dict[str, Any]:
    """Cross-validate a study. The keys of the result are those of ``flo simulate --json``.

    ``report`` is None: a simulation touches no ledger, so there is nothing to report.
    ``auc``: exact AUC on the pooled held-out patients of all hospitals, mean over folds and seeds;
    ``auc_std``: its standard deviation over them. ``fast``: sums are taken in the clear inside this
    process instead of through masks; noise and ε are the same. ``engine``: what runs a study on a
    fold; this process if left out.
    """
    if study.survey:
        raise UsageError("a survey trains nothing", hint="simulate the planned study instead")
    run, began = engine or partial(run_once, fast=fast), time.monotonic()
    aucs: list[float] = []
    pooled: list[float] = []
    alone: list[float] = []
    seconds: list[float] = []
    for seed in range(seeds):
        for number, fold in enumerate(folds(hospitals, fold_count, seed)):
            progress(f"seed {seed + 1}/{seeds}, fold {number + 1}/{fold_count}")
            state, per_round = run(study, fold)
            seconds += per_round
            test = _test_patients(fold)
            aucs.append(exact_auc(log_odds(study, state.model, test[0]), test[1]))
            if compare:
                pooled.append(pooled_auc(fold))
                alone += [_unprotected([one], test) for one in fold.snapshots.values()]
    plan = Plan.of(study)
    result: dict[str, Any] = {
        "schema_version": 1,
        "private": False,
        "study": study.name,
        "digest": study.digest,
        "auc": statistics.fmean(aucs),
        "auc_std": statistics.pstdev(aucs),
        "epsilon": plan.epsilon,
        "delta": study.mechanism.delta,
        "trust_model": f"{study.mechanism.noise} noise",
        "masks": "none: summed in the clear" if fast or not study.masked else "as deployed",
        "rounds": study.mechanism.steps,
        "seconds_per_round": statistics.median(seconds),
        "seconds_total": time.monotonic() - began,
        "report": None,
        "sites": {
            hospital.id: {
                "declared_size": hospital.declared_size,
                "epsilon": plan.epsilon,
                "delta": study.mechanism.delta,
                "rounds": study.mechanism.steps,
            }
            for hospital in study.hospitals
        },
    }
    if compare:
        result["auc_pooled"] = statistics.fmean(pooled)
        result["auc_alone"] = statistics.fmean(alone)
    return result


def _run_fast(study: Study, fold: Fold, device: str) -> tuple[RunState, list[float]]:
    """The same releases, summed as they are made: no messages, no keys, no masks."""
    trainers = trainers_of(study, fold, device)
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


def trainers_of(study: Study, fold: Fold, device: str) -> dict[str, Trainer]:
    """A trainer for each hospital; the module, which is the same for all, is made once."""
    step = private_step(study, device)
    return {
        hospital: Trainer(study, snapshot, device=device, step=step)
        for hospital, snapshot in fold.snapshots.items()
    }


def pooled_auc(fold: Fold) -> float:
    """Exact AUC of an ordinary logistic regression on all hospitals' patients. Not private."""
    return _unprotected(list(fold.snapshots.values()), _test_patients(fold))


def exact_auc(score: Floats, label: Floats) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half. Not private."""
    positive = label == 1
    count, rest = int(positive.sum()), int((~positive).sum())
    if not count or not rest:
        raise UsageError("the held-out patients are all of one class; use fewer folds")
    ranks = rankdata(score)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * rest))


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
        return self.seen

    def keep_head(self, hospital: str, head: Head) -> None:
        """Simulated hospitals keep no ledger; theirs has one row for ever."""
        self.seen[hospital] = head

    def event(self, kind: str, **facts: object) -> None:
        if kind == "round":
            self.seconds.append(float(str(facts["seconds"])))

    def stop_requested(self) -> bool:
        return False


def _split(checked: Checked, key: bytes, low: float, high: float) -> Snapshot:
    aside = {name for name in checked.patient_ids if low <= position(key, name) < high}
    return Snapshot.divided(checked, aside)


def _test_patients(fold: Fold) -> tuple[Floats, Floats]:
    held = [snapshot.held_out for snapshot in fold.snapshots.values()]
    return (
        np.concatenate([patients.inputs for patients in held]),
        np.concatenate([patients.labels for patients in held]),
    )


def _unprotected(snapshots: list[Snapshot], test: tuple[Floats, Floats]) -> float:
    """AUC of an ordinary logistic regression on these hospitals' patients, without privacy."""
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
    return exact_auc(test[0] @ found.x[:-1] + found.x[-1], test[1])
