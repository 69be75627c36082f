"""Which version of a model answers at this hospital.

    1. the agent asks every few seconds for the coordinator's decisions, and refuses a list that
       does not continue the one it has;
    2. if the version in use here was withdrawn there, the one that was in use before takes its
       place at once;
    3. every use of a model asks here whether it is withdrawn, by the coordinator or by this
       hospital;
    4. only this hospital puts a version into use, from files that are in its own folder and that
       passed every check of ``flo model fetch``.

All decisions are in one file of the site's folder; this hospital's are signed with its key. They
name no patient.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

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
_LIMIT = 64 << 20
LATE = timedelta(minutes=5)  # an agent that runs asks every few seconds
_SOON = timedelta(minutes=1)  # before ``seen`` is written again
_Lists = Annotated[tuple[ModelStates, ...], Field(max_length=_MOST_MODELS)]


class Versions(Document):
    """``theirs``: the coordinator's decisions, ``own``: this hospital's, by model.

    ``seen``: when the coordinator's were asked for last; empty if never.
    """

    schema_version: Literal[1] = 1
    seen: Annotated[str, StringConstraints(max_length=40)] = ""
    theirs: _Lists = ()
    own: _Lists = ()

    @property
    def names(self) -> list[str]:
        """Names of the models that anybody decided on, sorted."""
        return sorted({one.name for one in (*self.theirs, *self.own)})

    def of(self, name: str) -> tuple[ModelStates, ModelStates]:
        """Return the coordinator's and this hospital's decisions on a model."""
        return _called(self.theirs, name), _called(self.own, name)

    def current(self, name: str) -> ModelVersion | None:
        """Return the version that answers here; None if none does."""
        return in_use(*self.of(name)) if name in self.names else None

    def last_on(self, card: str) -> tuple[ModelDecision, ...]:
        """Return the last decision of each party on the version with this card."""
        found = (states.last_on(card) for states in (*self.theirs, *self.own))
        return tuple(one for one in found if one is not None)

    def withdrawal(self, name: str, card: str) -> ModelDecision | None:
        """Return the decision by which a version is withdrawn; None if it is not."""
        return withdrawal(*self.of(name), card)

    def late(self, after: timedelta) -> str:
        """Return when the coordinator was asked last, if that is this long ago; else ""."""
        if self.seen and datetime.now(UTC) - datetime.fromisoformat(self.seen) < after:
            return ""
        return self.seen[:16] or "ever"

    def changed(self, before: Versions) -> bool:
        """Return whether anybody has decided since."""
        return (self.theirs, self.own) != (before.theirs, before.own)

    def with_own(self, states: ModelStates) -> Versions:
        """Return the same with other decisions of this hospital on one model."""
        others = tuple(one for one in self.own if one.name != states.name)
        return self.model_copy(update={"own": (*others, states)})


def _called(several: tuple[ModelStates, ...], name: str) -> ModelStates:
    return next((one for one in several if one.name == name), ModelStates(name=name))


class _Shown(Document):
    """``states``: None if they are those that the site has."""

    states: Annotated[tuple[ModelStates, ...], Field(max_length=_MOST_MODELS)] | None


def read(home: SiteHome) -> Versions:
    """Return the decisions that this site has, with every signature checked.

    Raises TrustError: a list is signed by another party, or was changed.
    """
    path = _path(home)
    if not path.exists():
        return Versions()
    return home.read_unchanged(lambda: _checked(home, path), path)


def _checked(home: SiteHome, path: Path) -> Versions:
    found = read_json(Versions, path, limit=_LIMIT)
    if found.own:
        own = home.open_identity().fingerprint
        for states in found.own:
            states.check([own])
    if found.theirs:
        signers = home.read_coordinator().fingerprints
        for states in found.theirs:
            states.check(signers)
    return found


def ask(home: SiteHome, api: CoordinatorApi) -> Versions:
    """Ask for the coordinator's decisions, check and store them, and obey its withdrawals. [1, 2]

    Raises:
        TrustError: a list is not signed by the coordinator, or does not continue the one that this
        site has. Nothing is stored then.
    """
    known = read(home)
    answer = api.call("states", {"known": digest_of_all(known.theirs)})
    told = parse(_Shown, answer, "the coordinator's decisions on models").states
    shown = known.theirs if told is None else told
    for states in shown:
        states.check(home.read_coordinator().fingerprints)
    _refuse_rewritten(known.theirs, shown)
    with home.models_lock():
        before = read(home)
        # The agent and a command may ask at the same time: the longer list is the later one.
        longer = [max(one, _called(before.theirs, one.name), key=_length) for one in shown]
        _refuse_rewritten(before.theirs, longer)
        after = before.model_copy(update={"theirs": tuple(longer), "seen": _now()})
        for name in after.names:
            theirs, own = after.of(name)
            obeying = obeyed(theirs, own, _now())
            if obeying != own:
                _record(home, own, obeying)
                after = after.with_own(obeying.signed(home.open_identity()))
        if after.changed(before) or before.late(_SOON):
            _write(home, after)
    return after


def _length(states: ModelStates) -> int:
    return len(states.decisions)


def _refuse_rewritten(known: Iterable[ModelStates], shown: Iterable[ModelStates]) -> None:
    """Raise TrustError unless what is shown continues every list that is known."""
    by_name = {states.name: states for states in shown}
    for earlier in known:
        later = by_name.get(earlier.name)
        if later is None or not later.continues(earlier):
            raise TrustError(
                f"the coordinator shows decisions on {earlier.name} that do not continue the "
                f"{len(earlier.decisions)} that this site has",
                hint="ask its operator. If it only restored a backup: flo model states "
                "--begin-anew; what it withdrew since must be withdrawn again",
            )


def begin_anew(home: SiteHome) -> None:
    """Forget the coordinator's decisions, so that the next ones asked for are the first.

    Versions that this hospital withdrew, also because the coordinator did, stay withdrawn.
    """
    with home.models_lock():
        _write(home, read(home).model_copy(update={"theirs": (), "seen": ""}))
    home.record("model-states-forgotten")


def promote(home: SiteHome, api: CoordinatorApi, wanted: str, why: str) -> tuple[str, ModelVersion]:
    """Fetch a version that the coordinator approved, and put it into use here. [4]

    Return the model's name and the version.

    Raises:
        UsageError: no such version. StudyError: it is in use already. RefusedError: the coordinator
        has not approved it. And as ``fetch``.
    """
    versions = ask(home, api)
    name, model = _find(versions, wanted)
    theirs, _ = versions.of(name)
    state = theirs.state_of(model.card)
    if state not in ("approved", "current"):
        raise RefusedError(
            f"the coordinator has not approved version {model.version} of {name}: it is {state}"
        )
    make_private_directory(home.directory / FOLDER)
    fetch(home, api, model.study, home.directory / FOLDER)
    refuse_missing(home, model)
    with home.models_lock():
        before = read(home)
        theirs, own = before.of(name)
        if withdrawal(theirs, ModelStates(name=name), model.card) is not None:
            raise RefusedError(f"the coordinator has just withdrawn version {model.version}")
        _decide(home, before, own.put_into_use(model, _said(home, why)))
    return name, model


def rollback(home: SiteHome, name: str, why: str) -> ModelVersion:
    """Withdraw the version in use here, and put the one before it back; return that one.

    Raises StudyError: none is in use, or none was before.
    """
    with home.models_lock():
        before = read(home)
        theirs, own = before.of(_known_name(before, name))
        after = own.rolled_back(_said(home, why), theirs)
        back = after.current
        assert back is not None
        refuse_missing(home, back)
        _decide(home, before, after)
    return back


def withdraw(home: SiteHome, wanted: str, why: str) -> tuple[str, ModelVersion]:
    """Take a version out of use here; return the model's name and the version.

    A name alone means the version in use here. Raises UsageError: unknown. StudyError: it is
    withdrawn already.
    """
    with home.models_lock():
        before = read(home)
        in_use_here = before.current(wanted)
        name, model = (wanted, in_use_here) if in_use_here else _find(before, wanted)
        _, own = before.of(name)
        _decide(home, before, own.withdrawn(model, _said(home, why)))
    return name, model


def refuse_withdrawn(home: SiteHome, model: PublishedModel) -> None:
    """Raise RefusedError if the coordinator or this hospital withdrew a version. [3]"""
    name, card = model.study.name, model.card.digest
    last = read(home).withdrawal(name, card)
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
    for path in sorted((home.directory / FOLDER).glob("*.card.json")):
        if (
            path.stat().st_size <= MAX_CARD_BYTES
            and canonical.digest(path.read_bytes()) == model.card
        ):
            return path
    return None


def _find(versions: Versions, wanted: str) -> tuple[str, ModelVersion]:
    """Return the name and the version that ``wanted`` means (see ``flo.study.reference``).

    A name alone means the version that the coordinator has made current, if there is one.
    """
    found = dict[str, tuple[str, ModelVersion]]()
    for states in (*versions.theirs, *versions.own):
        if states.name == wanted and states.current is not None:
            return wanted, states.current
        found |= {one.model.study: (states.name, one.model) for one in states.decisions}
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


def _decide(home: SiteHome, before: Versions, own: ModelStates) -> None:
    """Sign and store this hospital's decisions on one model, and enter the new ones in the log."""
    _record(home, _called(before.own, own.name), own)
    _write(home, before.with_own(own.signed(home.open_identity())))


def _record(home: SiteHome, before: ModelStates, own: ModelStates) -> None:
    """Enter this hospital's new decisions on a model in the audit log, before they count."""
    with closing(home.open_audit_log()) as log:
        for one in own.decisions[len(before.decisions) :]:
            log.append(
                "model-decided",
                one.model.study,
                name=own.name,
                version=one.model.version,
                state=one.state,
                by=one.by,
                why=one.why,
            )


def _write(home: SiteHome, versions: Versions) -> None:
    make_private_directory(home.directory / FOLDER)
    write_private(_path(home), versions.to_bytes())


def _path(home: SiteHome) -> Path:
    return home.directory / FOLDER / "versions.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
