"""Which version of a model answers at this hospital.

    1. the agent asks every few seconds for the coordinator's decisions. Of a list that does not
       continue the one it has, only the withdrawals count;
    2. what is withdrawn there is stored, and does not answer from then on. If it was in use here,
       the version that was in use before takes its place;
    3. every use of a model asks here whether it is withdrawn, by the coordinator or by this
       hospital;
    4. only this hospital puts a version into use, from files that are in its own folder and that
       passed every check of ``flo model fetch``.

This module stores and reads the decisions, in one file of the site's folder; this hospital's are
signed with its key. They name no patient. ``version_news`` fetches, ``version_decisions`` decides.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.documents.document import Document, read_json
from flo.errors import RefusedError, TrustError, UsageError
from flo.published.model_card import MAX_CARD_BYTES, PublishedModel
from flo.published.model_states import (
    ModelDecision,
    ModelStates,
    ModelVersion,
    Said,
    in_use,
    withdrawal,
)
from flo.storage.files import make_private_directory, write_private

FOLDER = "models"
_MOST_MODELS = 1000  # names
_LIMIT = 64 << 20
_FOLDER_DIGITS = 16  # of a card's digest: the name of a version's folder
LATE = timedelta(minutes=5)  # an agent that runs asks every few seconds


def _one_of_each(several: tuple[ModelStates, ...]) -> tuple[ModelStates, ...]:
    if len({one.name for one in several}) != len(several):
        raise ValueError("two lists have the same name")
    return several


Lists = Annotated[
    tuple[ModelStates, ...], Field(max_length=_MOST_MODELS), AfterValidator(_one_of_each)
]


class Versions(Document):
    """``theirs``: the coordinator's decisions, ``own``: this hospital's, by model.

    ``forks``: the last lists that the coordinator signed and that do not continue ``theirs``: what
    they withdraw counts, and nothing else. ``seen``: when the coordinator was asked last; empty if
    never.
    """

    schema_version: Literal[1] = 1
    seen: Annotated[str, StringConstraints(max_length=40)] = ""
    theirs: Lists = ()
    forks: Lists = ()
    own: Lists = ()

    @property
    def names(self) -> list[str]:
        """Names of the models that anybody decided on, sorted."""
        return sorted({one.name for one in (*self.theirs, *self.forks, *self.own)})

    def of(self, name: str) -> tuple[ModelStates, ModelStates]:
        """Return the coordinator's and this hospital's decisions on a model."""
        return called(self.theirs, name), called(self.own, name)

    def others(self, name: str) -> tuple[ModelStates, ModelStates]:
        """Return the coordinator's lists on a model whose withdrawals count here."""
        return called(self.theirs, name), called(self.forks, name)

    def current(self, name: str) -> ModelVersion | None:
        """Return the version that answers here; None if none does."""
        if name not in self.names:
            return None
        return in_use(called(self.own, name), *self.others(name))

    def withdrawal(self, name: str, study: str) -> ModelDecision | None:
        """Return the decision by which a study's model is withdrawn here; None if it is not."""
        return withdrawal((*self.others(name), called(self.own, name)), study)

    def known_versions(self, name: str) -> list[ModelVersion]:
        """Return the versions of a model that anybody decided on, by number."""
        lists = (*self.others(name), called(self.own, name))
        found = {one.study: one for states in reversed(lists) for one in states.versions}
        return sorted(found.values(), key=lambda one: one.version)

    def last_on(self, study: str) -> tuple[ModelDecision, ...]:
        """Return the last decision of each party on a study's model."""
        found = (states.last_on(study) for states in (*self.theirs, *self.own))
        return tuple(one for one in found if one is not None)

    def late(self, after: timedelta) -> str:
        """Return when the coordinator was asked last, if that is this long ago; else ""."""
        if self.seen:
            age = datetime.now(UTC) - datetime.fromisoformat(self.seen)
            if timedelta(0) <= age < after:  # the clock may have been set back
                return ""
        return self.seen[:16] or "ever"

    def with_own(self, states: ModelStates) -> Versions:
        """Return the same with other decisions of this hospital on one model."""
        others = tuple(one for one in self.own if one.name != states.name)
        return self.model_copy(update={"own": (*others, states)})


def called(several: tuple[ModelStates, ...], name: str) -> ModelStates:
    """Return the list on a model; an empty one if there is none."""
    return next((one for one in several if one.name == name), ModelStates(name=name))


def read(home: SiteHome) -> Versions:
    """Return the decisions that this site has, with every signature checked.

    Raises TrustError: a list is signed by another party, or was changed; or the file is missing,
    though the audit log says that decisions were stored.
    """
    if not path(home).exists():
        _refuse_missing_decisions(home)
        return Versions()
    return home.read_unchanged(lambda: _checked(home), path(home), home.coordinator_path)


def _refuse_missing_decisions(home: SiteHome) -> None:
    with closing(home.open_audit_log()) as log:
        decided, forgotten = log.last("model-decided"), log.last("model-states-forgotten")
    if decided and (forgotten is None or forgotten.number < decided.number):
        raise TrustError(
            f"{path(home)} is missing, and with it what was decided on models here",
            hint="flo model states --begin-anew takes the coordinator's decisions; then withdraw "
            "again what this hospital had withdrawn (flo audit log lists it)",
        )


def read_unchecked(home: SiteHome) -> Versions:
    """Return the decisions without checking a signature, for whoever begins anew."""
    if not path(home).exists():
        return Versions()
    return read_json(Versions, path(home), limit=_LIMIT)


def _checked(home: SiteHome) -> Versions:
    found = read_unchecked(home)
    for states in found.own:
        states.check([home.open_identity().fingerprint])
    for states in (*found.theirs, *found.forks):
        try:
            states.check(home.read_coordinator().fingerprints)
        except TrustError as error:
            raise TrustError(
                f"{path(home).name}: {error}",
                hint="if this site has another coordinator now: flo model states --begin-anew",
            ) from error
    return found


def refuse_withdrawn(home: SiteHome, model: PublishedModel) -> None:
    """Raise RefusedError if the coordinator or this hospital withdrew a version. [3]"""
    name = model.study.name
    last = read(home).withdrawal(name, model.study.digest)
    if last is not None:
        raise RefusedError(
            f"version {model.study.version} of {name} was withdrawn on {last.time[:16]} by "
            f"{last.by}: {last.why}",
            hint=f"flo model states lists the versions of {name} and which one is in use",
        )


def current_path(home: SiteHome, name: str) -> Path:
    """Return the card of the version that answers here.

    Raises UsageError: none does, or its files are gone.
    """
    versions = read(home)
    current = versions.current(_known_name(versions, name))
    if current is None:
        raise UsageError(
            f"no version of {name} is in use here",
            hint=f"flo model promote {name} --why REASON puts one into use",
        )
    return refuse_missing(home, current)


def refuse_missing(home: SiteHome, model: ModelVersion) -> Path:
    """Return the path of a version's card. Raises UsageError if it is not in the site's folder."""
    found = path_of(home, model)
    if found is None:
        raise UsageError(
            f"the files of version {model.version} are not in {home.directory / FOLDER}",
            hint="flo model promote fetches them again",
        )
    return found


def path_of(home: SiteHome, model: ModelVersion) -> Path | None:
    """Return the path of a version's card in the site's folder; None if it is not there."""
    for file in sorted(folder_of(home, model).glob("*.card.json")):
        small = file.stat().st_size <= MAX_CARD_BYTES
        if small and canonical.digest(file.read_bytes()) == model.card:
            return file
    return None


def folder_of(home: SiteHome, model: ModelVersion) -> Path:
    """Return the folder of a version's files."""
    return home.directory / FOLDER / model.card[:_FOLDER_DIGITS]


def _known_name(versions: Versions, name: str) -> str:
    if name not in versions.names:
        raise UsageError(
            f"nobody has decided on a model called {name!r}",
            hint=f"known: {', '.join(versions.names) or 'none'}",
        )
    return name


def said(home: SiteHome, why: str) -> Said:
    """Return who decides here, why, and that it is now."""
    return Said(home.read_config().hospital, why, now())


def decide(home: SiteHome, before: Versions, own: ModelStates) -> Versions:
    """Sign and store this hospital's decisions on one model, and enter the new ones in the log."""
    after = before.with_own(own.signed(home.open_identity()))
    write(home, after)
    known = len(called(before.own, own.name).decisions)
    with closing(home.open_audit_log()) as log:
        for one in own.decisions[known:]:
            log.append(
                "model-decided",
                one.model.study,
                name=own.name,
                version=one.model.version,
                state=one.state,
                by=one.by,
                why=one.why,
            )
    return after


def write(home: SiteHome, versions: Versions) -> None:
    """Store all decisions; the caller holds the lock."""
    make_private_directory(home.directory / FOLDER)
    write_private(path(home), versions.to_bytes())


def path(home: SiteHome) -> Path:
    """Return the path of the file of all decisions."""
    return home.directory / FOLDER / "versions.json"


def now() -> str:
    """Return the time in UTC to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
