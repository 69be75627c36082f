"""Simulations in a notebook or a script, on data you may see: ``flo.simulate``, ``flo.compare``.

    study = flo.load("examples/heart/study.toml")
    result = flo.simulate(study, compare=True)
    result.auc, result.interval
    result                                  # in a notebook: a table and plots

All numbers are exact, so the results are not private. Data that a site's ledger protects is
refused.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flo.documents.document import read_toml
from flo.errors import RefusedError, UsageError
from flo.lab.result import Simulation
from flo.lab.simulation import Engine, Progress, load_hospitals
from flo.lab.simulation import simulate as _simulate
from flo.pages.plots import Plane, intervals, plane
from flo.pages.templates import Pages
from flo.privacy.report.wording import trust
from flo.scores.metrics import (
    Scores,
    calibration,
    calibration_curve,
    difference,
    interval,
    roc,
)
from flo.study.document import Study
from flo.study.encoders import Encoders
from flo.study.features import input_names
from flo.study.loading import load as _load

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "SimulationResult", "compare", "load", "simulate"]
_ENGINES = ("loop", "ray")
_GROUPS = 10  # points of a calibration plot
_LEAST_SHOWN = 0.5  # AUC at the left of a plot: chance
TableRow = tuple[str, float, float, float]


@dataclass(frozen=True, repr=False)
class SimulationResult(Simulation):
    """A simulation with a text and an HTML representation for notebooks."""

    def __repr__(self) -> str:
        low, high = self.interval
        cost = self.study.mechanism
        noise = "" if self.noise is None else f", ± {self.noise:.3f} by noise"
        return (
            f"{self.study.name}, ε = {cost.epsilon:g}, δ = {cost.delta:g}: "
            f"{self.measure} {self.auc:.3f} ({low:.3f} to {high:.3f} over patients{noise}), "
            "not private"
        )

    @property
    def rows(self) -> list[TableRow]:
        """(name, low, AUC, high) of each way of training, with 95 % intervals."""
        ways = (
            (f"ε = {self.study.mechanism.epsilon:g}", self.private),
            ("pooled, not private", self.pooled),
            ("each alone, tested on all", self.elsewhere),
        )
        return [_row(name, tests) for name, tests in ways if tests]

    @property
    def table(self) -> pd.DataFrame:
        """One row per hospital: ``patients``, ``positive`` patients, AUCs and Brier scores."""
        import pandas as pd

        columns = ["patients", "positive", "auc", "auc_finished", "auc_pooled", "auc_alone"]
        columns += ["brier", "brier_finished", "brier_alone"]
        found = pd.DataFrame.from_dict(self.hospitals, orient="index")
        return found[[name for name in columns if name in found]]

    @property
    def coefficients(self) -> pd.Series | pd.DataFrame:
        """Coefficients of a logistic model by input, averaged over all trained models.

        The last is the intercept. Of several classes each has a column of them.

        Raises:
            UsageError: another kind of model.
        """
        import pandas as pd

        if self.study.model.kind != "logistic":
            raise UsageError(f"a model of kind {self.study.model.kind} has no coefficients")
        names = [*input_names(self.study.data), "intercept"]
        mean = np.mean(self.models, axis=0)
        if classes := self.study.data.classes:
            slopes, intercepts = mean[: -classes.codes], mean[-classes.codes :]
            rows = np.vstack([slopes.reshape(classes.codes, -1).T, intercepts])
            return pd.DataFrame(rows, index=names, columns=list(classes.classes))
        return pd.Series(mean, index=names)

    def _repr_html_(self) -> str:
        if self.study.data.outcome is not None:  # its plots are of yes and no
            return f"<pre>{html.escape(repr(self))}</pre>"
        curves = [("this study", roc(self.private))]
        if self.pooled:
            curves.append(("pooled", roc(self.pooled)))
        curves.append(("a coin", [(0.0, 0.0), (1.0, 1.0)]))
        ticks = [(n / 4, f"{n / 4:g}") for n in range(5)]
        return _shown(
            self.rows,
            title=f"{self.study.name}, version {self.study.version}",
            trust=trust(self.study),
            curves=plane(curves, most_across=1.0, least_top=1.0, across=ticks),
            hospitals=self.hospitals,
            compared=bool(self.pooled),
            noise=self.noise,
            calibration=calibration(self.private),
            risks=self._risk_plot() if self.pooled else None,
            verdict=self.verdict,
        )

    def _risk_plot(self) -> Plane:
        """Plot observed against predicted risk, in groups of rising risk."""
        ways = [("as scored", self.private), ("on the card", self.calibrated)]
        ways += [("finished", self.finished)]
        lines = [
            (
                name,
                [
                    (risk, share)
                    for risk, share, _ in calibration_curve(
                        np.concatenate([test.scores for test in tests]),
                        np.concatenate([test.labels for test in tests]),
                        _GROUPS,
                    )
                ],
            )
            for name, tests in ways
            if tests
        ]
        most = max(max(point) for _, points in lines for point in points)
        ticks = [(n / 10, f"{n / 10:g}") for n in range(11) if n / 10 <= most]
        lines.append(("as predicted", [(0.0, 0.0), (most, most)]))
        return plane(lines, most_across=most, least_top=most, across=ticks)


@dataclass(frozen=True, repr=False)
class Comparison:
    """Several results, by name."""

    results: Mapping[str, SimulationResult]

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {result!r}" for name, result in self.results.items())

    def __getitem__(self, name: str) -> SimulationResult:
        return self.results[name]

    @property
    def rows(self) -> list[TableRow]:
        """One row for each result, in the given order."""
        return [_row(name, result.private) for name, result in self.results.items()]

    @property
    def differences(self) -> list[TableRow]:
        """(name, low, middle, high): each AUC minus the first result's, on the same patients.

        Raises:
            UsageError: they were tested on other patients.
        """
        (_, first), *rest = self.results.items()
        return [(name, *difference(one.private, first.private)) for name, one in rest]

    def _repr_html_(self) -> str:
        if any(one.study.data.outcome is not None for one in self.results.values()):
            return f"<pre>{html.escape(repr(self))}</pre>"
        return _shown(self.rows, title="Compared", differences=self.differences)


def load(path: Path | str) -> Study:
    """Read a study from its TOML. Raises StudyError or UsageError."""
    return _load(Path(path))


def simulate(
    study: Study | Path | str,
    data: Path | str | Mapping[str, pd.DataFrame] | None = None,
    *,
    epsilon: float | None = None,
    noise: str | None = None,
    folds: int = 5,
    seeds: int = 1,
    redraws: int = 1,
    compare: bool = False,
    years: int | None = None,
    id_column: str = "patient_id",
    encoders: Path | str | None = None,
    fast: bool = True,
    engine: str = "loop",
    unsafe_not_private: bool = False,
    progress: Progress = lambda text: None,
) -> SimulationResult:
    """Cross-validate a study, with the trainer, the rounds and the noise of a real run.

    Args:
        study: a study, or the path of its TOML.
        data: folder with HOSPITAL.csv or HOSPITAL.parquet, or a DataFrame for each hospital; the
            study's own data set by default.
        epsilon, noise: replace the study's values.
        folds, seeds: folds of the cross-validation, and repetitions of it with other folds.
        redraws: how often each fold is trained with new noise, to measure the noise alone.
        compare: add the models that hospitals finish at home, regressions without privacy, pooled
            and alone, and a verdict.
        years: repeat the study with patients who arrive over so many years, each time with those
            who have budget, and let its model go on learning.
        encoders: folder with the study's encoders, each a file DIGEST.onnx.
        fast: sum in the clear instead of through masks; same noise, same ε.
        engine: ``loop`` in this process, or ``ray``, Flower's simulation runtime, which also sums
            in the clear.
        unsafe_not_private: allow data that a site's ledger protects.

    Raises:
        UsageError: no data, or incompatible settings. DataError: data that do not fit the study.
        RefusedError: data that a ledger protects. StudyError: the study is not valid.
    """
    if engine not in _ENGINES or (fast and engine == "ray"):
        raise UsageError(f"engine {engine} is not one of {', '.join(_ENGINES)}; fast needs loop")
    if noise not in (None, "local", "distributed"):
        raise UsageError(f"noise {noise} is not one of local, distributed")
    chosen = study if isinstance(study, Study) else load(study)
    given = Path(data) if isinstance(data, str | Path) else data
    if isinstance(given, Path) and not unsafe_not_private:
        refuse_registered(given)
    if epsilon is not None:
        chosen = chosen.with_epsilon(epsilon)
    if noise is not None:
        masking = "on" if noise == "distributed" else chosen.mechanism.masking
        chosen = chosen.with_mechanism(noise=noise, masking=masking)
    run: Engine | None = None
    if engine == "ray":
        from flo.lab.ray_engine import run_on_ray

        run = run_on_ray
    progress("loading patients")
    found = _simulate(
        chosen,
        load_hospitals(chosen, given, id_column, _encoders(encoders, progress)),
        fold_count=folds,
        seeds=seeds,
        redraws=redraws,
        compare=compare,
        years=years,
        fast=fast,
        engine=run,
        progress=progress,
    )
    return SimulationResult(**vars(found))


def compare(results: Mapping[str, SimulationResult]) -> Comparison:
    """Group results by name, such as results of several ε.

    Raises:
        UsageError: no results, or an object that is not a result.
    """
    try:
        named = dict(results)
    except (TypeError, ValueError):
        named = {}
    if not named or not all(isinstance(result, SimulationResult) for result in named.values()):
        raise UsageError(
            "flo.compare needs results of flo.simulate, by name",
            hint='flo.compare({"one": result, "other": another})',
        )
    return Comparison(named)


def _row(name: str, tests: list[Scores]) -> TableRow:
    low, high = interval(tests)
    return name, low, sum(test.auc for test in tests) / len(tests), high


def _shown(rows: list[TableRow], title: str, **values: object) -> str:
    optional = [
        *("trust", "curves", "hospitals", "compared", "noise", "calibration", "verdict"),
        *("risks", "differences"),
    ]
    least = min([_LEAST_SHOWN, *(low for _, low, _, _ in rows)])
    return Pages(Path(__file__).parent, base="").text(
        "notebook.html.j2",
        title=title,
        rows=rows,
        aucs=intervals(rows, least, 1.0),
        **(dict.fromkeys(optional) | values),
    )


def refuse_registered(directory: Path) -> None:
    """Raise RefusedError if a site's ledger protects a file or folder at ``directory``."""
    given = {path.resolve() for path in (directory, *directory.glob("*"))}
    for parent in {directory.resolve(), *(parent for path in given for parent in path.parents)}:
        for config in (parent / "site.toml", *parent.glob("*/site.toml")):
            if not config.is_file():
                continue
            populations = read_toml(config).get("populations", [])
            sources = [p.get("source", {}) for p in populations]
            places = [p.get("file") for p in populations]
            places += [source.get(name) for source in sources for name in ("folder", "labels")]
            files = {Path(str(place)).resolve() for place in places if place}
            if files & given:
                raise RefusedError(
                    f"{directory} holds data that the ledger of {config.parent} protects",
                    hint="a simulation prints exact numbers; --unsafe-not-private (in Python "
                    "unsafe_not_private=True) allows it",
                )


def _encoders(folder: Path | str | None, progress: Progress) -> Encoders | None:
    if folder is None:
        return None
    from flo.clients.data_process.encoding import InstalledEncoders

    return InstalledEncoders(
        Path(folder), progress=lambda done, of: progress(f"encoded {done:,} of {of:,} records")
    )
