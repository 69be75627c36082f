"""The console's pages about published statistics: tables and curves, their files, the report."""

from __future__ import annotations

import functools
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from flo.documents import canonical
from flo.documents.document import parse
from flo.errors import StudyError
from flo.pages.responses import ALONE, HEADERS, download
from flo.privacy.report.page import render as render_report
from flo.published.statistics_result import MAX_RESULT_BYTES, StatisticsResult
from flo.server.console.context import ConsoleContext
from flo.server.console.sign_in import CONSOLE
from flo.server.studies.publish import report_path
from flo.statistics.page import render
from flo.statistics.reading import PartRead, read
from flo.statistics.words import as_csv
from flo.study.document import Study
from flo.study.loading import from_canonical


def statistics_router(context: ConsoleContext) -> APIRouter:
    """Return routes to read and download a study's statistics; the coordinator signed them."""
    router, actions = APIRouter(), context.actions

    @router.get(f"{CONSOLE}/studies/{{digest}}/statistics")
    def statistics(digest: str) -> Response:
        study, parts, facts = _opened(actions.statistics(digest))
        return Response(render(study, parts, facts), headers=ALONE, media_type="text/html")

    @router.get(f"{CONSOLE}/studies/{{digest}}/statistics/{{form}}")
    def statistics_file(digest: str, form: str) -> Response:
        path = actions.statistics(digest)
        if form == "json":
            return FileResponse(path, headers=HEADERS, filename=path.name)
        study, parts, _ = _opened(path)
        if form == "csv":
            name = f"{study.name}-{study.version}.csv"
            return download(as_csv(parts).encode(), name, "text/csv")
        report = report_path(path)
        if form != "report" or not report.is_file():
            raise StudyError(f"these statistics have no {form[:20]!r}")
        page = render_report(report.read_bytes())
        return Response(page, headers=ALONE, media_type="text/html")

    return router


def _opened(path: Path) -> tuple[Study, list[PartRead], list[tuple[str, str]]]:
    """Return the study of a result, its parts, and facts about the result."""
    return _read(path.read_bytes())


@functools.lru_cache(maxsize=8)
def _read(data: bytes) -> tuple[Study, list[PartRead], list[tuple[str, str]]]:
    """Read a result once: reading a large one takes seconds."""
    document = canonical.decode(data, limit=MAX_RESULT_BYTES, what="statistics")
    found = parse(StatisticsResult, document, "statistics")
    study = from_canonical(found.study.encode())
    parts = read(study, found.noisy(), found.variance(study), found.released(study))
    return study, parts, found.facts(study)
