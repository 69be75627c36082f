"""What the coordinator decided on models, fetched by this hospital.

Steps 1 and 2 of ``flo.clients.prediction.versions``.
"""

from __future__ import annotations

from datetime import timedelta

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import versions
from flo.clients.prediction.versions import Lists, Versions, called, decide, now, said
from flo.documents.document import Document, parse
from flo.errors import TrustError
from flo.published.model_states import ModelStates, digest_of_all, obeyed

_MOST_WORDS = 400
_SOON = timedelta(minutes=1)  # before ``seen`` is written again


class RefusedListError(TrustError):
    """The coordinator shows decisions on models that it did not sign, or took one back."""


class _Shown(Document):
    """``states``: None if they are those that the site has."""

    states: Lists | None


def ask(home: SiteHome, api: CoordinatorApi) -> Versions:
    """Ask for the coordinator's decisions, check and store them, and obey its withdrawals. [1, 2]

    Each list is judged for itself. Of one that does not continue ours, only the withdrawals count.

    Raises:
        RefusedListError: the coordinator did not sign a list, or one does not continue the one that
        this site has. All that could be believed is stored and obeyed then.
    """
    known = versions.read(home)
    shown = _shown(api, known.theirs)
    wrong = list[str]()
    with home.models_lock():
        before = versions.read(home)
        after = before
        for states in shown or ():
            try:
                states.check(home.read_coordinator().fingerprints)
            except TrustError as error:
                wrong.append(f"{error}. {error.hint}")
                continue
            after = _with_theirs(after, states)
            if not states.continues(called(known.theirs, states.name)):
                wrong.append(f"that on {states.name} takes back a decision that this site has")
        if shown is not None:
            named = {states.name for states in shown}
            missing = [states.name for states in known.theirs if states.name not in named]
            wrong += [f"none is shown on {name}, and this site has one" for name in missing]
        if not wrong:  # whoever cannot believe the coordinator has not heard of it
            after = after.model_copy(update={"seen": now()})
        changed = (after.theirs, after.forks) != (before.theirs, before.forks)
        if changed or before.late(_SOON):
            versions.write(home, after)  # from here on, what was withdrawn does not answer
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


def _with_theirs(found: Versions, states: ModelStates) -> Versions:
    """Return the site's decisions with a list that the coordinator signed.

    The agent and a command may ask at the same time, and the earlier answer may arrive last: then
    the longer list is kept.
    """
    ours = called(found.theirs, states.name)
    if ours.continues(states) and ours.public == states.public:
        return found
    kind = "theirs" if states.continues(ours) or ours.continues(states) else "forks"
    longer = states if kind == "forks" or states.continues(ours) else ours
    kept = tuple(one for one in getattr(found, kind) if one.name != states.name)
    return found.model_copy(update={kind: (*kept, longer)})


def _obey(home: SiteHome, found: Versions) -> Versions:
    """Put back what was in use before, wherever the coordinator withdrew what is."""
    for name in found.names:
        own = called(found.own, name)
        after = obeyed(own, *found.others(name), time=now())
        if after != own:
            found = decide(home, found, after)
    return found


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
        before = versions.read_unchecked(home)
        for states in before.own:
            states.check([home.open_identity().fingerprint])
        home.record("model-states-forgotten", models=before.names)
        after = before.model_copy(update={"theirs": shown, "forks": (), "seen": now()})
        for name in before.names:
            for one in before.known_versions(name):
                old, new = before.withdrawal(name, one.study), after.withdrawal(name, one.study)
                if old is not None and new is None:
                    own = called(after.own, name).withdrawn(one, said(home, old.why))
                    after = after.with_own(own.signed(home.open_identity()))
        versions.write(home, after)
    return after
