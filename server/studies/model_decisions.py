"""The coordinator's decisions on its published models: approve, promote, roll back, withdraw.

A decision is signed, stored together with its entry in the audit log, and told to every hospital of
the model's studies when its agent asks next (``flo.clients.prediction.versions``). To withdraw a
version needs none of its files.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Literal

from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import FloError, StudyError
from flo.keys.identity import Signer
from flo.privacy.releases.gate_decision import Verdict
from flo.published.gate_passed import beside, gates_of, has_passed
from flo.published.model_card import PublishedModel, read_card
from flo.published.model_states import (
    MAX_STATES_BYTES,
    ModelDecision,
    ModelStates,
    ModelVersion,
    Said,
    State,
    withdrawal,
)
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.store.store import Offer, Store
from flo.server.studies.publish import published
from flo.study.document import UNDER_WAY
from flo.study.terms import Identifier

log = logging.getLogger("flo.server.studies")

Step = Literal["approve", "promote", "rollback", "withdraw"]


class ListedModel(Document):
    """A version of a model and its state. ``decided``: the last decision; None for a candidate."""

    name: Identifier
    model: ModelVersion
    state: State
    decided: ModelDecision | None


def states_of(store: Store, name: str) -> ModelStates:
    """Return the decisions on a model; none if nobody has decided yet."""
    document = store.model_states().get(name)
    return _read(document) if document is not None else ModelStates(name=name)


def all_states(store: Store) -> list[ModelStates]:
    """Return the decisions on all models, by name."""
    return [_read(document) for _, document in sorted(store.model_states().items())]


def listed_models(store: Store) -> list[ListedModel]:
    """Return the versions that are published here or were decided on, by name and number.

    A card that cannot be read is left out, and logged.
    """
    known = {name: states_of(store, name) for name in store.model_states()}
    found = {one.study: (name, one) for name, states in known.items() for one in states.versions}
    for offer in store.offers():
        paths = published(store, offer.study.digest)
        if paths is None or offer.study.digest in found:
            continue
        try:
            card = read_card(paths[0]).digest
        except FloError as error:
            log.warning(f"{paths[0].name} is left out of the list of models: {error}")
            continue
        version = ModelVersion(version=offer.study.version, study=offer.study.digest, card=card)
        found[offer.study.digest] = (offer.study.name, version)
    listed = [
        ListedModel(
            name=name,
            model=one,
            state=known[name].state_of(one.study) if name in known else "candidate",
            decided=known[name].last_on(one.study) if name in known else None,
        )
        for name, one in found.values()
    ]
    return sorted(listed, key=lambda one: (one.name, one.model.version))


@functools.lru_cache(maxsize=512)
def _read(document: bytes) -> ModelStates:
    """Parse a list, cached: every hospital asks for all of them every few seconds."""
    value = canonical.decode(document, limit=MAX_STATES_BYTES, what="decisions on a model")
    return parse(ModelStates, value, "decisions on a model")


def decide(
    home: CoordinatorHome, store: Store, offer: Offer, step: Step, why: str, person: str
) -> ModelStates:
    """Take one step for the model of a study; return all decisions on models of its name.

    Raises:
        StudyError: the study has no published model, its model may not take this step, or it was
        asked for a release gate and has passed none; or the version that a rollback would put back
        cannot be used.
    """
    before = states_of(store, offer.study.name)
    said = Said(person, why, datetime.now(UTC).isoformat(timespec="milliseconds"))
    if step in ("rollback", "withdraw"):
        model = _named(store, offer, before)
        if step == "withdraw":
            after = before.withdrawn(model, said)
        else:
            after = before.rolled_back(model, said)
            _refuse_unusable(home, store, after)
    else:
        opened = _opened(home, store, offer)
        refuse_failed(home, store, offer, opened)
        model = ModelVersion(
            version=offer.study.version, study=offer.study.digest, card=opened.card.digest
        )
        after = before.approved(model, said) if step == "approve" else before.promoted(model, said)
    signed = after.signed(home.open_identity())
    facts = [
        (
            one.model.study,
            one.model_dump(mode="json", include={"state", "by", "why"})
            | {"version": one.model.version, "card": one.model.card},
        )
        for one in after.decisions[len(before.decisions) :]
    ]
    store.keep_model_states(signed.name, signed.to_bytes(), facts)
    return signed


def sign_anew(store: Store, identity: Signer) -> None:
    """Sign the lists that an earlier key signed: new hospitals know only the present one."""
    for states in all_states(store):
        if states.public != identity.public.hex():
            store.keep_model_states(states.name, states.signed(identity).to_bytes(), [])


def _named(store: Store, offer: Offer, states: ModelStates) -> ModelVersion:
    """Return what a decision names of a study's model, though its files may be gone."""
    last = states.last_on(offer.study.digest)
    if last is not None:
        return last.model
    paths = published(store, offer.study.digest)
    if paths is None:
        raise _no_model(offer)
    card = read_card(paths[0]).digest
    return ModelVersion(version=offer.study.version, study=offer.study.digest, card=card)


def _refuse_unusable(home: CoordinatorHome, store: Store, after: ModelStates) -> None:
    """Raise StudyError unless the version that becomes current again can be used."""
    back = after.current
    assert back is not None
    try:
        offer = store.offer(back.study)
        if offer is None or _opened(home, store, offer).card.digest != back.card:
            raise StudyError("its files are those of another card")
    except FloError as error:
        raise StudyError(
            f"version {back.version} of {after.name}, which was in use before, cannot be put "
            f"back: {error}",
            hint=f"flo model withdraw {after.name}:{back.version} first, then go back; or withdraw "
            "the version in use, and none is current",
        ) from error


def refuse_failed(home: CoordinatorHome, store: Store, offer: Offer, model: PublishedModel) -> None:
    """Raise StudyError if gates were asked about a model, and it has not passed or has failed one.

    A gate whose result is not there yet counts as not passed. A model about which no gate was asked
    may be promoted: its hospitals' policies say whether they need one.
    """
    found = published(store, offer.study.digest)
    assert found is not None
    said: dict[str, Verdict] = {
        study.digest: sums.comparison(study).verdict
        for study, sums in gates_of(model, beside(found[0], model.card), home.fingerprints())
    }
    waiting = [
        one.study.name
        for one in store.offers()
        if one.study.gate is not None
        and one.study.gate.candidate == model.card.digest
        and one.status in (*UNDER_WAY, "done")
        and one.study.digest not in said
    ]
    if offer.study.gate is not None and model.card.gate is None:
        waiting.append(offer.study.name)  # its run ended before its gate
    if waiting or (said and not has_passed(list(said.values()))):
        verdicts = [*said.values(), *(f"no result of {name}" for name in waiting)]
        raise StudyError(
            f"the model of {offer.study.name}, version {offer.study.version}, has not passed its "
            f"release gate ({', '.join(verdicts)})",
            hint="wait for a gate under way; flo model gate compares again, as long as the gates' "
            "error budget lasts",
        )


def refuse_withdrawn(states: Collection[ModelStates], study: str) -> None:
    """Raise StudyError if a study's model is withdrawn in one of the lists on its name."""
    last = withdrawal(states, study)
    if last is not None:
        raise StudyError(
            f"version {last.model.version} was withdrawn on {last.time[:16]} by {last.by}: "
            f"{last.why}",
            hint="flo model states lists the versions and which of them is current",
        )


def _opened(home: CoordinatorHome, store: Store, offer: Offer) -> PublishedModel:
    found = published(store, offer.study.digest)
    if found is None:
        raise _no_model(offer)
    return PublishedModel.open(found[0], *home.fingerprints())


def _no_model(offer: Offer) -> StudyError:
    return StudyError(
        f"study {offer.study.name}, version {offer.study.version}, has no published model",
        hint="a model is published some seconds after its run has ended",
    )
