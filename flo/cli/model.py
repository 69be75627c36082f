"""``flo model ...``: list, show, fetch and use published models."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder
from flo.cli.terminal.results import FileWrittenResult

if TYPE_CHECKING:
    from flo.clients.prediction.finish import FinishedAtHome
    from flo.clients.prediction.flag_rule import FlagRule
    from flo.clients.prediction.predict import Predicted
    from flo.privacy.report.sheet import Section
    from flo.published.model_card import PublishedModel
    from flo.study.schema import Schema

app = typer.Typer()
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="NAME.safetensors or its card.")]
CoordinatorFingerprint = Annotated[
    str | None, typer.Option(help="The coordinator's fingerprint, if no folder at --home has it.")
]


@command(app, "list")
def list_(
    directory: Annotated[Path, typer.Argument(help="A folder with models.")] = Path("models"),
    home: SiteFolder = SITE_FOLDER,
    coordinator: CoordinatorFingerprint = None,
) -> results.ModelsResult:
    """Check and list the models in a folder."""
    from rich.table import Column, Table

    from flo.cli.terminal.output import console, plain, say
    from flo.errors import FloError
    from flo.published.card_sheet import quality_in_words
    from flo.published.model_card import PublishedModel

    trusted = trusted_coordinators(home, coordinator)
    cards, lines = sorted(directory.glob("*.card.json")), list[results.ModelLine]()
    if not cards:
        say(f"no models in {directory}; `flo model fetch STUDY` gets one from the coordinator")
        return results.ModelsResult([])
    table = Table(Column("model", overflow="fold"), "version", "ε", "AUC or concordance", "made")
    for path in cards:
        name = path.name.removesuffix(".card.json")
        try:
            model = PublishedModel.open(path, *trusted)
        except FloError as error:
            table.add_row(plain(path.name), "", "", f"[red]refused:[/] {plain(str(error))}", "")
            lines.append(results.ModelLine(name, None, None, None, None, str(error)))
            continue
        card = model.card
        auc = card.evaluation.auc if card.evaluation else None
        version = model.study.version
        lines.append(results.ModelLine(name, version, card.epsilon, auc, card.made, None))
        table.add_row(
            plain(name),
            str(version),
            f"{card.epsilon:.4f}",
            quality_in_words(card.evaluation),
            card.made[:10],
        )
    console().print(table)
    return results.ModelsResult(lines)


@command(app)
def show(
    model: ModelFile, home: SiteFolder = SITE_FOLDER, coordinator: CoordinatorFingerprint = None
) -> results.ModelShownResult:
    """Check a model's signature and show its card: study, privacy, evaluation, inputs."""
    from flo.cli.terminal.output import console, show_sheet
    from flo.published.card_sheet import sections

    opened = _open(model, home, coordinator)
    show_sheet([*sections(opened), *decisions_on(home, opened)], console())
    return results.ModelShownResult(opened.card.model_dump(mode="json"))


@command(app)
def fetch(
    study: Annotated[
        str, typer.Argument(help="Name of a study, the start of its digest, or a package's ARN.")
    ],
    home: SiteFolder = SITE_FOLDER,
    out: Annotated[Path, typer.Option(help="Folder for the model and its card.")] = Path("models"),
    coordinator: CoordinatorFingerprint = None,
) -> results.ModelFetchedResult:
    """Fetch a model from the coordinator or a registry; store it only if every check passes."""
    if study.startswith("arn:"):
        return _fetch_package(study, out, home, coordinator)
    from flo.cli.terminal.output import say, working
    from flo.clients.connection.enrolment import connect
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction.fetched_models import fetch as get

    opened = SiteHome.open(home)
    with working("fetching the model"), connect(opened) as api:
        card = get(opened, api, study, out)
    say(f"checked and stored: {card}")
    say(f"next: flo model predict {card} --data FILE --out FILE --home {home}")
    return results.ModelFetchedResult(str(card))


@command(app)
def predict(
    model: Annotated[
        str,
        typer.Argument(
            help="NAME.safetensors or its card; or the name of a model in use or finished here."
        ),
    ],
    data: Annotated[Path, typer.Option(help="CSV or Parquet with the study's columns.")],
    out: Annotated[Path, typer.Option(help="CSV for row, id and score; readable by you only.")],
    home: SiteFolder = SITE_FOLDER,
    coordinator: CoordinatorFingerprint = None,
    id_column: Annotated[str, typer.Option(help="Column to copy to the scores, if present.")] = (
        "patient_id"
    ),
    explain: Annotated[
        bool, typer.Option("--explain", help="Also write which columns raise and lower each risk.")
    ] = False,
) -> results.PredictedResult:
    """Score the patients of a file with a published or finished model; no data are sent."""
    from flo.cli.terminal.output import encoding_shown, plain, say, working
    from flo.clients.data_process.encoding import REQUIRED, InstalledEncoders
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction.predict import predict as score
    from flo.study.wording import can_change

    opened: PublishedModel | FinishedAtHome
    if _is_name(model) and not _is_decided(home, model):
        opened, rule = _open_finished(home, model), None
        refuse_withdrawn(home, opened.model)
    else:
        opened = _open_allowed(model, home, coordinator)
        rule = _flag_rule(home, opened)
    with working("predicting") as status:
        is_site = (home / "site.toml").exists()
        layers = SiteHome.open(home).read_policy().confinement if is_site else REQUIRED
        encoders = InstalledEncoders(home / "encoders", layers, encoding_shown(status))
        done = score(opened, data, out, id_column, explain=explain, rule=rule, encoders=encoders)
    say(f"{done.records} records scored in {out} by {opened.title}: {_higher(opened.study.data)}")
    say(_risks_in_words(opened, done))
    if rule is None:
        _say_unflagged(home, opened)
    else:
        each = f"a threshold for each {rule.column}" if rule.column else f"risk {rule.threshold:g}"
        say(plain(f"flagged: by {each}, as {rule.by} decided on {rule.time[:10]}: {rule.why}"))
    if explain:
        say(
            "raises, lowers: up to three columns whose direction is certain, the largest first; "
            "others may matter more. They say what the model does, not what causes the outcome"
        )
    if explain and can_change(opened.study.data):
        say(
            "if_changed: the risk of another patient with the value that the study names; not what "
            "a treatment does"
        )
    return results.PredictedResult(str(out), done.records, done.with_risk)


@command(app)
def export(
    model: ModelFile,
    out: Annotated[Path, typer.Option(help="Where to write the ONNX file.")],
    home: SiteFolder = SITE_FOLDER,
    coordinator: CoordinatorFingerprint = None,
) -> FileWrittenResult:
    """Export a checked model as ONNX, from encoded inputs to scores, for other software."""
    from flo.cli.terminal.output import say, working
    from flo.clients.prediction.scoring_ways import refuse_other_onnx
    from flo.published.onnx import to_onnx
    from flo.storage.files import write_public

    opened = _open(model, home, coordinator)
    refuse_forbidden(home, model, opened)
    with working("exporting"):
        exported = to_onnx(opened)
        refuse_other_onnx(opened, exported)
        write_public(out, exported)
    say(f"{out}: its metadata list the inputs in order; FLO's signature does not cover it")
    return FileWrittenResult(str(out))


def path_of(home: Path, model: str) -> Path:
    """Return the path that an argument is, or of the version in use of the model that it names.

    Raises UsageError: no version of it is in use here.
    """
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction import versions
    from flo.errors import UsageError

    if not _is_name(model):
        return Path(model)
    if not _is_decided(home, model):
        raise UsageError(
            f"no version of {model} was put into use here, and there is no file {model}",
            hint="give the path of a published model's card, or: flo model promote",
        )
    return versions.current_path(SiteHome.open(home), model)


def _is_name(model: str) -> bool:
    """Return whether an argument is a model's name, and not a published model's path."""
    from flo.published.model_card import paths_of

    path = Path(model)
    return path.name == model and not path.suffix and not paths_of(path)[0].is_file()


def _is_decided(home: Path, name: str) -> bool:
    """Return whether anybody has decided on a model.

    From then on, its name alone never means one that is finished here: after a withdrawal no other
    model may answer unasked.
    """
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction import versions

    return name in versions.read(SiteHome.open(home)).names


def _open_allowed(model: str, home: Path, coordinator: str | None) -> PublishedModel:
    """Open the model of a path, or the version in use of the model that a name means.

    Raises as ``refuse_forbidden``; and UsageError: no version of it is in use here.
    """
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction import allowed

    if not _is_name(model):
        path = Path(model)
        opened = _open(path, home, coordinator)
        refuse_forbidden(home, path, opened)
        return opened
    found = allowed.open_in_use(SiteHome.open(home), model)
    _say_late(found.late)
    return _open(found.path, home, coordinator)


def _flag_rule(home: Path, model: PublishedModel) -> FlagRule | None:
    """Return by which rule this hospital flags patients; None if it has none for this model."""
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction import flag_decisions

    is_site = SiteHome(home).config_path.exists()
    return flag_decisions.read(SiteHome.open(home), model) if is_site else None


def _say_unflagged(home: Path, model: PublishedModel | FinishedAtHome) -> None:
    """Say that nobody is flagged, where another version or the published model flags patients."""
    from flo.cli.terminal.output import say
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction import flag_decisions
    from flo.published.model_card import PublishedModel

    if not SiteHome(home).config_path.exists():
        return
    site = SiteHome.open(home)
    if not isinstance(model, PublishedModel):
        if flag_decisions.read(site, model.model) is not None:
            say("nobody is flagged: a finished model flags nobody, and the published one does")
    elif flag_decisions.other_version_flags(site, model):
        say(
            f"nobody is flagged: nobody decided it for version {model.study.version}, and another "
            "version flags patients; flo model flag decides"
        )


def refuse_forbidden(home: Path, path: Path, model: PublishedModel) -> None:
    """Raise PolicyError if this site's policy forbids a published model, RefusedError if it is
    withdrawn; a folder that is not a site's knows of neither."""
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction import allowed

    if SiteHome(home).config_path.exists():
        _say_late(allowed.refuse_forbidden(SiteHome.open(home), path, model))


def refuse_withdrawn(home: Path, model: PublishedModel) -> None:
    """Raise RefusedError if a published model is withdrawn at this site."""
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction import allowed

    _say_late(allowed.refuse_withdrawn(SiteHome.open(home), model))


def _say_late(late: str) -> None:
    from flo.cli.terminal.output import say

    if late:
        say(f"what the coordinator withdrew since {late} is not known here: is the agent running?")


def _higher(schema: Schema) -> str:
    if schema.classes:
        return f"a risk of each class of {schema.label}, and its score, which is no risk"
    return (
        f"higher is {'a larger value of' if schema.quantity else 'likelier to be'} {schema.label}"
    )


def _risks_in_words(model: PublishedModel | FinishedAtHome, done: Predicted) -> str:
    """Return what the risks of a predicted file are, and why some are missing."""
    from flo.published.model_card import PublishedModel
    from flo.scoring.curve import TOO_WIDE
    from flo.study.quantity import Quantity
    from flo.study.time_to_event import TimeToEvent

    if not isinstance(model, PublishedModel):
        return "risks are calibrated on this hospital's patients; the model is not private"
    curves = (model.card.calibration, *model.card.by_class)
    level = next((one.level for one in curves if one), None)
    if level is None:
        return "scores rank patients; the card has no calibration, so there are no risks"
    if classes := model.study.data.classes:
        counts = zip(classes.classes, done.each, strict=True)
        return (
            f"risks, with their {100 * level:.0f} % band, are stated for "
            + ", ".join(f"{name}: {count}" for name, count in counts)
            + f" of {done.records} records; elsewhere the band is wider than {100 * TOO_WIDE:.0f} "
            "%. They are calibrated for the patients of all hospitals together"
        )
    match model.study.data.outcome:
        case None:
            some = "a risk"
        case TimeToEvent():
            some = "a risk at some horizon at least,"
        case Quantity():
            some = f"an expected {model.study.data.label}"
    said = (
        f"{done.with_risk} have {some} with its {100 * level:.0f} % band, "
        "calibrated for the patients of all hospitals together"
    )
    if missing := done.records - done.with_risk:
        limit = f"{100 * TOO_WIDE:.0f} %"
        if model.study.data.quantity:
            limit = "what eight of ten patients differ by"
        said += f"; the band of {missing} is wider than {limit}, so only their rank is known"
    return said


def _open_finished(home: Path, name: str) -> FinishedAtHome:
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction.finish import open_finished

    return open_finished(SiteHome.open(home), name)


def _open(path: Path, home: Path, coordinator: str | None) -> PublishedModel:
    from flo.published.model_card import PublishedModel

    return PublishedModel.open(path, *trusted_coordinators(home, coordinator))


def trusted_coordinators(home: Path, fingerprint: str | None) -> list[str]:
    """Return the trusted coordinator's fingerprints: the given one, or those that this folder has.

    A folder also has those of the coordinator's earlier keys: their signatures remain valid.
    """
    from flo.clients.home.site_home import SiteHome
    from flo.errors import UsageError
    from flo.keys import identity
    from flo.server.home.coordinator_home import CoordinatorHome

    if fingerprint is not None:
        return [identity.parse_fingerprint(fingerprint)]
    if CoordinatorHome(home).config_path.exists():
        return CoordinatorHome.open(home).fingerprints()
    if SiteHome(home).config_path.exists():
        return SiteHome.open(home).read_coordinator().fingerprints
    raise UsageError(
        f"cannot check signatures: {home} is not a site's or coordinator's folder",
        hint="--home SITE, or --coordinator FINGERPRINT as the coordinator reads it out",
    )


def decisions_on(home: Path, model: PublishedModel) -> list[Section]:
    """Return what was decided on a model, if this is a site's folder that knows of it."""
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction import versions
    from flo.privacy.report.sheet import Section

    if not SiteHome(home).config_path.exists():
        return []
    found = versions.read(SiteHome.open(home)).last_on(model.study.digest)
    rows = tuple((f"{one.state} since {one.time[:16]}", f"{one.by}: {one.why}") for one in found)
    return [Section("Decisions on this version", rows)] if rows else []


def _fetch_package(
    arn: str, out: Path, home: Path, coordinator: str | None
) -> results.ModelFetchedResult:
    """Fetch an approved package, checked against the trusted coordinators' fingerprints."""
    from flo.cli.terminal.output import say, working
    from flo.infra.aws.registry import Registry
    from flo.published.model_card import paths_of
    from flo.storage.files import write_public

    with working("fetching"), tempfile.TemporaryDirectory() as folder:
        trusted = trusted_coordinators(home, coordinator)
        fetched = Registry.of(arn).fetch(arn, Path(folder), *trusted)
        refuse_forbidden(home, fetched, _open(fetched, home, coordinator))
        out.mkdir(parents=True, exist_ok=True)
        for path in paths_of(fetched):
            write_public(out / path.name, path.read_bytes())
    card = out / fetched.name
    say(f"checked and stored: {card}")
    return results.ModelFetchedResult(str(card))
