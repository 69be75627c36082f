"""Candidate, approved, current, withdrawn: which version of a model may be used, and who decided.

A *model* is what all versions of one study's name are called. A version's state is the last
decision on it:

    candidate   published; nobody has decided on it
    approved    may be put into use
    current     is in use; one version at most, and making another one current makes it approved
    withdrawn   must not be used, until somebody approves it again

The coordinator signs the list of decisions on each model, and every hospital signs a list of its
own. A list only grows, so whoever has an earlier copy notices a decision that was taken back.

A version is put into use at a hospital by this hospital alone, and is taken out of use by either
side (``in_use``, ``obeyed``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import StudyError, TrustError
from flo.keys.claims import Digest, PublicKey, Signature
from flo.keys.identity import Signer, fingerprint, verify
from flo.study.names import only_printable
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

    A version is its study, of which there is one model: whoever withdraws it also means the same
    model with another card. ``public``, ``signature``: of the party that decided; empty until
    ``signed``.
    """

    schema_version: Literal[1] = 1
    name: Identifier
    decisions: Annotated[tuple[ModelDecision, ...], Field(max_length=MOST_DECISIONS)] = ()
    public: PublicKey | Literal[""] = ""
    signature: Signature | Literal[""] = ""

    # -- what was decided ------------------------------------------------------------------------

    @property
    def states(self) -> dict[str, State]:
        """Study -> the state of its model, for the versions that were decided on."""
        found = dict[str, State]()
        for one in self.decisions:
            if one.state == "current":
                found |= {study: "approved" for study, state in found.items() if state == "current"}
            found[one.model.study] = one.state
        return found

    def state_of(self, study: str) -> State:
        """Return the state of a study's model."""
        return self.states.get(study, "candidate")

    def last_on(self, study: str) -> ModelDecision | None:
        """Return the last decision on a study's model; None if it is a candidate."""
        return next((one for one in reversed(self.decisions) if one.model.study == study), None)

    @property
    def versions(self) -> list[ModelVersion]:
        """The versions that were decided on, each as the last decision names it, by number."""
        last = {one.model.study: one.model for one in self.decisions}
        return sorted(last.values(), key=lambda one: one.version)

    @property
    def current(self) -> ModelVersion | None:
        """The version in use; None if there is none."""
        states = self.states
        return next((one for one in self.versions if states[one.study] == "current"), None)

    def previous(self, *others: ModelStates) -> ModelVersion | None:
        """Return the version that takes the current one's place if that is withdrawn.

        The latest that was current and that neither this list nor the others withdrew; None if
        there is none.
        """
        now = self.current
        for one in reversed(self.decisions):
            sound = withdrawal((*others, self), one.model.study) is None
            other = now is None or one.model.study != now.study
            if one.state == "current" and other and sound:
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

    def approved(self, model: ModelVersion, said: Said) -> ModelStates:
        """Return the list after a candidate or withdrawn version was approved.

        Raises StudyError: it is approved or current already, or the list is full.
        """
        last = self.last_on(model.study)
        if last is not None and last.state != "withdrawn":
            raise StudyError(
                f"version {model.version} of {self.name} is {self.state_of(model.study)} already, "
                f"since {last.time[:16]}"
            )
        self._refuse_full(MOST_PROMOTIONS)
        return self.with_decision(model, "approved", said)

    def promoted(self, model: ModelVersion, said: Said) -> ModelStates:
        """Return the list after an approved version was made current.

        Raises StudyError: it is not approved, or is current already, or the list is full.
        """
        state = self.state_of(model.study)
        if state == "current":
            raise StudyError(f"version {model.version} of {self.name} is current already")
        if state != "approved":
            raise StudyError(
                f"version {model.version} of {self.name} is {state}, and only an approved version "
                "can be made current",
                hint=f"approve it first: flo model approve {self.name}:{model.version}",
            )
        self._refuse_full(MOST_PROMOTIONS)
        return self.with_decision(model, "current", said)

    def put_into_use(self, model: ModelVersion, said: Said) -> ModelStates:
        """Return a hospital's list after it made a version current.

        Raises StudyError: the list is full.
        """
        self._refuse_full(MOST_PROMOTIONS)
        return self.with_decision(model, "current", said)

    def withdrawn(self, model: ModelVersion, said: Said) -> ModelStates:
        """Return the list after a version was taken out of use.

        Raises StudyError: it is withdrawn already.
        """
        self._refuse_withdrawn(model)
        return self.with_decision(model, "withdrawn", said)

    def rolled_back(self, model: ModelVersion, said: Said, *others: ModelStates) -> ModelStates:
        """Return the list after the current version was withdrawn, and the one before put back.

        ``model``: the version to go back from, named so that nobody goes back twice. What other
        lists withdrew is not put back. Raises StudyError: it is not current, or none was before.
        """
        self._refuse_withdrawn(model)
        current = self.current
        if current is None or current.study != model.study:
            raise StudyError(
                f"version {model.version} of {self.name} is not in use: "
                f"{f'version {current.version}' if current else 'none'} is",
                hint="flo model states shows which version is in use",
            )
        before = self.previous(*others)
        if before is None:
            raise StudyError(
                f"no version of {self.name} that can be used was in use before version "
                f"{current.version}",
                hint="flo model withdraw takes it out of use; then no version answers",
            )
        return self.with_decision(model, "withdrawn", said).with_decision(before, "current", said)

    def _refuse_withdrawn(self, model: ModelVersion) -> None:
        last, now = self.last_on(model.study), self.current
        if last is not None and last.state == "withdrawn":
            raise StudyError(
                f"version {model.version} of {self.name} is withdrawn already, since "
                f"{last.time[:16]}: {last.why}",
                hint=f"version {now.version} is in use" if now else "no version is in use",
            )

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
            raise TrustError(
                f"the decisions on {self.name} are signed by another party",
                hint="if the coordinator has a new key, compare it by telephone, then: "
                "flo site coordinator --accept FINGERPRINT",
            )
        verify(public, _PURPOSE, self._statement(), self.signature)

    def _statement(self) -> bytes:
        return canonical.encode(self.model_dump(mode="json", exclude={"signature"}))


def digest_of_all(several: Iterable[ModelStates]) -> str:
    """Return the SHA-256 of lists, in any order: whether there is anything new."""
    by_name = {one.name: one.model_dump(mode="json") for one in several}
    return canonical.digest(canonical.encode(by_name))


def withdrawal(several: Iterable[ModelStates], study: str) -> ModelDecision | None:
    """Return the decision by which a study's model is withdrawn; None if no list withdrew it.

    ``several``: lists on its name; that of the first one counts first.
    """
    for states in several:
        last = states.last_on(study)
        if last is not None and last.state == "withdrawn":
            return last
    return None


def in_use(own: ModelStates, *others: ModelStates) -> ModelVersion | None:
    """Return the version that answers at a hospital with the list ``own``; None if none does.

    If another list withdrew the current one, that is the version before it, and there is no moment
    without an answer until the hospital has stored that it obeys.
    """
    current = own.current
    if current is None or withdrawal(others, current.study) is None:
        return current
    return own.previous(*others)


def obeyed(own: ModelStates, *others: ModelStates, time: str) -> ModelStates:
    """Return the hospital's list once its current version was withdrawn in another list.

    The latest version that was current here, and that no list has withdrawn, takes its place.
    """
    current = own.current
    last = withdrawal(others, current.study) if current else None
    if current is None or last is None:
        return own
    said = Said("coordinator", f"{last.by} withdrew it: {last.why}"[:MOST_WHY], time)
    before = own.previous(*others)
    after = own.withdrawn(current, said)
    return after.with_decision(before, "current", said) if before else after
