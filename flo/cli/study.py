"""``flo study ...``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flo.cli import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import COORDINATOR_FOLDER, CoordinatorFolder, DryRun, StudyFile, Yes

if TYPE_CHECKING:
    from flo.cli.coordinator.operator import Operator
    from flo.study.document import Study

app = typer.Typer()
HEADS = "coordinator_heads.json"  # no hospital has this id: ids have no underscore
StudyName = Annotated[str, typer.Argument(help="NAME, NAME:VERSION, or the start of its digest.")]


@command(app)
def launch(
    study: StudyFile,
    home: CoordinatorFolder = COORDINATOR_FOLDER,
    detach: Annotated[bool, typer.Option(help="Do not wait: `flo study watch` does.")] = False,
    on: Annotated[
        str, typer.Option(help="Where to aggregate its runs: here or sagemaker.")
    ] = "here",
    dry_run: DryRun = False,
) -> results.StudyStateResult:
    """Sign a study, offer it to its hospitals, and follow it: approvals, rounds, result."""
    from typing import get_args

    from flo.cli.aws.roles import give_role
    from flo.cli.coordinator.operator import Operator
    from flo.cli.terminal.output import say
    from flo.errors import UsageError
    from flo.server.store.store import RunPlace
    from flo.study.loading import load

    if on not in get_args(RunPlace):
        raise UsageError(f"--on {on} is not one of {', '.join(get_args(RunPlace))}")
    loaded = load(study)
    with Operator(home) as operator:
        if dry_run:
            return _planned(operator, loaded)
        _wake_if_asleep(operator)
        summary = operator.call("POST", f"studies?on={on}", body=loaded.canonical_bytes)
    where = "" if on == "here" else f", to be aggregated on {on}"
    say(f"offered: {study} (digest {summary['digest'][:12]}){where}")
    if on == "sagemaker":
        give_role(operator, summary["digest"])
    return state_of(summary if detach else follow(home, summary["digest"]))


def _wake_if_asleep(operator: Operator) -> None:
    """Wake the coordinator if its access file names a stack that sleeps; wait until it answers.

    Raises:
        NetworkError: it is awake and does not answer. FloError: it cannot be woken.
    """
    from flo.cli.aws.stack import show_step
    from flo.cli.terminal.output import say
    from flo.errors import NetworkError
    from flo.infra.aws import sleeping
    from flo.infra.aws.stack import Stack

    if operator.stack is None:
        return
    try:
        operator.call("GET", "studies")
    except NetworkError:
        stack = Stack(operator.stack.name, operator.stack.region)
        if sleeping.power(stack).awake:
            raise
        say(f"{stack.name} sleeps: waking it, which takes a few minutes")
        sleeping.wake(stack, show_step)
        try:
            operator.call("GET", "studies")
        except NetworkError as error:
            hint = "open your session or tunnel to it again, and repeat this command"
            raise NetworkError(f"{stack.name} is awake; {error}", hint=hint) from error


@command(app)
def survey(
    study: StudyFile,
    epsilon: Annotated[float, typer.Option(help="The survey's own ε.")] = 0.3,
    column: Annotated[
        list[str] | None, typer.Option(help="Column to count by; may be repeated.")
    ] = None,
    bins: Annotated[int, typer.Option(min=2, max=50, help="Ranges for each number.")] = 5,
    home: CoordinatorFolder = COORDINATOR_FOLDER,
    launch: Annotated[bool, typer.Option(help="Offer it; otherwise it is only explained.")] = False,
) -> results.StudyStateResult:
    """Count patients by label and columns, with noise, before a study; sites must approve it."""
    from flo.cli.coordinator.operator import call_once
    from flo.cli.terminal.output import console, say, show_sheet, working
    from flo.privacy.report.sheet import sections
    from flo.study.loading import load

    planned = load(study)
    wanted = column or [c.name for c in planned.data.columns if c.kind == "category"]
    with working("calibrating noise"):
        table = {"kind": "table", "name": "counts", "columns": wanted, "bins": bins}
        asked = planned.with_questions("survey", epsilon, table | {"by": planned.data.label})
        parts = sections(asked)
    if not launch:
        show_sheet(parts, console())
        say(f"\nnext: repeat with --launch to offer {asked.name} to its hospitals")
        return _state(asked, "planned")
    summary = call_once(home, "POST", "studies", body=asked.canonical_bytes)
    say(f"offered: {asked.name} (digest {summary['digest'][:12]})")
    return state_of(follow(home, summary["digest"]))


@command(app)
def watch(
    study: StudyName, home: CoordinatorFolder = COORDINATOR_FOLDER
) -> results.StudyStateResult:
    """Follow a study until it ends."""
    return state_of(follow(home, find(home, study)["digest"]))


@command(app)
def stop(
    study: StudyName, home: CoordinatorFolder = COORDINATOR_FOLDER, yes: Yes = False
) -> results.StoppingResult:
    """End a study permanently after the current round; hospitals get unused budget back."""
    from flo.cli.coordinator.operator import call_once
    from flo.cli.terminal.output import confirmed, say
    from flo.cli.terminal.progress import OVER
    from flo.errors import RefusedError
    from flo.study.loading import from_canonical

    found = find(home, study)
    asked = from_canonical(found["study"].encode())
    digest, called = asked.digest, f"{asked.name}:{asked.version} ({found['status']})"
    over = found["status"] in OVER  # the coordinator refuses then, so do not ask
    if not over and not confirmed(f"End {called} permanently? It cannot be resumed.", yes):
        raise RefusedError(f"{called} was not ended", hint="--yes ends it without asking")
    call_once(home, "POST", f"studies/{digest}/stop")
    say("stopping after the current round")
    return results.StoppingResult(digest)


@command(app)
def shred(
    study: StudyName, home: CoordinatorFolder = COORDINATOR_FOLDER, yes: Yes = False
) -> results.ShreddedResult:
    """Erase a study's saved states and models permanently; keep card, report and audit log."""
    from flo.cli.aws.roles import take_role
    from flo.cli.coordinator.operator import Operator
    from flo.cli.terminal.output import confirmed, say
    from flo.errors import RefusedError

    found = find(home, study)
    if not confirmed("Erase this study's states and models? They cannot be restored.", yes):
        raise RefusedError("nothing was changed", hint="--yes erases without asking")
    with Operator(home) as operator:
        done = operator.call("POST", f"studies/{found['digest']}/shred")
    say(f"erased: its key, and {done['removed']} files and objects")
    if found["place"] == "sagemaker":
        take_role(operator, found["digest"])
    say("earlier backups of the coordinator still contain the key: make a new one, then")
    say("destroy them; hospitals keep the models that they have fetched")
    return results.ShreddedResult(str(found["digest"]), int(done["removed"]))


@command(app, "list")
def list_(home: CoordinatorFolder = COORDINATOR_FOLDER) -> results.StudiesResult:
    """List studies with their status."""
    from rich.table import Table

    from flo.cli.coordinator.operator import call_once
    from flo.cli.terminal.output import console, plain

    table = Table("study", "version", "digest", "status", "approved")
    found = [state_of(summary) for summary in call_once(home, "GET", "studies")]
    for one in found:
        table.add_row(
            plain(one.study),
            str(one.version),
            one.digest[:12],
            one.status,
            f"{len(one.approved)}/{len(one.hospitals)}",
        )
    console().print(table)
    return results.StudiesResult(found)


@command(app)
def extracts(
    study: StudyName,
    out: Annotated[Path, typer.Option(help="Folder for the extracts.")],
    home: CoordinatorFolder = COORDINATOR_FOLDER,
) -> results.ExtractsSavedResult:
    """Save a study's signed ledger extracts, and the ledger heads stored during its run."""
    from flo.cli.coordinator.operator import call_once
    from flo.cli.terminal.output import say
    from flo.keys.claims import LedgerHead
    from flo.privacy.report.report import heads_document

    digest = find(home, study)["digest"]
    found = call_once(home, "GET", f"studies/{digest}/extracts")
    heads = call_once(home, "GET", f"studies/{digest}/heads")
    out.mkdir(parents=True, exist_ok=True)
    for hospital, document in found.items():
        (out / f"{hospital}.json").write_text(document, encoding="utf-8")
    kept = heads_document({h: LedgerHead.model_validate(head) for h, head in heads.items()})
    (out / HEADS).write_bytes(kept)
    say(f"{len(found)} extracts in {out}; {HEADS} has the heads that the coordinator saw")
    return results.ExtractsSavedResult(str(out), sorted(found))


def state_of(summary: dict[str, Any]) -> results.StudyStateResult:
    """Return a study's state from the coordinator's summary."""
    from flo.study.loading import from_canonical

    study = from_canonical(summary["study"].encode())
    facts = {name: summary[name] for name in ("place", "approved", "run", "result")}
    return _state(study, summary["status"], **facts)


def _state(
    study: Study,
    status: str,
    place: str = "here",
    approved: Sequence[str] = (),
    run: str | None = None,
    result: dict[str, Any] | None = None,
) -> results.StudyStateResult:
    hospitals = [hospital.id for hospital in study.hospitals]
    named = (study.name, study.version, study.digest)
    return results.StudyStateResult(*named, status, place, hospitals, list(approved), run, result)


def _planned(operator: Operator, study: Study) -> results.StudyStateResult:
    """Show the study that a launch would sign now. Raises StudyError if it would be refused."""
    from flo.cli.terminal.output import say
    from flo.keys.identity import format_fingerprint
    from flo.study.loading import from_canonical

    answer = operator.call("POST", "studies/check", body=study.canonical_bytes)
    complete = from_canonical(answer["study"].encode())
    say(f"{complete.name}, version {complete.version}, would be signed with digest")
    say(f"  {complete.digest}")
    for hospital in complete.hospitals:
        say(f"  offered to {hospital.id}: {format_fingerprint(hospital.fingerprint)}")
    for ancestor in complete.lineage:
        say(f"  continues {ancestor.title}, card {ancestor.card[:12]}")
    say("nothing was signed or offered; to do so, repeat the command without --dry-run")
    return _state(complete, "planned")


def follow(home: Path, digest: str) -> dict[str, Any]:
    """Show a study's progress until it ends; return its last summary."""
    from flo.cli.coordinator.operator import Operator
    from flo.cli.terminal.output import say
    from flo.cli.terminal.progress import ProgressScreen
    from flo.study.loading import from_canonical

    with Operator(home) as operator:
        summary = operator.call("GET", f"studies/{digest}")
        with ProgressScreen(from_canonical(summary["study"].encode())) as progress:
            summary = progress.follow(
                lambda after: operator.call("GET", f"studies/{digest}?after={after}")
            )
    _show_result(summary)
    if progress.emitted:
        say(f"electricity of the hospitals' machines, estimated: {progress.emitted}")
    return summary


def _show_result(summary: dict[str, Any]) -> None:
    from flo.cli.terminal.output import say
    from flo.study.loading import from_canonical
    from flo.study.wording import measure_of

    result = summary["result"] or {}
    say(f"{summary['status']} after {result.get('rounds', 0)} rounds")
    if estimate := result.get("estimate"):
        measure = measure_of(from_canonical(summary["study"].encode()))
        say(f"noisy {measure} {_interval(estimate)} (90 % interval: noise and sampling)")
    for name, found in result.get("subgroups", {}).items():
        say(f"  {name}: {_interval(found)}")
    if result:
        say(f"ε = {result['epsilon']:.4f} at δ = {result['delta']:g} for one patient")
    if "model" in result:
        say(f"model: {result['model']}")
    if result:
        ended = from_canonical(summary["study"].encode())
        if ended.compares:
            say(f"its verdict: flo model verdict {ended.name}:{ended.version}")
        if ended.monitor:
            say(f"what it shows: flo model drift {ended.name}:{ended.version}")
        if ended.statistics:
            say(f"tables and curves: flo study results {ended.name}:{ended.version} --out results")
        say(f"next: flo study extracts {ended.name}:{ended.version} --out extracts")


def _interval(estimate: dict[str, Any]) -> str:
    from flo.documents.text import of_auc

    return of_auc(estimate["auc"], estimate["low"], estimate["high"])


def find(home: Path, wanted: str) -> dict[str, Any]:
    """Return the summary of the study that a person names. Raises UsageError."""
    from flo.cli.coordinator.operator import call_once
    from flo.study.loading import from_canonical
    from flo.study.reference import Known, which

    summaries: list[dict[str, Any]] = call_once(home, "GET", "studies")
    known = [
        Known.of(from_canonical(one["study"].encode()), str(one["status"])) for one in summaries
    ]
    digest = which(known, wanted, "study here")
    return next(one for one in summaries if one["digest"] == digest)
