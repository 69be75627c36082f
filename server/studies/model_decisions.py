"""The coordinator's decisions on its published models: promote, roll back, withdraw.

A decision is signed, stored together with its entry in the audit log, and told to every hospital of
the model's studies when its agent asks next (``flo.clients.prediction.versions``).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import StudyError
from flo.published.gate_passed import beside, gates_of, has_passed
from flo.published.model_card import ModelCard, PublishedModel, read_card
from flo.published.model_states import (
    MAX_STATES_BYTES,
    ModelDecision,
    ModelStates,
    ModelVersion,
    Said,
    State,
)
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.store.store import Offer, Store
from flo.server.studies.publish import published
from flo.study.document import Study
from flo.study.terms import Identifier

Step = Literal["promote", "rollback", "withdraw"]


class ListedModel(Document):
    """A published model and its state. ``decided``: the last decision; None for a candidate."""

    name: Identifier
    model: ModelVersion
    run: Identifier
    state: State
    decided: ModelDecision | None

    @classmethod
    def of(cls, study: Study, card: ModelCard, states: ModelStates) -> ListedModel:
        """Return the entry of a model with this card."""
        model = ModelVersion(version=study.version, study=study.digest, card=card.digest)
        return cls(
            name=study.name,
            model=model,
            run=card.run,
            state=states.state_of(card.digest),
            decided=states.last_on(card.digest),
        )


def states_of(store: Store, name: str) -> ModelStates:
    """Return the decisions on a model; none if nobody has decided yet."""
    return next((one for one in all_states(store) if one.name == name), ModelStates(name=name))


def all_states(store: Store) -> list[ModelStates]:
    """Return the decisions on all models, by name."""
    return [_read(document) for _, document in sorted(store.model_states().items())]


def published_models(store: Store) -> list[ListedModel]:
    """Return all models that are published here, the oldest first."""
    found = []
    for offer in store.offers():
        paths = published(store, offer.study.digest)
        if paths is not None:
            card, states = read_card(paths[0]), states_of(store, offer.study.name)
            found.append(ListedModel.of(offer.study, card, states))
    return found


def _read(document: bytes) -> ModelStates:
    value = canonical.decode(document, limit=MAX_STATES_BYTES, what="decisions on a model")
    return parse(ModelStates, value, "decisions on a model")


def decide(
    home: CoordinatorHome, store: Store, offer: Offer, step: Step, why: str, person: str
) -> ModelStates:
    """Take one step for the model of a study; return all decisions on models of its name.

    ``rollback`` concerns the version in use, which may be of another study of this name.

    Raises:
        StudyError: the study has no published model, its model may not take this step, or it was
        asked for a release gate and has passed none.
    """
    name = offer.study.name
    before = states_of(store, name)
    said = Said(person, why, datetime.now(UTC).isoformat(timespec="milliseconds"))
    if step == "rollback":
        after = before.rolled_back(said)
    elif step == "withdraw":
        after = before.withdrawn(version_of(home, store, offer), said)
    else:
        model = version_of(home, store, offer)
        after = before.promoted(model, said)
        refuse_failed(home, store, offer)
    signed = after.signed(home.open_identity())
    facts = [
        one.model_dump(mode="json", include={"state", "by", "why"})
        | {"version": one.model.version, "card": one.model.card}
        for one in after.decisions[len(before.decisions) :]
    ]
    store.keep_model_states(name, signed.to_bytes(), offer.study.digest, facts)
    return signed


def version_of(home: CoordinatorHome, store: Store, offer: Offer) -> ModelVersion:
    """Return what a decision names of a study's model. Raises StudyError: none is published."""
    card = _opened(home, store, offer).card
    return ModelVersion(version=offer.study.version, study=offer.study.digest, card=card.digest)


def refuse_failed(home: CoordinatorHome, store: Store, offer: Offer) -> None:
    """Raise StudyError if gates were asked about a model, and it has not passed or has failed one.

    A model about which no gate was asked may be promoted: its hospitals' policies say whether they
    need one.
    """
    found = published(store, offer.study.digest)
    assert found is not None
    model = _opened(home, store, offer)
    results = beside(found[0], model.card)
    said = {
        study.name: sums.comparison(study).verdict
        for study, sums in gates_of(model, results, home.fingerprints())
    }
    if offer.study.gate is not None and model.card.gate is None:
        said[offer.study.name] = "cannot tell"  # its run ended before its gate
    if said and not has_passed(list(said.values())):
        verdicts = ", ".join(f"{study}: {verdict}" for study, verdict in said.items())
        raise StudyError(
            f"the model of {offer.study.name}, version {offer.study.version}, has not passed its "
            f"release gate ({verdicts})",
            hint="flo model gate compares it again, as long as the gates' error budget lasts",
        )


def refuse_withdrawn(states: ModelStates, card: str) -> None:
    """Raise StudyError if the version with this card is withdrawn."""
    last = states.last_on(card)
    if last is not None and last.state == "withdrawn":
        raise StudyError(
            f"version {last.model.version} of {states.name} was withdrawn on {last.time[:16]}: "
            f"{last.why}",
            hint="flo model states lists the versions and which of them is current",
        )


def _opened(home: CoordinatorHome, store: Store, offer: Offer) -> PublishedModel:
    found = published(store, offer.study.digest)
    if found is None:
        raise StudyError(
            f"study {offer.study.name}, version {offer.study.version}, has no published model",
            hint="a model is published some seconds after its run has ended",
        )
    return PublishedModel.open(found[0], *home.fingerprints())
