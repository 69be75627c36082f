"""Which version of a model answers at this hospital.

    1. the agent asks every few seconds for the coordinator's decisions. Of a list that does not
       continue the one it has, only the withdrawals count;
    2. what is withdrawn there is stored, and does not answer from then on. If it was in use here,
       the version that was in use before takes its place;
    3. every use of a model asks here whether it is withdrawn, by the coordinator or by this
       hospital;
    4. only this hospital puts a version into use, from files that are in its own folder and that
       passed every check of ``flo model fetch``.

All decisions are in one file of the site's folder; this hospital's are signed with its key. They
name no patient.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction.fetched_models import fetch
from flo.documents import canonical
from flo.documents.document import Document, parse, read_json
from flo.errors import RefusedError, TrustError, UsageError
from flo.published.model_card import MAX_CARD_BYTES, PublishedModel
from flo.published.model_states import (
    ModelDecision,
    ModelStates,
    ModelVersion,
    Said,
    digest_of_all,
    in_use,
    obeyed,
    withdrawal,
)
from flo.storage.files import make_private_directory, write_private
from flo.study.reference import Known, which

FOLDER = "models"
_MOST_MODELS = 1000  # names
_LIMIT, _MOST_WORDS = 64 << 20, 400
_FOLDER_DIGITS = 16  # of a card's digest: the name of a version's folder
LATE = timedelta(minutes=5)  # an agent that runs asks every few seconds
_SOON = timedelta(minutes=1)  # before ``seen`` is written again


class RefusedListError(TrustError):
    """The coordinator shows decisions on models that it did not sign, or took one back."""


def _one_of_each(several: tuple[ModelStates, ...]) -> tuple[ModelStates, ...]:
    if len({one.name for one in several}) != len(several):
        raise ValueError("two lists have the same name")
    return several


_Lists = Annotated[
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
    theirs: _Lists = ()
    forks: _Lists = ()
    own: _Lists = ()

    @property
    def names(self) -> list[str]:
        """Names of the models that anybody decided on, sorted."""
        return sorted({one.name for one in (*self.theirs, *self.forks, *self.own)})

    def of(self, name: str) -> tuple[ModelStates, ModelStates]:
        """Return the coordinator's and this hospital's decisions on a model."""
        return _called(self.theirs, name), _called(self.own, name)

    def others(self, name: str) -> tuple[ModelStates, ModelStates]:
        """Return the coordinator's lists on a model whose withdrawals count here."""
        return _called(self.theirs, name), _called(self.forks, name)

    def current(self, name: str) -> ModelVersion | None:
        """Return the version that answers here; None if none does."""
        if name not in self.names:
            return None
        return in_use(_called(self.own, name), *self.others(name))

    def withdrawal(self, name: str, study: str) -> ModelDecision | None:
        """Return the decision by which a study's model is withdrawn here; None if it is not."""
        return withdrawal((*self.others(name), _called(self.own, name)), study)

    def known_versions(self, name: str) -> list[ModelVersion]:
        """Return the versions of a model that anybody decided on, by number."""
        lists = (*self.others(name), _called(self.own, name))
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


def _called(several: tuple[ModelStates, ...], name: str) -> ModelStates:
    return next((one for one in several if one.name == name), ModelStates(name=name))


class _Shown(Document):
    """``states``: None if they are those that the site has."""

    states: _Lists | None


def read(home: SiteHome) -> Versions:
    """Return the decisions that this site has, with every signature checked.

    Raises TrustError: a list is signed by another party, or was changed.
    """
    path = _path(home)
    if not path.exists():
        return Versions()
    return home.read_unchanged(lambda: _checked(home, path), path, home.coordinator_path)


def _checked(home: SiteHome, path: Path) -> Versions:
    found = read_json(Versions, path, limit=_LIMIT)
    for states in found.own:
        states.check([home.open_identity().fingerprint])
    for states in (*found.theirs, *found.forks):
        try:
            states.check(home.read_coordinator().fingerprints)
        except TrustError as error:
            raise TrustError(
                f"{path.name}: {error}",
                hint="if this site has another coordinator now: flo model states --begin-anew",
            ) from error
    return found


def ask(home: SiteHome, api: CoordinatorApi) -> Versions:
    """Ask for the coordinator's decisions, check and store them, and obey its withdrawals. [1, 2]

    Each list is judged for itself. Of one that does not continue ours, only the withdrawals count.

    Raises:
        RefusedListError: the coordinator did not sign a list, or one does not continue the one that
        this site has. All that could be believed is stored and obeyed then.
    """
    known = read(home)
    shown = _shown(api, known.theirs)
    wrong = list[str]()
    with home.models_lock():
        before = read(home)
        after = before.model_copy(update={"seen": _now()})
        for states in shown or ():
            try:
                states.check(home.read_coordinator().fingerprints)
            except TrustError as error:
                wrong.append(f"{error}. {error.hint}")
                continue
            after = _with_theirs(after, states)
            if not states.continues(_called(known.theirs, states.name)):
                wrong.append(f"that on {states.name} takes back a decision that this site has")
        if shown is not None:
            named = {states.name for states in shown}
            missing = [states.name for states in known.theirs if states.name not in named]
            wrong += [f"none is shown on {name}, and this site has one" for name in missing]
        changed = (after.theirs, after.forks) != (before.theirs, before.forks)
        if changed or before.late(_SOON):
            _write(home, after)  # from here on, what was withdrawn does not answer
        after = _obey(home, after)
    if wrong:
        raise RefusedListError(
            "the coordinator's decisions on models are refused: " + "; ".join(wrong)[:_MOST_WORDS],
            hint="ask its operator. If it only restored a backup: flo model states --begin-anew",
        )
    return after


def _shown(api: CoordinatorApi, known: tuple[ModelStates, ...]) -> tuple[ModelStates, ...] | None:
    """Return the lists that the coordinator shows; None if they are those that are known."""
    answer = api.call("states", {"known": digest_of_all(known)})
    return parse(_Shown, answer, "the coordinator's decisions on models").states


def _with_theirs(versions: Versions, states: ModelStates) -> Versions:
    """Return the site's decisions with a list that the coordinator signed.

    The agent and a command may ask at the same time, and the earlier answer may arrive last: then
    the longer list is kept.
    """
    ours = _called(versions.theirs, states.name)
    if ours.continues(states) and ours.public == states.public:
        return versions
    kind = "theirs" if states.continues(ours) or ours.continues(states) else "forks"
    longer = states if kind == "forks" or states.continues(ours) else ours
    kept = tuple(one for one in getattr(versions, kind) if one.name != states.name)
    return versions.model_copy(update={kind: (*kept, longer)})


def _obey(home: SiteHome, versions: Versions) -> Versions:
    """Put back what was in use before, wherever the coordinator withdrew what is."""
    for name in versions.names:
        own = _called(versions.own, name)
        after = obeyed(own, *versions.others(name), time=_now())
        if after != own:
            versions = _decide(home, versions, after)
    return versions


def begin_anew(home: SiteHome, api: CoordinatorApi) -> Versions:
    """Take the coordinator's present list of decisions, though it does not continue ours.

    Versions that were withdrawn in the list before stay withdrawn here, as this hospital's own
    decision, until it puts them into use again. For a coordinator that restored a backup, and for a
    site that has another coordinator now.
    """
    shown = _shown(api, ()) or ()
    for states in shown:
        states.check(home.read_coordinator().fingerprints)
    with home.models_lock():
        path = _path(home)
        before = read_json(Versions, path, limit=_LIMIT) if path.exists() else Versions()
        for states in before.own:
            states.check([home.open_identity().fingerprint])
        home.record("model-states-forgotten", models=before.names)
        after = before.model_copy(update={"theirs": shown, "forks": (), "seen": _now()})
        for name in before.names:
            for one in before.known_versions(name):
                old, new = before.withdrawal(name, one.study), after.withdrawal(name, one.study)
                if old is not None and new is None:
                    own = _called(after.own, name).withdrawn(one, _said(home, old.why))
                    after = after.with_own(own.signed(home.open_identity()))
        _write(home, after)
    return after


def promote(home: SiteHome, api: CoordinatorApi, wanted: str, why: str) -> tuple[str, ModelVersion]:
    """Fetch a version that the coordinator approved, and put it into use here. [4]

    Return the model's name and the version. If it is in use already, only its files are fetched
    again.

    Raises:
        UsageError: no such version. RefusedError: the coordinator has not approved it. TrustError:
        the model is another one than the decision names. And as ``fetch``.
    """
    versions = ask(home, api)
    name, model = _find(versions, wanted)
    theirs, _ = versions.of(name)
    last = withdrawal(versions.others(name), model.study)
    if last is not None or theirs.state_of(model.study) == "candidate":
        state = "withdrawn" if last else "a candidate"
        raise RefusedError(
            f"the coordinator has not approved version {model.version} of {name}: it is {state}"
        )
    folder = make_private_directory(home.directory / FOLDER)
    opened = fetch(home, api, model.study, folder / model.card[:_FOLDER_DIGITS])
    _refuse_other(home, opened, name, model)
    with home.models_lock():
        before = read(home)
        if withdrawal(before.others(name), model.study) is not None:
            raise RefusedError(f"the coordinator has just withdrawn version {model.version}")
        if before.current(name) != model:
            own = _called(before.own, name)
            _decide(home, before, own.put_into_use(model, _said(home, why)))
    return name, model


def _refuse_other(home: SiteHome, path: Path, name: str, model: ModelVersion) -> None:
    """Raise TrustError unless the fetched model is the one that the decision names."""
    opened = PublishedModel.open(path, *home.read_coordinator().fingerprints)
    study = opened.study
    if (study.name, study.version, study.digest, opened.card.digest) != (
        *(name, model.version, model.study),
        model.card,
    ):
        raise TrustError(
            f"the coordinator decided on version {model.version} of {name}, and sent "
            f"{opened.title} with the card {opened.card.digest[:12]}"
        )


def rollback(home: SiteHome, wanted: str, why: str) -> tuple[str, ModelVersion]:
    """Withdraw the version in use here, and put the one before it back; return name and that one.

    ``wanted``: the version to go back from, so that a repeated call does not go back twice.

    Raises UsageError: unknown. StudyError: it is not in use, or none was before.
    """
    with home.models_lock():
        before = read(home)
        name, model = _find(before, wanted)
        own = _called(before.own, name)
        after = own.rolled_back(model, _said(home, why), *before.others(name))
        back = after.current
        assert back is not None
        refuse_missing(home, back)
        _decide(home, before, after)
    return name, back


def withdraw(home: SiteHome, wanted: str, why: str) -> tuple[str, ModelVersion]:
    """Take a version out of use here; return the model's name and the version.

    Raises UsageError: unknown. StudyError: it is withdrawn already.
    """
    with home.models_lock():
        before = read(home)
        name, model = _find(before, wanted)
        _decide(home, before, _called(before.own, name).withdrawn(model, _said(home, why)))
    return name, model


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
    path = path_of(home, model)
    if path is None:
        raise UsageError(
            f"the files of version {model.version} are not in {home.directory / FOLDER}",
            hint="flo model promote fetches them again",
        )
    return path


def path_of(home: SiteHome, model: ModelVersion) -> Path | None:
    """Return the path of a version's card in the site's folder; None if it is not there."""
    for path in sorted((home.directory / FOLDER / model.card[:_FOLDER_DIGITS]).glob("*.card.json")):
        if (
            path.stat().st_size <= MAX_CARD_BYTES
            and canonical.digest(path.read_bytes()) == model.card
        ):
            return path
    return None


def _find(versions: Versions, wanted: str) -> tuple[str, ModelVersion]:
    """Return the name and the version that ``wanted`` means (see ``flo.study.reference``)."""
    found = {
        one.study: (name, one) for name in versions.names for one in versions.known_versions(name)
    }
    known = [Known(name, model.version, model.study) for name, model in found.values()]
    return found[which(known, wanted, "model that anybody decided on")]


def _known_name(versions: Versions, name: str) -> str:
    if name not in versions.names:
        raise UsageError(
            f"nobody has decided on a model called {name!r}",
            hint=f"known: {', '.join(versions.names) or 'none'}",
        )
    return name


def _said(home: SiteHome, why: str) -> Said:
    return Said(home.read_config().hospital, why, _now())


def _decide(home: SiteHome, before: Versions, own: ModelStates) -> Versions:
    """Sign and store this hospital's decisions on one model, and enter the new ones in the log."""
    after = before.with_own(own.signed(home.open_identity()))
    _write(home, after)
    known = len(_called(before.own, own.name).decisions)
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


def _write(home: SiteHome, versions: Versions) -> None:
    make_private_directory(home.directory / FOLDER)
    write_private(_path(home), versions.to_bytes())


def _path(home: SiteHome) -> Path:
    return home.directory / FOLDER / "versions.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
