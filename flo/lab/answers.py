"""Statistics in a notebook or a script: of data that one may see, or from a signed file.

answers = flo.answer("examples/paper/support2.toml")      # with the noise of a real run
answers = flo.results("questions-run-1.statistics.json", coordinator="1a2b ...")
answers.table                                             # a DataFrame of all estimates
answers.ask("age >= 60 and sex = female")                 # if the study has a catalogue
answers                                                   # in a notebook: tables and plots
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flo.clients.records.snapshot import Snapshot
from flo.errors import UsageError
from flo.keys.identity import parse_fingerprint
from flo.lab.folds import Fold
from flo.lab.notebook import load, refuse_registered
from flo.lab.simulation import load_hospitals, run_once
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases.fisher_scoring import rounds_of
from flo.published.statistics_result import read_result
from flo.statistics.catalogue import CatalogueRead
from flo.statistics.frames import frame
from flo.statistics.page import render
from flo.statistics.questions import Answer
from flo.statistics.questions import ask as _ask
from flo.statistics.reading import PartRead, read
from flo.study.document import Study

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Answers:
    """Statistics with a text and an HTML representation. ``facts``: (label, text) about them."""

    study: Study
    parts: list[PartRead]
    facts: list[tuple[str, str]] = field(default_factory=list)

    @property
    def table(self) -> pd.DataFrame:
        """One row for each estimate: part, group, column, statistic, item, value, low, high."""
        return frame(self.parts)

    def ask(self, question: str) -> Answer:
        """Answer a question about one or two columns. Raises UsageError, also if there is no
        catalogue.
        """
        for part in self.parts:
            if isinstance(part, CatalogueRead):
                return _ask(part, question)
        raise UsageError(f"{self.study.name} has no catalogue, so it answers no other questions")

    @property
    def html(self) -> str:
        """A page with all tables and plots."""
        return render(self.study, self.parts, self.facts)

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        names = ", ".join(part.name for part in self.parts)
        return f"{self.study.name}, ε = {Plan.of(self.study).epsilon:.4f}: {names}"


def answer(
    study: Study | Path | str,
    data: Path | str | Mapping[str, pd.DataFrame] | None = None,
    *,
    id_column: str = "patient_id",
    unsafe_not_private: bool = False,
) -> Answers:
    """Answer a study of statistics on data that one may see, with rounds and noise of a real run.

    Args:
        study: a study of statistics, or the path of its TOML.
        data: folder with HOSPITAL.csv or HOSPITAL.parquet, or a DataFrame for each hospital; the
            study's own data set by default.
        unsafe_not_private: allow data that a site's ledger protects: nothing is charged.

    Raises:
        UsageError: the study asks no statistics, or no data. DataError: data that do not fit.
        RefusedError: data that a ledger protects. StudyError: the study is not valid.
    """
    chosen = study if isinstance(study, Study) else load(study)
    if chosen.statistics is None:
        raise UsageError(
            f"{chosen.name} asks no statistics", hint="flo.simulate is for studies that train"
        )
    given = Path(data) if isinstance(data, str | Path) else data
    if isinstance(given, Path) and not unsafe_not_private:
        refuse_registered(given)
    hospitals = load_hospitals(chosen, given, id_column)
    fold = Fold({name: Snapshot.divided(table, set()) for name, table in hospitals.items()})
    state, _ = run_once(chosen, fold, fast=True)
    noise = {
        purpose: combined_variance(chosen, part, len(hospitals))
        for purpose, part in Plan.of(chosen).purposes.items()
    }
    variances = [noise.get("regression", 0.0)] * len(state.regressed_of)
    rounds = rounds_of(state.regressed, state.regressed_at, variances, state.regressed_of)
    sums = np.asarray(state.sums, dtype=np.float64)
    parts = read(chosen, sums, noise.get("statistics", 0.0), rounds)
    facts = [
        ("hospitals", ", ".join(hospitals)),
        ("made", "in one process, on data that it can see, with the noise of a real run"),
    ]
    return Answers(chosen, parts, facts)


def results(path: Path | str, *, coordinator: str) -> Answers:
    """Read a signed result, NAME.statistics.json.

    Args:
        coordinator: the fingerprint of the coordinator's key, compared by telephone.

    Raises:
        UsageError, MessageError: no such file, or another form. TrustError: another key signed it,
        or it contradicts its study.
    """
    found = read_result(Path(path))
    study = found.check(parse_fingerprint(coordinator))
    parts = read(study, found.noisy(), found.variance(study), found.released(study))
    return Answers(study, parts, found.facts(study))
