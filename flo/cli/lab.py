"""``flo simulate``, ``flo demo``, ``flo data``: commands to try FLO on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flo.cli import results
from flo.cli.terminal.options import EncodersFolder, StudyFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from flo.study.document import Study


def simulate(
    study: StudyFile,
    data: Annotated[
        Path | None, typer.Option(help="Folder with HOSPITAL.csv or HOSPITAL.parquet files.")
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="Replaces the study's ε.")] = None,
    noise: Annotated[str | None, typer.Option(help="Replaces it: local or distributed.")] = None,
    folds: Annotated[int, typer.Option(min=2, max=50, help="Cross-validation folds.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Repetitions.")] = 1,
    redraws: Annotated[
        int, typer.Option(min=1, max=1000, help="Trainings of each fold, each with new noise.")
    ] = 1,
    compare: Annotated[
        bool,
        typer.Option(
            help="Add finished at home, regressions without privacy (pooled, alone), a verdict."
        ),
    ] = False,
    years: Annotated[
        int | None,
        typer.Option(
            min=2, max=50, help="Patients arrive over so many years, and the study is repeated."
        ),
    ] = None,
    id_column: Annotated[str, typer.Option(help="Column with the patient id.")] = "patient_id",
    encoders: EncodersFolder = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Sum in the clear: no masks; same noise, same ε.")
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            help="loop: one process. ray: many, in Flower's simulation runtime, which opens ports."
        ),
    ] = "loop",
    unsafe_not_private: Annotated[
        bool, typer.Option("--unsafe-not-private", help="Allow data that a ledger protects.")
    ] = False,
) -> results.SimulatedResult:
    """Run a study in one process on data you may see; print exact numbers, so NOT private."""
    from flo.cli.terminal.output import console, say, working
    from flo.lab.notebook import simulate as run

    with working("loading patients") as status:
        simulated = run(
            study,
            data,
            epsilon=epsilon,
            noise=noise,
            folds=folds,
            seeds=seeds,
            redraws=redraws,
            compare=compare,
            years=years,
            id_column=id_column,
            encoders=encoders,
            fast=fast,
            engine=engine,
            unsafe_not_private=unsafe_not_private,
            progress=status.update,
        )
    result = simulated.document
    say("[bold yellow]NOT PRIVATE[/]: exact numbers on data this process can see")
    low, high = result["auc_interval"]
    measure = simulated.measure
    say(f"{measure} {result['auc']:.4f}, 95 % interval over test patients {low:.4f} to {high:.4f}")
    if result["auc_noise"] is not None:
        say(
            f"standard deviation of one model's {measure} over new noise: {result['auc_noise']:.4f}"
        )
    say(f"ε = {result['epsilon']:.4f}, δ = {result['delta']:g}, {result['trust_model']}")
    say(f"masks: {result['masks']}")
    if simulated.study.continues:
        say("the models that the study continues are not part of this: it starts anew")
    for name, key in (("as scored", "calibration"), ("on the card", "calibration_published")):
        if risk := result.get(key):
            say(
                f"risks {name}: predicted {risk['predicted']:.3f} on average, observed "
                f"{risk['observed']:.3f}, Brier score {risk['brier']:.3f}"
            )
    for line in _further(simulated.study, result):
        say(line)
    if (noisy := result["evaluation"]) is not None:
        say(
            f"the study's noisy evaluation: its {noisy['level']:.0%} interval contained the exact "
            f"{measure} in {noisy['covered']} of {noisy['runs']} runs; mean width "
            f"{noisy['width']:.3f}, "
            f"mean error {noisy['bias']:+.3f}"
        )
    if compare:
        say(f"pooled without privacy {result['auc_pooled']:.4f}")
        say(f"each alone without privacy, tested on all {result['auc_alone']:.4f}")
    console().print(_by_hospital(result, compare=compare))
    if found_years := result.get("years"):
        console().print(by_year(found_years))
        say(
            f"life ε of the most exposed patient: {result['life_epsilon']:.4f}, from the simulated "
            "hospitals' ledgers"
        )
    if result.get("verdict"):
        say("[bold]verdict[/]")
        for sentence in result["verdict"]:
            say(f"- {sentence}")
    return results.SimulatedResult(**result)


def _further(study: Study, result: dict[str, Any]) -> Iterator[str]:
    """Yield what is known of each horizon or class, or of the values, one line each."""

    def line(name: str, one: dict[str, Any], shown: str, unit: str = "", quality: str = "") -> str:
        said = f"{name}: predicted {one['predicted']:{shown}}{unit} on average, observed "
        said += f"{one['observed']:{shown}}{_quality(one, quality)}"
        if "predicted_finished" in one:
            said += f"; finished at home {one['predicted_finished']:{shown}}"
            said += _quality(one, f"{quality}_finished")
        return said

    for one in result.get("horizons") or ():
        unit = study.data.times.unit if study.data.times else ""
        yield line(f"risk by {one['horizon']:g} {unit}", one, ".3f")
    if (value := result.get("values")) and (quantity := study.data.quantity):
        yield line(study.data.label, value, ".3g", f" {quantity.unit}", "explained")
    for one in result.get("classes") or ():
        yield line(f"{study.data.label} {one['class']}", one, ".3f", quality="auc")


def _quality(one: dict[str, Any], key: str) -> str:
    """Return the AUC of a class, or the share of variation that is explained, if there is one."""
    if key not in one:
        return ""
    name = "AUC" if key.startswith("auc") else "share of variation explained"
    return f", {name} {'unknown' if one[key] is None else format(one[key], '.4f')}"


def by_year(years: list[dict[str, Any]]) -> Table:
    """Return a table of AUCs by year, with standard errors over runs."""
    from rich.table import Table

    ways = {
        "first_only": "first model",
        "fresh": "this year's patients only",
        "continued": "goes on learning",
        "all_at_once": "all patients at once",
    }
    table = Table("year", *ways.values())
    for one in years:
        errors = one["standard_errors"]
        cells = [
            f"{one[way]:.4f}" + ("" if errors[way] is None else f" ± {errors[way]:.4f}")
            for way in ways
        ]
        table.add_row(str(one["year"]), *cells)
    return table


def _by_hospital(result: dict[str, Any], *, compare: bool) -> Table:
    """Return a table of AUCs among each hospital's own patients, and their mean; Brier scores."""
    from rich.table import Table

    from flo.cli.terminal.output import plain

    yes_or_no = result["calibration"] is not None
    ways, risks = {"auc": "this study"}, {"brier": "Brier"} if yes_or_no else {}
    if compare:
        ways |= {"auc_finished": "finished at home"}
        ways |= {"auc_pooled": "pooled", "auc_alone": "alone"}
        risks |= {"brier_finished": "finished", "brier_alone": "alone"} if yes_or_no else {}
    counted = [
        name
        for name in ("patients", "positive")
        if all(name in one for one in result["sites"].values())
    ]
    table = Table("among its own patients", *counted, *ways.values(), *risks.values())

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    for hospital, one in result["sites"].items():
        counts = [f"{one[name]:,}" for name in counted]
        table.add_row(plain(hospital), *counts, *(shown(one[way]) for way in ways | risks))
    means = [shown(result[way.replace("auc", "auc_within")]) for way in ways]
    table.add_row("mean over hospitals", *("" for _ in counted), *means, style="bold")
    return table


def demo(
    directory: Annotated[
        Path, typer.Option("--dir", help="Folder of the demo; it replaces an earlier demo.")
    ] = Path(".demo"),
    study: Annotated[
        Path | None, typer.Option(help="A study in TOML, such as a variant of the heart study.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with HOSPITAL.csv for each hospital of the study.")
    ] = None,
) -> results.DemonstratedResult:
    """Train one private model on this machine, one process per hospital, over mutual TLS."""
    from flo.cli.demo import STUDY, run_demo

    return results.DemonstratedResult(**run_demo(directory, study or STUDY, data))


def data(
    name: Annotated[str, typer.Argument(help="heart, support2, fars, lidc or watch")],
    directory: Annotated[Path, typer.Argument(help="Where to write a file for each hospital.")],
    form: Annotated[
        str, typer.Option("--as", help="csv; of heart also parquet, sql, fhir or omop.")
    ] = "csv",
) -> results.DataWrittenResult:
    """Write a data set of real patients, one file per hospital, and the studies that use it."""
    import shutil

    from flo.cli.terminal.output import say
    from flo.datasets import CREDITS, heart, write
    from flo.datasets.sample_sources import write_as
    from flo.errors import UsageError

    studies = sorted((Path(__file__).parents[1] / "examples" / name).glob("*.toml"))
    name = {"heart": "heart-disease"}.get(name, name)
    if form == "csv":
        paths = write(name, directory)
    elif name == "heart-disease":
        paths = write_as(form, heart.load(), directory)
    else:
        hint = "--as csv; only heart has parquet, sql, fhir and omop"
        raise UsageError(f"the data set {name} can be written as csv only", hint=hint)
    copied = [shutil.copy(study, directory / study.name) for study in studies]
    files = [*map(str, paths), *map(str, copied)]
    for file in files:
        say(file)
    say(CREDITS[name])
    return results.DataWrittenResult(files, CREDITS[name])
