"""``flo model gate`` and ``verdict``: whether a candidate may replace the current model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flo.cli import results
from flo.cli.model import CoordinatorFingerprint, ModelFile, trusted_coordinators
from flo.cli.model_check import drift_in_words
from flo.cli.terminal.command import command
from flo.cli.terminal.options import COORDINATOR_FOLDER, CoordinatorFolder
from flo.cli.terminal.results import FileWrittenResult

app = typer.Typer()


@command(app)
def gate(
    candidate: ModelFile,
    against: Annotated[Path, typer.Option(help="The current model: NAME.safetensors or its card.")],
    prevalence: Annotated[
        float, typer.Option(help="About which share of patients has the outcome, 0.001 to 0.999.")
    ],
    epsilon: Annotated[float, typer.Option(help="ε of the comparison.")] = 0.5,
    attempts: Annotated[
        int, typer.Option(min=1, help="How many gates of this current model share 5 % error.")
    ] = 1,
    subgroup: Annotated[
        list[str] | None, typer.Option(help="Category COLUMN to compare by, once for each.")
    ] = None,
    home: CoordinatorFolder = COORDINATOR_FOLDER,
    coordinator: CoordinatorFingerprint = None,
    out: Annotated[Path, typer.Option(help="Where to write the study.")] = Path("gate.toml"),
) -> FileWrittenResult:
    """Draft a study that compares two published models on held-out patients."""
    import tomli_w

    from flo.cli.terminal.output import say
    from flo.errors import UsageError
    from flo.published.drift import drift
    from flo.published.model_card import PublishedModel
    from flo.study.gate_draft import draft

    if out.exists():
        raise UsageError(f"{out} already exists", hint="choose another --out, or move the file")
    trusted = trusted_coordinators(home, coordinator)
    new, old = (PublishedModel.open(path, *trusted) for path in (candidate, against))
    study = draft(
        (new.card.digest, new.study),
        (old.card.digest, old.study),
        epsilon=epsilon,
        prevalence=prevalence,
        attempts=attempts,
        subgroups=tuple(subgroup or ()),
    )
    if new.card.noise and old.card.noise:  # before anything is paid
        for line in drift_in_words(drift(new, old)):
            say(line)
    out.write_text(tomli_w.dumps(study), encoding="utf-8")
    say(f"{out} written: what decides is fixed in it, before any patient is seen")
    say(f"next: flo study check {out}, then flo study launch {out}, then flo model verdict NAME")
    return FileWrittenResult(str(out))


@command(app)
def verdict(
    study: Annotated[str, typer.Argument(help="A study that compared models, or NAME.gate.json.")],
    home: CoordinatorFolder = COORDINATOR_FOLDER,
    coordinator: CoordinatorFingerprint = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the signed file; not written if left out.")
    ] = None,
) -> results.VerdictResult:
    """Check a gate's signed result, and show what it says of the candidate."""
    from flo.cli.terminal.output import console, say, show_sheet
    from flo.documents import canonical
    from flo.documents.document import parse
    from flo.errors import TrustError
    from flo.keys.identity import fingerprint
    from flo.privacy.report.sheet import Section
    from flo.published.gate_result import MAX_GATE_BYTES, GateResult
    from flo.published.gate_words import rows
    from flo.storage.files import write_public

    file = Path(study)
    fetched = not file.is_file()
    digest, data = _fetched(home, study) if fetched else ("", file.read_bytes())
    document = canonical.decode(data, limit=MAX_GATE_BYTES, what="gate")
    found = parse(GateResult, document, "gate")
    if fetched and home.is_file() and coordinator is None:  # by an access file: TLS proved whose
        checked = found.check(fingerprint(bytes.fromhex(found.coordinator)))
    else:
        checked = found.check(*trusted_coordinators(home, coordinator))
    if fetched and checked.digest != digest:
        raise TrustError("the coordinator sent the result of another study")
    said = found.sums.comparison(checked)
    about = (("hospitals", ", ".join(found.sums.hospitals)), *found.about(checked))
    show_sheet(
        [Section("Release gate", tuple(rows(checked, said))), Section("About it", about)], console()
    )
    if out:
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{checked.name}-{found.run}.gate.json"
        write_public(path, data)
        say(f"written: {path}")
    return results.VerdictResult(checked.digest, said.verdict, said.model_dump(mode="json"))


def _fetched(home: Path, study: str) -> tuple[str, bytes]:
    """Return the digest of a study and its gate's signed result from the coordinator."""
    from flo.cli.coordinator.operator import Operator
    from flo.cli.study import find

    digest = find(home, study)["digest"]
    with Operator(home) as operator:
        return digest, operator.fetch("GET", f"studies/{digest}/gate").content
