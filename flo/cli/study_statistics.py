"""``flo study try``, ``results``, ``ask``, ``synthesize``: what statistics say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import COORDINATOR_FOLDER, CoordinatorFolder, StudyFile
from flo.cli.terminal.results import FileWrittenResult

if TYPE_CHECKING:
    from flo.published.statistics_result import StatisticsResult
    from flo.statistics.catalogue import CatalogueRead
    from flo.study.document import Study

app = typer.Typer()
Statistics = Annotated[str, typer.Argument(help="A study, or a file NAME.statistics.json.")]
Coordinator = Annotated[
    str | None, typer.Option(help="The coordinator's fingerprint, if no folder has it.")
]


@command(app, "results")
def results_(
    study: Statistics,
    out: Annotated[Path, typer.Option(help="Folder for JSON, CSV and page.")],
    home: CoordinatorFolder = COORDINATOR_FOLDER,
    coordinator: Coordinator = None,
) -> results.StatisticsWrittenResult:
    """Check a study's signed statistics, and write its tables and curves as CSV and as a page."""
    from flo.cli.terminal.output import console, say, show_sheet
    from flo.statistics import page, reading, words
    from flo.storage.files import write_public

    found, checked, data = _checked(study, home, coordinator)
    parts = reading.read(checked, found.noisy(), found.variance(checked), found.released(checked))
    texts = {
        "statistics.json": data.decode(),
        "csv": words.as_csv(parts),
        "html": page.render(checked, parts, found.facts(checked)),
    }
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for ending, text in texts.items():
        files.append(out / f"{checked.name}-{found.run}.{ending}")
        write_public(files[-1], text.encode())
    show_sheet(page.sections(parts), console())
    say(f"\nwritten: {', '.join(map(str, files))}")
    return results.StatisticsWrittenResult(checked.digest, [str(path) for path in files])


@command(app)
def ask(
    study: Statistics,
    question: Annotated[str, typer.Argument(help='Such as "age >= 60 and sex = female".')],
    home: CoordinatorFolder = COORDINATOR_FOLDER,
    coordinator: Coordinator = None,
) -> results.AnswerResult:
    """Count patients by one or two columns from a study's catalogue; costs no privacy."""
    from flo.cli.terminal.output import plain, say
    from flo.statistics import questions, words

    found, checked, _ = _checked(study, home, coordinator)
    answer = questions.ask(_catalogue(found, checked), question)
    patients, share = answer.counted.patients, answer.counted.share
    say(f"{words.count(patients)} patients, {words.share(share)} of all (95 % intervals)")
    say(
        plain(
            f"of the patients of {', '.join(found.hospitals)} who took part in {checked.name}, "
            f"version {checked.version}, made {found.made}; later patients are not in it"
        )
    )
    say("no further ε was spent")
    return results.AnswerResult(
        question,
        list(answer.columns),
        [patients.value, patients.low, patients.high],
        [share.value, share.low, share.high] if share.readable else None,
    )


@command(app)
def synthesize(
    study: Statistics,
    out: Annotated[Path, typer.Option(help="The CSV file to write.")],
    rows: Annotated[
        int | None, typer.Option(min=1, help="How many; as many as patients, if left out.")
    ] = None,
    home: CoordinatorFolder = COORDINATOR_FOLDER,
    coordinator: Coordinator = None,
) -> FileWrittenResult:
    """Write synthetic rows that agree with a study's catalogue, to try software."""
    from flo.cli.terminal.output import say
    from flo.errors import UsageError
    from flo.statistics.synthetic_rows import MOST_ROWS, from_the_system, synthetic_rows
    from flo.storage.files import write_public

    if out.exists():
        raise UsageError(f"{out} already exists", hint="choose another --out, or move the file")
    found, checked, _ = _checked(study, home, coordinator)
    read = _catalogue(found, checked)
    wanted = rows or max(1, round(read.patients.value))
    if wanted > MOST_ROWS:
        raise UsageError(f"{wanted} rows, limit {MOST_ROWS}", hint="give a smaller --rows")
    table = synthetic_rows(read, wanted, from_the_system())
    write_public(out, table.to_csv(index=False).encode())
    say(f"{wanted:,} synthetic rows in {out}: no row is a patient")
    say("columns agree with the catalogue, and each with one other; use them to try software,")
    say("and for flo study check --like; not for research")
    return FileWrittenResult(str(out))


@command(app, "try")
def try_(
    study: StudyFile,
    out: Annotated[Path, typer.Option(help="Folder for CSV and page.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with HOSPITAL.csv or HOSPITAL.parquet files.")
    ] = None,
    id_column: Annotated[str, typer.Option(help="Column with the patient id.")] = "patient_id",
    unsafe_not_private: Annotated[
        bool, typer.Option("--unsafe-not-private", help="Allow data that a ledger protects.")
    ] = False,
) -> results.StatisticsWrittenResult:
    """Answer a study of statistics on data you may see, with the noise that a real run has."""
    from flo.cli.terminal.output import console, say, show_sheet, working
    from flo.lab.answers import answer
    from flo.statistics import page, words
    from flo.storage.files import write_public

    with working("summing over the hospitals"):
        found = answer(study, data, id_column=id_column, unsafe_not_private=unsafe_not_private)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for ending, text in (("csv", words.as_csv(found.parts)), ("html", found.html)):
        files.append(out / f"{found.study.name}-tried.{ending}")
        write_public(files[-1], text.encode())
    show_sheet(page.sections(found.parts), console())
    say(f"\nwritten: {', '.join(map(str, files))}")
    say("made in this process: nobody approved it, and no ledger was charged")
    return results.StatisticsWrittenResult(found.study.digest, [str(path) for path in files])


def _checked(
    study: str, home: Path, coordinator: str | None
) -> tuple[StatisticsResult, Study, bytes]:
    """Return signed statistics, the study that they are of, and the file as it is."""
    from flo.cli.model import trusted_coordinators
    from flo.documents import canonical
    from flo.documents.document import parse
    from flo.keys.identity import fingerprint
    from flo.published.statistics_result import MAX_RESULT_BYTES, StatisticsResult

    file = Path(study)
    fetched = not file.is_file()
    data = _fetched(home, study) if fetched else file.read_bytes()
    document = canonical.decode(data, limit=MAX_RESULT_BYTES, what="statistics")
    found = parse(StatisticsResult, document, "statistics")
    if fetched and home.is_file() and coordinator is None:  # by an access file: TLS proved whose
        trusted = [fingerprint(bytes.fromhex(found.coordinator))]
    else:
        trusted = trusted_coordinators(home, coordinator)
    return found, found.check(*trusted), data


def _fetched(home: Path, study: str) -> bytes:
    """Return a study's signed statistics from the coordinator."""
    from flo.cli.coordinator.operator import Operator
    from flo.cli.study import find

    digest = find(home, study)["digest"]
    with Operator(home) as operator:
        return operator.fetch("GET", f"studies/{digest}/statistics").content


def _catalogue(found: StatisticsResult, study: Study) -> CatalogueRead:
    """Return the first catalogue of the statistics. Raises UsageError if they have none."""
    from flo.errors import UsageError
    from flo.statistics.catalogue import CatalogueRead
    from flo.statistics.reading import read

    parts = read(study, found.noisy(), found.variance(study)) if found.values else []
    for part in parts:
        if isinstance(part, CatalogueRead):
            return part
    raise UsageError(
        f"the statistics of {study.name} have no catalogue, so they answer no other questions",
        hint='a study asks for one with a part of kind = "catalogue"; flo study results shows '
        "what these have",
    )
