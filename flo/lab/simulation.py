"""``flo simulate``: the same study and the same handlers, many hospitals in one process.

All but the network is real: the trainer of ``flo.clients``, the round loop of ``flo.server``, the
noise of ``flo.privacy``, and messages that are encoded and decoded. The simulation sees all
patients at once and prints exact numbers, so its results are *not private* and say so.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
from scipy.special import logit

from flo.clients.home.site_config import open_table
from flo.clients.quality.check import EncodedTable, encode_checked
from flo.clients.sources.files import DataFrameSource
from flo.clients.sources.source import DataSource
from flo.datasets import DATASETS
from flo.errors import DataError, UsageError
from flo.keys.claims import LedgerHead
from flo.lab import comparison
from flo.lab.by_year import Years
from flo.lab.folds import Fold, folds, scored, scores_of
from flo.lab.hospitals import RUN, SimulatedSites, enrol, run_keys
from flo.lab.in_the_clear import run_in_the_clear, trainers_of
from flo.lab.judged import judged
from flo.lab.result import Simulation
from flo.lab.years import run_years, study_of_a_year
from flo.server.rounds.loop import run_study
from flo.server.rounds.state import RunState
from flo.study.document import Study
from flo.study.encoders import Encoders
from flo.study.terms import MOST_CONNECTED
from flo.study.yes_or_no import require_yes_or_no

Progress = Callable[[str], None]


def load_hospitals(
    study: Study,
    data: Path | Mapping[str, pd.DataFrame] | None,
    id_column: str,
    encoders: Encoders | None = None,
) -> dict[str, EncodedTable]:
    """Return hospital id -> checked data.

    ``data``: a folder with ``HOSPITAL.{csv,parquet}``, or with ``HOSPITAL.toml`` that describes
    tables; tables by hospital; or None for the data set that ships for the study. ``encoders``: of
    image columns that have one.

    Raises:
        UsageError: a hospital of the study has no data. DataError: some data do not fit; the
        message lists every such hospital and the reason.
    """
    if data is None:
        names = [n for n in DATASETS if f"{study.name}-".startswith(f"{n}-")]
        name = max(names, key=len, default=None)
        if name is None:
            raise UsageError(
                f"FLO ships no data set for study {study.name!r}", hint="give --data DIR"
            )
        data = DATASETS[name]()
    if encoders is not None:
        encoders.frozen(study)
    sources: dict[str, DataSource] = {}
    there = _files_by_name(data) if isinstance(data, Path) else {}
    for hospital in study.hospitals:
        if isinstance(data, Path):
            files = there.get(hospital.id)
            if not files:
                raise UsageError(f"no file {data}/{hospital.id}.csv, .parquet or .toml")
            described = [path for path in files if path.suffix == ".toml"]
            sources[hospital.id] = open_table((described or files)[0], id_column)
        elif hospital.id not in data:
            raise UsageError(f"the data have no table for hospital {hospital.id!r}")
        else:
            table = pa.Table.from_pandas(data[hospital.id], preserve_index=False)
            sources[hospital.id] = DataFrameSource(hospital.id, id_column, table)
    checked, unfit = dict[str, EncodedTable](), dict[str, DataError]()
    for name, source in sources.items():
        try:
            checked[name] = encode_checked(source, study.data, id_column, (), encoders)
        except DataError as error:
            unfit[name] = error
    if unfit:
        hints = dict.fromkeys(error.hint for error in unfit.values() if error.hint)
        raise DataError(
            "\n".join(f"{name}: {error}" for name, error in unfit.items()), hint="; ".join(hints)
        )
    return checked


def _files_by_name(folder: Path) -> dict[str, list[Path]]:
    """Return the files of a folder, in order, by what is before the first dot of their name."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.*")):
        if path.is_file():
            found.setdefault(path.name.partition(".")[0], []).append(path)
    return found


Engine = Callable[[Study, Fold], tuple[RunState, list[float]]]


def run_once(study: Study, fold: Fold, *, fast: bool = False) -> tuple[RunState, list[float]]:
    """Run the whole study on one fold. Return the final state and seconds per round."""
    enrolled, identities = enrol(study)
    if fast:
        return run_in_the_clear(enrolled, fold)
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
    years: int | None = None,
    fast: bool = False,
    engine: Engine | None = None,
    progress: Progress = lambda text: None,
) -> Simulation:
    """Cross-validate: train the whole study on each fold, test it on the held-out patients.

    ``seeds``: repetitions with other folds. ``redraws``: trainings of each fold, which differ only
    in the noise. ``years``: also repeat the study with patients who arrive over so many years
    (``flo.lab.years``). ``fast``: sum in the clear inside this process instead of through masks;
    noise and ε are the same. ``engine``: runs a study on a fold, and also sums in the clear; this
    process if None.

    Raises:
        UsageError: a study that trains no model; too few patients for the folds; fewer than two
        folds, or no seed or redraw.
    """
    for name, count, least in (
        ("folds", fold_count, 2),
        ("seeds", seeds, 1),
        ("redraws", redraws, 1),
    ):
        if count < least:
            raise UsageError(f"{name} = {count} is too few, at least {least}")
    if not study.trains:
        raise UsageError("this study trains no model", hint="simulate one that does")
    if not fast and engine is None and (count := len(study.hospitals)) > MOST_CONNECTED:
        raise UsageError(
            f"the study has {count} hospitals, and messages name {MOST_CONNECTED} at most",
            hint="simulate it with --fast, which needs no messages",
        )
    run = engine or partial(run_once, fast=fast)
    hospitals = {hospital.id: hospitals[hospital.id] for hospital in study.hospitals}
    if years is not None:
        require_yes_or_no(study, "a study that is repeated over years")
    if years is not None:
        study_of_a_year(study, 0, years)  # refuses before anything is trained
    found = Simulation(
        study,
        "none: summed in the clear" if fast or engine or not study.masked else "as deployed",
        years=None if years is None else Years(years),
    )
    study = study.without_gate()  # its current model is the coordinator's
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
                tests.append(scored(study, fold, comparison.scores_by(study, state.model)))
            found.private.extend(tests)
            found.redrawn.append([test.auc for test in tests])
            stated = None
            if compare or study.data.outcome is not None:
                stated = comparison.risks(study, fold, state.model)
                right = None if stated is None else judged(study, tests[-1], stated)
                found.stated.append(right)
            if compare:
                finished, risks = comparison.finished(study, fold, state.model, stated)
                found.finished_states.append(judged(study, finished, risks))
                calibrated = None
                if study.data.outcome is None and stated is not None:
                    calibrated = scores_of(fold, logit(stated[:, 0]))
                found.compare(
                    finished=finished,
                    calibrated=calibrated,
                    pooled=comparison.pooled(study, fold),
                    everywhere=comparison.everywhere(study, fold),
                )
            if found.years is not None:
                progress(f"seed {seed + 1}/{seeds}, fold {number + 1}/{fold_count}, by year")
                at_once = statistics.fmean(found.redrawn[-1])
                run_years(study, hospitals, fold, seed=seed, all_at_once=at_once, found=found.years)
    return found


class _InProcess:
    """All hospitals of the simulation in this process, with encoded messages."""

    def __init__(self, sites: SimulatedSites) -> None:
        self._sites = sites

    def ask(
        self, heads: Mapping[str, bytes], body: memoryview, deadline_seconds: float
    ) -> Iterator[tuple[str, bytes]]:
        for hospital, head in heads.items():
            yield hospital, self._sites.answer(hospital, b"".join((head, body)))

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
