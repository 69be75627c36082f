"""``flo study new`` and ``check``: write a study, and explain it before it is launched."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flo.cli import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import EncodersFolder, StudyFile
from flo.cli.terminal.results import FileWrittenResult

if TYPE_CHECKING:
    from flo.lab.advice import Candidate
    from flo.lab.network_size import NetworkSize
    from flo.study.document import Study


app = typer.Typer()


@command(app)
def new(
    csv: Annotated[Path, typer.Argument(help="A CSV file whose header names the columns.")],
    name: Annotated[str, typer.Option(help="Name of the study.")],
    label: Annotated[
        str, typer.Option(help="Column with the label: 0 or 1, or what --outcome says.")
    ],
    hospital: Annotated[
        list[str], typer.Option(help="HOSPITAL:SIZE, once for each, size rounded.")
    ],
    number: Annotated[
        list[str] | None, typer.Option(help="COLUMN:MINIMUM:MAXIMUM:UNIT, once for each.")
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="COLUMN:CODE,CODE,... once for each.")
    ] = None,
    may_be_missing: Annotated[
        list[str] | None, typer.Option(help="COLUMN that may have missing cells, once for each.")
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option(
            help="If not yes or no: time:COLUMN:UNIT:HORIZON,...:EXPECTED, "
            "number:UNIT:LEVEL,..., count:UNIT:LEVEL,... or classes:CODE,..."
        ),
    ] = None,
    id_column: Annotated[str, typer.Option(help="The patient id; never part of a study.")] = (
        "patient_id"
    ),
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Ask for tables instead of training a model.")
    ] = False,
    survival: Annotated[
        str | None,
        typer.Option(help="COLUMN with the time until the label's event: ask for a curve, too."),
    ] = None,
    regression: Annotated[
        bool, typer.Option("--regression", help="Ask how the label depends on all other columns.")
    ] = False,
    catalogue: Annotated[
        bool, typer.Option("--catalogue", help="Count all pairs of columns, for flo study ask.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where to write the study.")] = Path("study.toml"),
) -> FileWrittenResult:
    """Draft a study of the columns that you declare; read only the header of the file."""
    from flo.cli.terminal.output import say
    from flo.errors import UsageError
    from flo.study.scaffold import Questions, scaffold, some

    if out.exists():
        raise UsageError(f"{out} already exists", hint="choose another --out, or move the file")

    declared = (number or [], category or [], may_be_missing or [])
    draft = scaffold(
        *(csv, name, label, hospital, *declared, id_column),
        questions=Questions(statistics, survival, regression, catalogue),
        outcome=outcome,
    )
    out.write_text(draft.text, encoding="utf-8")
    if draft.left_out:
        say(f"not declared, so not in the study: {some(draft.left_out)}")
        say("  hospitals remove them from their files, or map or ignore them (flo site map)")
    say(f"{out} written; complete purpose and legal basis, then: flo study check {out}")
    return FileWrittenResult(str(out))


def show_emission(study: Study) -> None:
    """Show what a run is expected to use and emit, and whether it may wait."""
    from flo.carbon.grams import SECONDS, WATTS, planned
    from flo.carbon.intensity import WORLD
    from flo.cli.terminal.output import say

    rounds, hospitals = max(study.mechanism.steps, 1), len(study.hospitals)
    found = planned(rounds, hospitals)
    say(
        f"electricity: about {1000 * found.kwh:,.1f} Wh, {found.grams:,.1f} g of CO2, if a round "
        f"takes {SECONDS:.0f} s, a hospital's machine {WATTS:.0f} W and a kWh makes {WORLD:.0f} g"
    )
    if study.limits.start_within:
        say(
            f"it starts within {study.limits.start_within} of the last approval, in the hour that "
            "is expected to emit least"
        )


@command(app)
def encoder(
    file: Annotated[Path, typer.Argument(help="The encoder's ONNX file.")],
    name: Annotated[str, typer.Option(help="What people call it, such as ViT-S/16.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="The tokenizer.json of an encoder of notes.")
    ] = None,
) -> results.EncoderDescribedResult:
    """Try a frozen encoder out, and print the lines of a study's column that name it."""
    from flo.cli.terminal.output import plain, say, working
    from flo.clients.data_process.encoder_file import TakesNote
    from flo.clients.data_process.encoding import (
        examine,
        in_words,
        read_encoder,
        refuse_without_tokenizers,
    )
    from flo.documents import canonical
    from flo.documents.document import parse
    from flo.errors import UsageError
    from flo.study.encoders import Encoder, NoteEncoder

    data, words = read_encoder(file), b""
    digest = canonical.digest(data)
    parse(Encoder, {"name": name, "file": digest, "features": 1}, "the encoder's name")
    if tokenizer is not None:
        refuse_without_tokenizers()
        words = read_encoder(tokenizer)
    with working("trying the encoder out"):
        facts = examine(data, tokenizer=words)
    stated = Encoder(name=name, file=digest, features=facts.features)
    lines: dict[str, object] = {}
    if isinstance(facts.takes, TakesNote):
        if not words:
            raise UsageError(
                f"{file.name} takes the tokens of notes, and no tokenizer is given",
                hint="--tokenizer tokenizer.json, which comes with the network",
            )
        stated = NoteEncoder(
            **stated.model_dump(), tokenizer=canonical.digest(words), tokens=facts.takes.tokens
        )
    else:
        lines = facts.takes.model_dump()
    lines["encoder"] = f"{{ {', '.join(_toml(stated.model_dump()))} }}"
    say(plain(f"# {in_words(facts)}"))
    for key, value in lines.items():
        say(plain(f"{key} = {value}"))
    return results.EncoderDescribedResult(digest, facts.model_dump(mode="json"))


@command(app)
def pack(
    file: Annotated[Path, typer.Argument(help="Your network as an ONNX file.")],
    name: Annotated[str, typer.Option(help="Lower-case letters, digits and hyphens.")],
    numbers: Annotated[
        Path | None,
        typer.Option(help="Freeze all but --train; write the frozen numbers to this file."),
    ] = None,
    train: Annotated[
        list[str] | None, typer.Option(help="A part that is trained, by its name in torch.")
    ] = None,
    adapt: Annotated[
        list[str] | None, typer.Option(help="A frozen part that gets low-rank adapters.")
    ] = None,
    rank: Annotated[int, typer.Option(min=1, max=256, help="Of the adapters.")] = 4,
) -> results.PackResult:
    """Translate a network of your own into a model pack, and print a study's lines for it."""
    import json

    from flo.cli.terminal.output import plain, say, working
    from flo.clients.data_process.encoding import read_encoder, refuse_without_onnx
    from flo.errors import UsageError
    from flo.lab.adapters import Asked
    from flo.lab.onnx_pack import frozen_pack_of, pack_of
    from flo.storage.files import write_public
    from flo.study import networks

    refuse_without_onnx()
    if (numbers is None) != (train is None) or (adapt and not train):
        raise UsageError(
            "--numbers and --train go together: the file of the frozen numbers, and what is not "
            "frozen",
            hint="--numbers FILE.safetensors --train head, with --adapt for adapters",
        )
    if numbers is not None and (numbers.suffix != ".safetensors" or numbers.exists()):
        raise UsageError(f"--numbers {numbers} must be a new file NAME.safetensors")
    with working("translating the network"):
        if numbers is None:
            made = pack_of(read_encoder(file), name)
        else:
            asked = Asked(tuple(train or ()), tuple(adapt or ()), rank)
            made, data = frozen_pack_of(read_encoder(file), name, asked)
            write_public(numbers, data)
    size = networks.size(made.network)
    say(f"# {len(made.layers)} layers, {size:,} parameters; digest {made.digest}")
    say(plain("[model]"))
    say(plain(f"kind = {json.dumps(made.kind)}"))
    say(plain(f"name = {json.dumps(made.name)}"))
    if made.numbers:
        say(plain(f"numbers = {json.dumps(made.numbers)}"))
    say(plain("layers = ["))
    for layer in made.layers:
        values = layer.model_dump(mode="json")
        said = ", ".join(f"{key} = {json.dumps(one)}" for key, one in values.items() if one != [])
        say(plain(f"  {{ {said} }},"))
    say(plain("]"))
    return results.PackResult(made.digest, size, [one.in_words for one in made.layers])


def _toml(values: dict[str, Any]) -> list[str]:
    import tomli_w

    return tomli_w.dumps(values).splitlines()


@command(app)
def check(
    study: StudyFile,
    years: Annotated[
        int | None,
        typer.Option(min=2, max=50, help="Plan it for patients who arrive over so many years."),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="CSV of patients like the study's: how precise regressions are."),
    ] = None,
    encoders: EncodersFolder = None,
) -> results.StudyCheckedResult:
    """Explain a study in plain language: data that leave, σ, ε, budget shares, expected quality."""
    from flo.cli.terminal.output import console, say, show_sheet, working
    from flo.clients.data_process.encoding import learn_frozen
    from flo.clients.data_process.trainer import private_step
    from flo.lab import advice
    from flo.lab.network_size import network_size
    from flo.lab.years import study_of_a_year
    from flo.privacy.accounting.plan import Plan
    from flo.privacy.accounting.readable import refuse_unreadable
    from flo.privacy.accounting.spending import of_training
    from flo.privacy.report.sheet import sections
    from flo.study.loading import load
    from flo.study.models import as_many_threads_as_help, gains_from_threads
    from flo.study.yes_or_no import require_yes_or_no

    with working("calibrating noise"):
        loaded = load(study)
        loaded.refuse_identifying()
        learn_frozen(loaded, encoders)
        refuse_unreadable(loaded)
        if years:
            require_yes_or_no(loaded, "a study that is repeated over years")
            study_of_a_year(loaded, 0, years)  # refuses too many before the study is explained
        unwritten = loaded.unwritten
        parts = sections(loaded)
        plan = Plan.of(loaded)
        prv = plan.epsilon_prv
    if unwritten:
        say(f"[bold yellow]not finished:[/] still the draft's text: {' and '.join(unwritten)}")
    show_sheet(parts, console())
    show_emission(loaded)
    if prv is None:
        say("no third opinion on ε: Opacus does not load on this system")
    else:
        say(f"a third method, Opacus' PRV accountant, gives at most ε = {prv:.4f}")
    if plan.epsilon >= 1:
        say("\n[bold yellow]ε is 1 or more:[/] every site's policy must allow it.")
    gains = gains_from_threads(loaded)
    with working("trying how patients are kept apart"), as_many_threads_as_help(gains=gains):
        step = private_step(loaded, "cpu")
    if step:
        say(f"gradients on this machine's CPU: {'; '.join([step.way.name, *step.reasons])}")
    with working("trying it on made-up patients") as status:
        found = advice.candidates(loaded, status.update)
        twin = (
            []
            if found or not loaded.trains or loaded.model.kind == "logistic"
            else advice.candidates(advice.logistic_surrogate(loaded))
        )
    advised = advice.recommended(found or twin).advised if found or twin else None
    if found:
        _show_ways(loaded, found)
    else:
        say(f"not tried on made-up patients: {advice.unsupported_reason(loaded)}")
        if loaded.trains:
            say("  flo simulate tries it on data you may see")
    size = network_size(loaded)
    if size:
        _show_size(size)
    if twin:
        worst = advice.recommended(twin).worst
        what = "advised against" if advised is False else "a smaller model is advised"
        say(
            f"[bold]{what}:[/] a logistic model keeps AUC {worst.without - worst.lost:.2f} of "
            f"{worst.without:.2f}; on five real tables at ε = 0.5 it was better than FedAvgM "
            "networks of any size"
        )
        advised = advised and None  # what holds for a logistic model may not hold for a network
    if size and size.enough is False:
        advised = False
    over_years = _over_years(loaded, years) if years else None
    precise = _precision(loaded, like) if like else None
    loaded.refuse_unfinished()
    return results.StudyCheckedResult(
        study=loaded.name,
        digest=loaded.digest,
        epsilon=plan.epsilon,
        epsilon_pld=plan.epsilon_pld,
        epsilon_prv=prv,
        delta=loaded.mechanism.delta,
        sigma=plan.purpose(of_training(plan.purposes)[-1]).mechanism.noise_multiplier,
        steps=loaded.mechanism.steps,
        ways=[
            {
                "mechanism": way.study.mechanism.model_dump(mode="json"),
                **{"share_of_life": way.share, "advised": way.advised, "limit": way.limit},
                "trials": [asdict(trial) for trial in way.trials],
            }
            for way in found
        ],
        recommended=advice.recommended(found).changes(loaded) if found else None,
        advised=advised,
        network=asdict(size) | {"enough": size.enough} if size else None,
        years=over_years,
        regressions=precise,
    )


def _precision(study: Study, like: Path) -> dict[str, Any]:
    """Show how wide the intervals of regressions will be, if patients are like those of a file."""
    from flo.cli.terminal.output import plain, say
    from flo.lab.foresight import foresee_all
    from flo.statistics.precision import WIDE

    found = foresee_all(study, like)
    for name, one in found.items():
        if not one.shown:
            said = "[bold red]nothing will be shown:[/] the noise hides it at this ε"
        elif one.widest > WIDE:
            said = f"[bold yellow]wide:[/] intervals up to {one.widest:.1f} times as wide as"
        else:
            said = f"intervals up to {one.widest:.1f} times as wide as"
        end = " without privacy" if one.shown else ""
        say(f"{plain(name)}, if patients are like those of {plain(like.name)}: {said}{end}")
    if not found:
        say("the study has no regressions, so --like says nothing")
    return {name: asdict(one) | {"shown": one.shown} for name, one in found.items()}


def _over_years(study: Study, years: int) -> dict[str, Any]:
    """Show what repeated studies would learn, and what to write into each of them."""
    from flo.cli.lab import by_year
    from flo.cli.terminal.output import console, plain, say, working
    from flo.lab.planned_years import plan_years

    with working("planning years") as status:
        plan = plan_years(study, years, status.update)
    say(f"\n[bold]over {years} years,[/] if equal numbers arrive and this study is repeated:")
    if plan.aucs is not None:
        say("each patient takes part once; AUC of made-up patients, not of your columns")
        console().print(by_year(plan.aucs.document))
    for life, count in plan.studies.items():
        takes_part = {0: "no such study fits", 1: "a patient takes part once"}.get(
            count, f"a patient takes part in up to {count} such studies"
        )
        say(f"  where the life budget is ε = {life:g}: {takes_part}")
    say("  write for each year: schema_version = 4, another version, and what is expected:")
    for hospital, expected in plan.expected.items():
        say(f"    {plain(hospital)}: expected = {expected}")
    say("  and from the second year on, with the card of the year before:")
    say(plain('    [continues]\n    models = ["..."]  # the digest that `flo model show` states'))
    return {
        "expected": plan.expected,
        "studies": {f"{life:g}": count for life, count in plan.studies.items()},
        "years": plan.aucs.document if plan.aucs else None,
    }


def _show_size(size: NetworkSize) -> None:
    """Say whether the patients suffice for a network, and what a smaller model would do."""
    from flo.cli.terminal.output import say
    from flo.lab.network_size import LARGEST_TRIED, MOST_NOISE

    noise = f"its noise is {size.relative_noise:.4f} of the largest step of all patients together"
    if size.enough is False:
        say(
            f"[bold yellow]too few patients for a network:[/] {noise}, and a network needs "
            f"{MOST_NOISE:g} or less: {size.patients_needed:,} patients who train, and "
            f"{size.patients:,} are expected. A larger ε or a logistic model is the way out; a "
            "smaller network is not"
        )
    elif size.enough is None:
        say(
            f"model size: {size.parameters:,} parameters, more than the {LARGEST_TRIED:,} that "
            f"were tried; {noise}, which smaller networks bear (limit {MOST_NOISE:g})"
        )
    else:
        say(
            f"model size: {size.parameters:,} parameters; {noise}, which networks of up to "
            f"{LARGEST_TRIED:,} parameters bear (limit {MOST_NOISE:g})"
        )
    if not size.of_a_table:
        say("  on LIDC a logistic model on pixels or wavelets (scattering = 3) did as well")


def _show_ways(study: Study, found: list[Candidate]) -> None:
    """Show the study as it is and as it would be drafted; recommend one, and advise on it."""
    import json

    from rich.table import Table

    from flo.cli.terminal.output import console, plain, say
    from flo.lab import advice
    from flo.lab.made_up import share_of
    from flo.study.wording import measure_of

    table = Table(
        *("training", "rounds", "life budget", share_of(study.data.outcome)),
        *(f"{measure_of(study)} without privacy", "lost"),
        title="On made-up patients: the effect of noise at this size, not of your columns",
    )
    best = advice.recommended(found)
    for way in found:
        asked = way.study.mechanism
        for trial in way.trials:
            first = trial is way.trials[0]
            table.add_row(
                asked.algorithm if first else "",
                str(asked.steps) if first else "",
                f"{way.share:.0%}" if first else "",
                f"{trial.share:.0%}",
                f"{trial.without:.3f}",
                f"{trial.lost:.3f} ± {trial.error:.3f}",
                style="bold" if way is best else None,
            )
    console().print(table)
    say(_advice(best))
    changes = best.changes(study)
    if not changes:
        return say(f"[bold]recommended:[/] {best.study.mechanism.algorithm}, as the study has it")
    say(f"[bold]recommended:[/] {best.study.mechanism.algorithm}, which loses less here")
    say(f"  change under {plain('[mechanism]')} of the study:")
    for name, value in changes.items():
        say(f"    {plain(name)} = {plain(json.dumps(value))}")


def _advice(way: Candidate) -> str:
    """Return in words whether to run a study that is trained in this way."""
    from flo.lab.made_up import in_these_worlds
    from flo.study.wording import measure_of

    worst, limit, measure = way.worst, f"{way.limit:g}", measure_of(way.study)
    if way.advised:
        return (
            f"[bold green]advised,[/] if {in_these_worlds(way.study.data.outcome)}: even in the "
            f"worst of these worlds it loses at most {max(0.0, worst.at_most_lost):.3f} {measure} "
            f"(limit {limit})"
        )
    if way.advised is None:
        return (
            "[bold yellow]made-up patients cannot tell:[/] whether it loses more than "
            f"{limit} {measure} depends on your columns; flo simulate tries it on data you may see"
        )
    return (
        f"[bold red]advised against:[/] at this size noise takes {way.lost:.2f} {measure} on "
        f"average (limit {limit}). More patients or more ε would help, more records of the "
        "same patients would not"
    )
