"""``flo study ...``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flo.cli.coordinator import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from flo.advice import Way
    from flo.study import Study

app = typer.Typer(no_args_is_help=True)
StudyFile = Annotated[Path, typer.Argument(help="A study in TOML.")]
StudyName = Annotated[str, typer.Argument(help="Name of a study, or the start of its digest.")]


@app.command()
def new(
    csv: Annotated[Path, typer.Argument(help="A CSV file whose header names the columns.")],
    name: Annotated[str, typer.Option(help="Name of the study.")],
    label: Annotated[str, typer.Option(help="Column with the label, 0 or 1.")],
    hospital: Annotated[
        list[str], typer.Option(help="HOSPITAL:SIZE, once for each, size rounded.")
    ],
    number: Annotated[
        list[str] | None, typer.Option(help="COLUMN:MINIMUM:MAXIMUM:UNIT, once for each.")
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="COLUMN:CODE,CODE,... once for each.")
    ] = None,
    id_column: Annotated[str, typer.Option(help="The patient id; never part of a study.")] = (
        "patient_id"
    ),
    out: Annotated[Path, typer.Option(help="Where to write the study.")] = Path("study.toml"),
) -> None:
    """Scaffold a study from a CSV header and declared bounds; no value of the file is read."""
    from flo.cli.screen import say
    from flo.scaffold import scaffold

    text = scaffold(csv, name, label, hospital, number or [], category or [], id_column)
    out.write_text(text, encoding="utf-8")
    say(f"{out} written; complete purpose and legal basis, then: flo study check {out}")


@app.command()
def check(
    study: StudyFile,
    json_file: Annotated[Path | None, typer.Option("--json", help="Numbers as JSON.")] = None,
) -> None:
    """Explain a study in plain language: what leaves, σ, ε, shares of a budget, what to expect."""
    from flo import advice
    from flo.cli.screen import console, say, show_sheet, working, write_json
    from flo.privacy.plan import Plan
    from flo.privacy.sheet import sections
    from flo.study import load

    with working("calibrating noise"):
        loaded = load(study)
        parts = sections(loaded)
        plan = Plan.of(loaded)
    show_sheet(parts, console())
    if plan.epsilon >= 1:
        say("\n[bold yellow]ε is 1 or more:[/] every site's own policy must consent.")
    with working("trying algorithms on made-up patients") as status:
        found = advice.ways(loaded, status.update)
    if found:
        _show_ways(loaded, found)
    write_json(
        json_file,
        {
            "schema_version": 1,
            "study": loaded.name,
            "digest": loaded.digest,
            "epsilon": plan.epsilon,
            "epsilon_pld": plan.epsilon_pld,
            "delta": loaded.mechanism.delta,
            "sigma": next(iter(plan.parts.values())).mechanism.noise_multiplier,
            "steps": loaded.mechanism.steps,
            "ways": [
                {
                    "mechanism": way.study.mechanism.model_dump(mode="json"),
                    **{"share_of_life": way.share, "auc": way.auc, "fits": way.fits},
                    **{"lost": way.lost, "lost_error": way.error},
                }
                for way in found
            ],
            "recommended": advice.recommended(found).changes(loaded) if found else None,
        },
    )


def _show_ways(study: Study, found: list[Way]) -> None:
    """What trains the study cheapest, and why."""
    import json

    from rich.table import Table

    from flo import advice
    from flo.cli.screen import console, plain, say

    table = Table(
        *("algorithm", "ε", "rounds", "of its life", "AUC", "below no privacy"),
        title="On made-up patients: what noise does at this size, nothing of your columns",
    )
    best = advice.recommended(found)
    for way in found:
        asked = way.study.mechanism
        table.add_row(
            asked.algorithm,
            f"{asked.epsilon:g}",
            str(asked.steps),
            f"{way.share:.0%}",
            f"{way.auc:.3f}",
            f"{way.lost:.3f} ± {way.error:.3f}",
            style="bold" if way is best else None,
        )
    console().print(table)
    limit, changes = f"{advice.MOST_LOST:g}", best.changes(study)
    why = f"the cheapest whose AUC is surely within {limit} of a regression without privacy"
    if not best.fits:
        why = (
            f"none is surely within {limit} of a regression without privacy, and this comes "
            "closest. More patients, more ε or another schedule may help"
        )
    standing = "" if changes else " as the study stands"
    say(f"[bold]recommended:[/] {best.study.mechanism.algorithm}{standing}; {why}")
    if changes:
        lines = ", ".join(f"{name} = {json.dumps(value)}" for name, value in changes.items())
        say(f"  change in {plain('[mechanism]')}: {plain(lines)}")


@app.command()
def launch(
    study: StudyFile,
    home: Home = DEFAULT_HOME,
    detach: Annotated[bool, typer.Option(help="Do not wait; `flo study watch` shows it.")] = False,
    on: Annotated[
        str, typer.Option(help="Where its runs are aggregated: here or sagemaker.")
    ] = "here",
) -> None:
    """Sign a study, offer it to its hospitals, and follow it: approvals, rounds, result."""
    from typing import get_args

    from flo.cli.operator import Operator
    from flo.cli.screen import say
    from flo.errors import UsageError
    from flo.server.store import Place
    from flo.study import load

    if on not in get_args(Place):
        raise UsageError(f"--on {on} is not one of {', '.join(get_args(Place))}")
    summary = Operator(home).call("POST", f"studies?on={on}", body=load(study).canonical_bytes)
    where = "" if on == "here" else f", to be aggregated on {on}"
    say(f"offered: {study} (digest {summary['digest'][:12]}){where}")
    if not detach:
        follow(home, summary["digest"])


@app.command()
def survey(
    study: StudyFile,
    epsilon: Annotated[float, typer.Option(help="The survey's own ε.")] = 0.3,
    column: Annotated[
        list[str] | None, typer.Option(help="Count by this column; once for each.")
    ] = None,
    bins: Annotated[int, typer.Option(min=2, max=50, help="Ranges a number is counted in.")] = 5,
    home: Home = DEFAULT_HOME,
    launch: Annotated[bool, typer.Option(help="Without it, only explained.")] = False,
) -> None:
    """Count patients by label and columns, with noise, before a study; sites approve it first."""
    from flo.cli.operator import Operator
    from flo.cli.screen import console, say, show_sheet, working
    from flo.privacy.sheet import sections
    from flo.study import load

    planned = load(study)
    wanted = column or [c.name for c in planned.data.columns if c.kind == "category"]
    with working("calibrating noise"):
        asked = planned.with_survey(epsilon=epsilon, columns=wanted, bins=bins)
        parts = sections(asked)
    if not launch:
        show_sheet(parts, console())
        say(f"\nnext: the same with --launch offers {asked.name} to its hospitals")
        return
    summary = Operator(home).call("POST", "studies", body=asked.canonical_bytes)
    say(f"offered: {asked.name} (digest {summary['digest'][:12]})")
    follow(home, summary["digest"])


@app.command()
def watch(study: StudyName, home: Home = DEFAULT_HOME) -> None:
    """Follow a study until it ends."""
    follow(home, _find(home, study)["digest"])


@app.command()
def stop(study: StudyName, home: Home = DEFAULT_HOME) -> None:
    """End a study after the round at hand; hospitals get back what was not used."""
    from flo.cli.operator import Operator
    from flo.cli.screen import say

    Operator(home).call("POST", f"studies/{_find(home, study)['digest']}/stop")
    say("stopping after the round at hand")


@app.command()
def shred(
    study: StudyName,
    home: Home = DEFAULT_HOME,
    yes: Annotated[bool, typer.Option("--yes", help="Without asking again.")] = False,
) -> None:
    """Erase a study's saved states and models for good; card, report and audit log stay."""
    from flo.cli.operator import Operator
    from flo.cli.screen import confirmed, say
    from flo.errors import RefusedError

    found = _find(home, study)
    if not confirmed("Erase this study's states and models? Nothing brings them back.", yes):
        raise RefusedError("nothing was changed", hint="--yes erases at once")
    done = Operator(home).call("POST", f"studies/{found['digest']}/shred")
    say(f"its key is gone, and {done['removed']} files and objects with it")
    say("backups of the coordinator made before now still hold the key: make a new one, and")
    say("destroy those; models that hospitals have fetched are theirs")


@app.command("list")
def list_(home: Home = DEFAULT_HOME) -> None:
    """List studies with their status."""
    import json

    from rich.table import Table

    from flo.cli.operator import Operator
    from flo.cli.screen import console

    table = Table("study", "version", "digest", "status", "approved")
    for summary in Operator(home).call("GET", "studies"):
        document = json.loads(summary["study"])
        total = len(document["hospitals"])
        table.add_row(
            document["name"],
            str(document["version"]),
            summary["digest"][:12],
            summary["status"],
            f"{len(summary['approved'])}/{total}",
        )
    console().print(table)


@app.command()
def extracts(
    study: StudyName,
    out: Annotated[Path, typer.Option(help="Folder for the extracts.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Save the signed ledger extracts that hospitals sent for a study."""
    from flo.cli.operator import Operator
    from flo.cli.screen import say

    found = Operator(home).call("GET", f"studies/{_find(home, study)['digest']}/extracts")
    out.mkdir(parents=True, exist_ok=True)
    for hospital, document in found.items():
        (out / f"{hospital}.json").write_text(document, encoding="utf-8")
    say(f"{len(found)} extracts in {out}")


def follow(home: Path, digest: str) -> dict[str, Any]:
    """Show a study's progress until it ends; returns its last summary."""
    from flo.cli.operator import Operator
    from flo.cli.progress import StudyProgress
    from flo.study import from_canonical

    operator = Operator(home)
    summary = operator.call("GET", f"studies/{digest}")
    with StudyProgress(from_canonical(summary["study"].encode())) as progress:
        summary = progress.follow(
            lambda after: operator.call("GET", f"studies/{digest}?after={after}")
        )
    _show_result(summary)
    return summary


def _show_result(summary: dict[str, Any]) -> None:
    from flo.cli.screen import say

    result = summary["result"] or {}
    say(f"{summary['status']} after {result.get('rounds', 0)} rounds")
    if estimate := result.get("estimate"):
        say(f"noisy AUC {_interval(estimate)} (90 % interval: noise and sampling)")
    for name, found in result.get("subgroups", {}).items():
        say(f"  {name}: {_interval(found)}")
    for hospital, columns in result.get("survey", {}).items():
        _show_counts(hospital, columns)
    if result:
        say(f"ε = {result['epsilon']:.4f} at δ = {result['delta']:g} for one patient")
    if "model" in result:
        say(f"model: {result['model']}")
    if result:
        say(f"next: flo study extracts {summary['digest'][:12]} --out extracts")


def _interval(estimate: dict[str, Any]) -> str:
    return f"{estimate['auc']:.3f}, {estimate['low']:.3f} to {estimate['high']:.3f}"


def _show_counts(hospital: str, columns: list[dict[str, Any]]) -> None:
    """A hospital's noisy counts (or everyone's) as bars."""
    from rich.table import Table

    from flo.cli.screen import console, plain

    most = max(1.0, *(n for column in columns for n in column["patients"]))
    half = columns[0]["half_width"]
    table = Table("column", "", f"patients ± {half:.0f}", "", title=hospital or "all hospitals")
    for column in columns:
        for cell, patients in zip(column["cells"], column["patients"], strict=True):
            bar = "█" * round(30 * max(0.0, patients) / most)
            table.add_row(plain(column["column"]), plain(cell), f"{patients:.0f}", bar)
    console().print(table)


def _find(home: Path, wanted: str) -> dict[str, Any]:
    import json

    from flo.cli.operator import Operator
    from flo.errors import UsageError

    summaries = Operator(home).call("GET", "studies")
    found: list[dict[str, Any]] = [
        summary
        for summary in summaries
        if json.loads(summary["study"])["name"] == wanted or summary["digest"].startswith(wanted)
    ]
    if not found:
        raise UsageError(f"no study {wanted!r} here", hint="`flo study list` shows them")
    return found[-1]
