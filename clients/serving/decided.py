"""Which version of each served model is to answer, and which are compared with it, by the site's
files: decisions, policy, gate, opt-outs, rules, mappings. Nothing is kept here.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flo.clients.comparison import decisions
from flo.clients.comparison.terms import Comparison
from flo.clients.home.site_home import SiteHome
from flo.clients.mapping.mapping_file import mapping_of
from flo.clients.prediction import allowed, flag_decisions, versions
from flo.clients.prediction.finish import FinishedAtHome, open_finished
from flo.clients.records.finished_model import published_path
from flo.clients.serving.onnx_export import exported
from flo.clients.serving.service import ServedVersion
from flo.clients.serving.settings import ServedModel
from flo.clients.sources.config import FhirPlace, OmopPlace
from flo.clients.sources.fhir_prefetch import PrefetchReader
from flo.clients.sources.mapping import StudyMapping, channels, of_each_step, problems
from flo.clients.watching.kept import Watched
from flo.errors import FloError, RefusedError
from flo.published.model_card import PublishedModel
from flo.published.model_states import ModelVersion
from flo.study.document import Study

log = logging.getLogger("flo.clients.serving.decided")
FoundT = TypeVar("FoundT")


@dataclass(frozen=True)
class Found:
    """A version that may answer, with its study and title. ``watched``: what monitors need."""

    version: ServedVersion
    study: Study
    title: str
    watched: Watched


@dataclass(frozen=True)
class Decided:
    """``found``: the version that is to answer, or why none may. ``withdrawn``: whether what
    answers now was withdrawn. ``comparison``: that runs; ``others``: its versions, by study, each
    found or why it is not.
    """

    found: Found | FloError
    withdrawn: bool
    comparison: Comparison | None
    others: dict[str, Found | FloError]


class Deciding:
    """Reads a site's files, in a thread. It remembers networks as ONNX, each made once."""

    def __init__(self, home: SiteHome) -> None:
        self._home = home
        self._exports = dict[str, str]()  # card -> base64

    def read(self, name: str, asked: ServedModel, now: Study | None) -> Decided:
        """Return what the files say of one model. ``now``: study of the version that answers."""
        found = _guarded(name, lambda: self._served(name, asked))
        if isinstance(found, FloError):
            return Decided(found, withdrawn=True, comparison=None, others={})
        withdrawn = _guarded(name, lambda: now is not None and self._is_withdrawn(now))
        comparison, others = None, dict[str, Found | FloError]()
        if found.version.finished is None:
            running = _guarded(name, lambda: decisions.running(self._home, name))
            if isinstance(running, FloError):
                log.warning(f"the versions of {name} are not compared: {running}")
            elif running is not None:
                comparison = running
                others = {
                    one.model.study: self._other(name, asked, one.model, found)
                    for one in running.versions
                }
        return Decided(found, withdrawn is not False, comparison, others)

    def _is_withdrawn(self, study: Study) -> bool:
        return versions.read(self._home).withdrawal(study.name, study.digest) is not None

    def _served(self, name: str, asked: ServedModel) -> Found:
        home = self._home
        if name in versions.read(home).names:
            in_use = allowed.open_in_use(home, name)
            return self._found(name, asked, in_use.path, in_use.model)
        finished = open_finished(home, name)
        allowed.refuse_withdrawn(home, finished.model)
        return self._found(name, asked, published_path(home, finished.finished.name), finished)

    def _other(
        self, name: str, asked: ServedModel, model: ModelVersion, baseline: Found
    ) -> Found | FloError:
        """Return a version that is compared, or why it is not."""

        def other() -> Found:
            home = self._home
            path = versions.refuse_missing(home, model)
            published = allowed.opened(home, path)
            allowed.refuse_forbidden(home, path, published)
            found = self._found(name, asked, path, published, baseline.study.version)
            _refuse_other_data(baseline, found)
            return found

        return _guarded(name, other)

    def _found(
        self,
        name: str,
        asked: ServedModel,
        path: Path,
        opened: PublishedModel | FinishedAtHome,
        compared_with: int = 0,
    ) -> Found:
        finished = None
        if isinstance(opened, FinishedAtHome):
            finished = opened.finished.model_copy(update={"patients": ()})
        home, study = self._home, opened.study
        fhir, table = mappings(home, study, asked)
        version = ServedVersion(
            name=name,
            hook=asked.hook,
            outcome=asked.outcome or study.data.label.replace("_", " "),
            card=str(path.resolve()),
            coordinators=tuple(home.read_coordinator().fingerprints),
            finished=finished,
            rule=None if isinstance(opened, FinishedAtHome) else flag_decisions.read(home, opened),
            fhir=fhir,
            table=None if table is None else table.columns,
            compared_with=compared_with,
        )
        published = opened.model if isinstance(opened, FinishedAtHome) else opened
        watched = Watched.of(published, finished.made if finished else "")
        return Found(self._with_onnx(version, study), study, opened.title, watched)

    def _with_onnx(self, version: ServedVersion, study: Study) -> ServedVersion:
        """Return the same with the network's export."""
        if study.model.kind == "logistic" or version.finished is not None:
            return version
        if version.card not in self._exports:
            onnx = exported(Path(version.card), version.coordinators)
            self._exports[version.card] = base64.b64encode(onnx).decode()
        return version.model_copy(update={"onnx": self._exports[version.card]})


def _guarded(name: str, read: Callable[[], FoundT]) -> FoundT | FloError:
    """Return what is read; what cannot be read answers nobody, whatever the error is."""
    try:
        return read()
    except FloError as error:
        return error
    except Exception as error:
        log.exception(f"which version answers as {name} cannot be read")
        return RefusedError(f"its files cannot be read ({type(error).__name__})")


def templates(version: ServedVersion, study: Study) -> dict[str, str]:
    """Return the FHIR queries whose results a version needs, by key; {} if it answers no hook."""
    return {} if version.fhir is None else PrefetchReader(version.fhir, study.data).templates


def _refuse_other_data(baseline: Found, other: Found) -> None:
    """Raise RefusedError if the record system cannot send what both versions ask for."""
    asked = [templates(one.version, one.study) for one in (baseline, other)]
    both = asked[0].keys() & asked[1].keys()
    different = sorted(key for key in both if asked[0][key] != asked[1][key])
    if different:
        raise RefusedError(
            f"{other.title} and {baseline.title} ask the record system for other data under the "
            f"same name: {', '.join(different)}"
        )


def mappings(
    home: SiteHome, study: Study, asked: ServedModel
) -> tuple[StudyMapping | None, StudyMapping | None]:
    """Return how the record system's FHIR, and how the site's table, become a study's columns.

    None for each that nobody wrote. What ``serve.toml`` says of FHIR comes first. A table's mapping
    that does not fit the study's columns is none: an unmapped column would be read in the study's
    units. A table's row states the columns of each step, by their own names.
    """
    own = mapping_of(home, study)
    places = {type(one.source) for one in home.read_config().populations}
    given = StudyMapping(columns=asked.columns) if asked.columns else None
    if own and FhirPlace not in places and channels(own, study.data):  # a request has no events
        own = of_each_step(own, study.data)
    if FhirPlace in places:
        return given or own, None
    if OmopPlace in places or unfit(own, study):
        return given, None
    return given, own


def unfit(own: StudyMapping | None, study: Study) -> list[str]:
    """Return why a table's mapping does not fit the study's columns; empty if it does."""
    if own is None or not own.columns:
        return []
    label = f"{study.data.label}: is not mapped"
    return [problem for problem in problems(own, study.data) if problem != label]
