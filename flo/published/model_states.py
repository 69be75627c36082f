"""Candidate, approved, current, withdrawn: which version of a model may be used, and who decided.

A *model* is what all versions of one study's name are called. A version's state is the last
decision on it:

    candidate   published; nobody has decided on it
    approved    may be put into use
    current     is in use; one version at most, and making another one current makes it approved
    withdrawn   must not be used, until somebody promotes it again

The coordinator signs the list of decisions on each model, and every hospital signs a list of its
own. A list only grows, so whoever has an earlier copy notices a decision that was taken back.

A version is put into use at a hospital by this hospital alone, and is taken out of use by either
side (``in_use``, ``obeyed``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import StudyError, TrustError
from flo.keys.claims import Digest, PublicKey, Signature
from flo.keys.identity import Signer, fingerprint, verify
from flo.study.schema import only_printable
from flo.study.terms import Identifier

MOST_DECISIONS = 1000  # on the versions of one model
MOST_PROMOTIONS = 900  # decisions before one that puts a version into use: room for withdrawals
MAX_STATES_BYTES = 4 << 20
MOST_WHY = 500  # characters of a reason

Decided = Literal["approved", "current", "withdrawn"]
State = Literal["candidate"] | Decided
Why = Annotated[
    str, StringConstraints(min_length=1, max_length=MOST_WHY), AfterValidator(only_printable)
]
_PURPOSE = "model-states"
_Person = Annotated[
    str, StringConstraints(min_length=1, max_length=80), AfterValidator(only_printable)
]
_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00$"


class ModelVersion(Document):
    """A published version. ``study``, ``card``: SHA-256 of each."""

    version: Annotated[int, Field(ge=1)]
    study: Digest
    card: Digest


class ModelDecision(Document):
    """One decision on one version. ``by``: who decided, ``why``: in their words; ``time``: UTC."""

    model: ModelVersion
    state: Decided
    by: _Person
    why: Why
    time: Annotated[str, StringConstraints(pattern=_TIME)]


@dataclass(frozen=True)
class Said:
    """Who decides, why and when: as in ``ModelDecision``."""

    by: str
    why: str
    time: str


class ModelStates(Document):
    """All decisions of one party on one model, the oldest first.

    ``public``, ``signature``: of the party that decided; empty until ``signed``.
    """

    schema_version: Literal[1] = 1
    name: Identifier
    decisions: Annotated[tuple[ModelDecision, ...], Field(max_length=MOST_DECISIONS)] = ()
    public: PublicKey | Literal[""] = ""
    signature: Signature | Literal[""] = ""

    @model_validator(mode="after")
    def _each_version_is_one_model(self) -> ModelStates:
        versions = {one.model.card: one.model for one in self.decisions}
        if any(versions[one.model.card] != one.model for one in self.decisions):
            raise ValueError("two decisions on one card name different versions")
        return self

    # -- what was decided ------------------------------------------------------------------------

    @property
    def states(self) -> dict[str, State]:
        """Card -> its state, for the versions that were decided on."""
        found = dict[str, State]()
        for one in self.decisions:
            if one.state == "current":
                found |= {card: "approved" for card, state in found.items() if state == "current"}
            found[one.model.card] = one.state
        return found

    def state_of(self, card: str) -> State:
        """Return the state of the version with this card."""
        return self.states.get(card, "candidate")

    def last_on(self, card: str) -> ModelDecision | None:
        """Return the last decision on a version; None if it is a candidate."""
        return next((one for one in reversed(self.decisions) if one.model.card == card), None)

    @property
    def current(self) -> ModelVersion | None:
        """The version in use; None if there is none."""
        states = self.states
        in_order = (one.model for one in self.decisions if states[one.model.card] == "current")
        return next(in_order, None)

    def previous(self, theirs: ModelStates | None = None) -> ModelVersion | None:
        """Return the version that takes the current one's place if that is withdrawn.

        The latest that was current and that is withdrawn by neither list; None if there is none.
        """
        theirs, now = theirs or ModelStates(name=self.name), self.current
        for one in reversed(self.decisions):
            sound = withdrawal(theirs, self, one.model.card) is None
            if one.state == "current" and one.model != now and sound:
                return one.model
        return None

    def continues(self, earlier: ModelStates) -> bool:
        """Return whether this is ``earlier``, perhaps with more decisions."""
        count = len(earlier.decisions)
        return self.name == earlier.name and self.decisions[:count] == earlier.decisions

    # -- decisions -------------------------------------------------------------------------------

    def with_decision(self, model: ModelVersion, state: Decided, said: Said) -> ModelStates:
        """Return the list with one decision more, not signed yet.

        Raises StudyError: the list is full. UsageError: the reason is empty, too long, or has
        characters that could move or hide text.
        """
        self._refuse_full(MOST_DECISIONS)
        about = {"state": state, "by": said.by, "why": said.why, "time": said.time}
        decision = parse(ModelDecision, about | {"model": model}, "the decision")
        return self.model_copy(
            update={"decisions": (*self.decisions, decision), "public": "", "signature": ""}
        )

    def promoted(self, model: ModelVersion, said: Said) -> ModelStates:
        """Return the list after the next step up: to approved, and from there to current.

        Raises StudyError: the version is current already.
        """
        state = self.state_of(model.card)
        if state == "current":
            raise StudyError(f"version {model.version} of {self.name} is current already")
        self._refuse_full(MOST_PROMOTIONS)
        return self.with_decision(model, "current" if state == "approved" else "approved", said)

    def put_into_use(self, model: ModelVersion, said: Said) -> ModelStates:
        """Return a hospital's list after it made a version current. Raises as ``promoted``."""
        if self.current == model:
            raise StudyError(f"version {model.version} of {self.name} is in use here already")
        self._refuse_full(MOST_PROMOTIONS)
        return self.with_decision(model, "current", said)

    def withdrawn(self, model: ModelVersion, said: Said) -> ModelStates:
        """Return the list after a version was taken out of use.

        Raises StudyError: it is withdrawn already.
        """
        last = self.last_on(model.card)
        if last is not None and last.state == "withdrawn":
            raise StudyError(
                f"version {model.version} of {self.name} is withdrawn already, since {last.time}: "
                f"{last.why}"
            )
        return self.with_decision(model, "withdrawn", said)

    def rolled_back(self, said: Said, theirs: ModelStates | None = None) -> ModelStates:
        """Return the list after the current version was withdrawn, and the one before put back.

        ``theirs``: the coordinator's list, if this is a hospital's: what it withdrew is not put
        back. Raises StudyError: no version is current, or none was before.
        """
        current = self.current
        if current is None:
            raise StudyError(
                f"no version of {self.name} is current, so there is none to go back from",
                hint="flo model promote puts a version into use",
            )
        before = self.previous(theirs)
        if before is None:
            raise StudyError(
                f"no version of {self.name} that can be used was current before version "
                f"{current.version}",
                hint="flo model withdraw takes it out of use; then no version answers",
            )
        return self.withdrawn(current, said).with_decision(before, "current", said)

    def _refuse_full(self, most: int) -> None:
        if len(self.decisions) >= most:
            raise StudyError(
                f"{len(self.decisions)} decisions were made on {self.name}, and {most} are kept",
                hint="publish the next version under another name of the study",
            )

    # -- signature -------------------------------------------------------------------------------

    def signed(self, identity: Signer) -> ModelStates:
        """Return a copy signed by the party that decided."""
        public = identity.public.hex()
        unsigned = self.model_copy(update={"public": public, "signature": ""})
        return unsigned.model_copy(
            update={"signature": identity.sign(_PURPOSE, unsigned._statement())}
        )

    def check(self, signers: Iterable[str]) -> None:
        """Raise TrustError unless a key of one of these fingerprints signed the list."""
        public = bytes.fromhex(self.public)
        if fingerprint(public) not in set(signers):
            raise TrustError(f"the decisions on {self.name} are signed by another party")
        verify(public, _PURPOSE, self._statement(), self.signature)

    def _statement(self) -> bytes:
        return canonical.encode(self.model_dump(mode="json", exclude={"signature"}))


def digest_of_all(several: Iterable[ModelStates]) -> str:
    """Return the SHA-256 of lists, in any order: whether there is anything new."""
    by_name = {one.name: one.model_dump(mode="json") for one in several}
    return canonical.digest(canonical.encode(by_name))


def withdrawal(theirs: ModelStates, own: ModelStates, card: str) -> ModelDecision | None:
    """Return the decision by which a version is withdrawn at a hospital; None if it is not.

    ``theirs``: the coordinator's list, which counts first. ``own``: the hospital's.
    """
    for states in (theirs, own):
        last = states.last_on(card)
        if last is not None and last.state == "withdrawn":
            return last
    return None


def in_use(theirs: ModelStates, own: ModelStates) -> ModelVersion | None:
    """Return the version that answers at a hospital; None if none does."""
    current = own.current
    return current if current and withdrawal(theirs, own, current.card) is None else None


def obeyed(theirs: ModelStates, own: ModelStates, time: str) -> ModelStates:
    """Return the hospital's list once its current version was withdrawn by the coordinator.

    The latest version that was current here, and that neither side has withdrawn, takes its place.
    """
    current = own.current
    last = theirs.last_on(current.card) if current else None
    if current is None or last is None or last.state != "withdrawn":
        return own
    said = Said("coordinator", f"{last.by} withdrew it: {last.why}"[:MOST_WHY], time)
    after, before = own.withdrawn(current, said), own.previous(theirs)
    return after.with_decision(before, "current", said) if before else after
