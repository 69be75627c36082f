"""Rules of a site's own policy. They override every study, including approved ones.

``flo.clients.home.policy_file`` stores the policy and puts it in force. The approval checks the
rules before budget is reserved, and the handler at every message.

Rules compare values of a study, never of patients, so a refusal may show them to the steward.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from datetime import datetime, time
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from flo.documents import canonical
from flo.documents.document import Document, spelt
from flo.errors import PolicyError
from flo.keys.claims import Digest, PublicKey
from flo.keys.identity import Identity, fingerprint, load_public
from flo.protocol.decisions import ApproverRole, PersonName
from flo.study.columns import ImageColumn
from flo.study.document import Study
from flo.study.names import Text
from flo.study.packs import Pack
from flo.study.terms import Identifier

_LIMIT = 1 << 20
Clock = Annotated[str, spelt("([01][0-9]|2[0-3]):[0-5][0-9]", "a time of day, such as 08:30")]
ConfinementLayer = Literal["no_new_privs", "seccomp", "landlock", "namespace", "limits"]


class Hours(Document):
    """Local time of day from ``begin`` to ``end``; past midnight if ``end`` is earlier."""

    begin: Clock
    end: Clock

    def contain(self, moment: time) -> bool:
        """Return whether this local time is within; ``begin`` is included, ``end`` is not."""
        begin, end = time.fromisoformat(self.begin), time.fromisoformat(self.end)
        if begin <= end:
            return begin <= moment < end
        return moment >= begin or moment < end


class Person(Document):
    """Approver: a name, a role, and the public key (DER, hexadecimal) they sign with."""

    name: PersonName
    role: ApproverRole
    public: PublicKey

    @field_validator("public")
    @classmethod
    def _is_a_key(cls, public: str) -> str:
        try:
            load_public(bytes.fromhex(public))
        except ValueError as error:
            raise ValueError("not an EC P-384 public key; `flo site person` prints one") from error
        return public

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the public key, as it is compared and entered in the audit log."""
        return fingerprint(bytes.fromhex(self.public))


def _alike(name: str) -> str:
    """Return a form that is equal for names that people would take for the same."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


BuiltIn = Literal["logistic", "mlp", "cnn", "gru", "lstm", "attention"]  # not packs


class Policy(Document):
    """``policy.toml``. A rule that is left out sets no limit, except where it has a default."""

    schema_version: Literal[1] = 1
    consent_to_epsilon_of_one_or_more: bool = False
    largest_study_epsilon: Annotated[float, Field(gt=0)] | None = None
    largest_epsilon_a_year: Annotated[float, Field(gt=0, le=10)] | None = None
    models: tuple[BuiltIn, ...] = ("logistic", "mlp", "cnn")  # what signed policies leave out
    packs: Annotated[tuple[Digest, ...], Field(max_length=1000)] = ()
    encoders: Annotated[tuple[Digest, ...], Field(max_length=1000)] = ()
    trust_models: tuple[Literal["local", "distributed"], ...] = ("local", "distributed")
    masking_required: bool = False
    sampling_allowed: bool = True
    surveys_allowed: bool = True
    gate_required: bool = False
    minimum_hospitals: Annotated[int, Field(ge=1)] = 2
    minimum_cohort: Annotated[int, Field(ge=1)] = 1
    minimum_declared_size: Annotated[int, Field(ge=10)] | None = None
    purposes: tuple[Text, ...] | None = None
    partners: tuple[Identifier, ...] | None = None
    forbidden_columns: tuple[Text, ...] = ()
    hours: Hours | None = None
    approvers: Annotated[int, Field(ge=1, le=8)] = 1
    people: Annotated[tuple[Person, ...], Field(max_length=100)] = ()
    confinement: tuple[ConfinementLayer, ...] = ("no_new_privs", "seccomp", "landlock")

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave later rules out unless they are set, so that earlier signatures stay valid."""
        document: dict[str, Any] = dump(self)
        for name in ("gate_required", "encoders"):
            if not document.get(name):
                document.pop(name, None)
        return document

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        for what, values in (
            ("people: the same name", [_alike(person.name) for person in self.people]),
            ("people: the same key", [person.public for person in self.people]),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"{what} occurs twice")
        if self.approvers > 1 and len(self.people) < self.approvers:
            raise ValueError(
                f"approvers = {self.approvers} needs at least {self.approvers} people with keys of "
                f"their own, and [[people]] names {len(self.people)}"
            )
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the whole policy, including defaults."""
        return canonical.digest(self.to_bytes())

    def person(self, key: Identity) -> Person:
        """Return the person with this key. Raises PolicyError if the policy names none."""
        for person in self.people:
            if person.fingerprint == key.fingerprint:
                return person
        raise PolicyError(
            "this key is not one of those that the site's policy names under [[people]]",
            hint="add the person to policy.toml, then: flo site policy --sign",
        )

    def is_open(self, moment: datetime) -> bool:
        """Return whether releases may be made at this local time."""
        return self.hours is None or self.hours.contain(moment.time())


def findings(
    policy: Policy, study: Study, hospital: str, epsilon: float, unconfirmed: Collection[str]
) -> list[str]:
    """Return every rule that a study charged at ``epsilon`` breaks: rule, limit and value.

    ``hospital``: our own id; a site may leave itself out of its list of partners. ``unconfirmed``:
    partners whose keys are not confirmed.
    """
    found: list[str] = []
    if policy.partners is not None:
        policy = policy.model_copy(update={"partners": (*policy.partners, hospital)})

    def refuse(broken: bool, rule: str, value: str) -> None:
        if broken:
            found.append(f"{rule}: {value}")

    refuse(
        epsilon >= 1 and not policy.consent_to_epsilon_of_one_or_more,
        "consent_to_epsilon_of_one_or_more = false",
        f"the study takes ε = {epsilon:g}",
    )
    largest = policy.largest_study_epsilon
    refuse(
        largest is not None and epsilon > largest,
        f"largest_study_epsilon = {largest}",
        f"the study takes ε = {epsilon:g}",
    )
    does = "watches" if study.monitor else "compares"
    compared = [(does, one.model) for one in study.asked_models]
    trained = [("trains", study.model)] if study.trains or isinstance(study.model, Pack) else []
    for does, model in (*trained, *compared):
        if isinstance(model, Pack):
            refuse(
                model.digest not in policy.packs,
                f"packs = {list(policy.packs)}",
                f"the study {does} the model pack {model.name}, {model.digest}, which is not "
                "installed here",
            )
        else:
            refuse(
                model.kind not in policy.models,
                f"models = {', '.join(policy.models)}",
                f"the study {does} {model.kind}",
            )
    for column, encoder in study.data.encoders.items():
        refuse(
            not set(encoder.files) <= set(policy.encoders),
            f"encoders = {list(policy.encoders)}",
            f"the study turns {column} into numbers by the encoder {encoder.name}, "
            f"{' with tokenizer '.join(encoder.files)}, which is not allowed here",
        )
    refuse(
        not (study.trains or study.published_models or policy.surveys_allowed),
        "surveys_allowed = false",
        "the study asks for noisy counts",
    )
    refuse(
        study.mechanism.noise not in policy.trust_models,
        f"trust_models = {', '.join(policy.trust_models)}",
        f"the study uses {study.mechanism.noise} noise",
    )
    refuse(
        policy.masking_required and not study.masked,
        "masking_required = true",
        "the coordinator would see the sum of each hospital",
    )
    refuse(
        study.mechanism.sampling != 1 and not policy.sampling_allowed,
        "sampling_allowed = false",
        f"the study samples patients with probability {study.mechanism.sampling:g}",
    )
    count = len(study.hospitals)
    refuse(
        count < policy.minimum_hospitals,
        f"minimum_hospitals = {policy.minimum_hospitals}",
        f"the study names {count} hospitals",
    )
    refuse(
        study.cohort_floor < policy.minimum_cohort,
        f"minimum_cohort = {policy.minimum_cohort}",
        f"a round of the study may have {study.cohort_floor} hospitals",
    )
    for partner in study.hospitals:
        refuse(
            policy.minimum_declared_size is not None
            and partner.declared_size < policy.minimum_declared_size,
            f"minimum_declared_size = {policy.minimum_declared_size}",
            f"{partner.id} declares {partner.declared_size} patients",
        )
    purposes = policy.purposes
    refuse(
        purposes is not None
        and not any(phrase.casefold() in study.purpose.casefold() for phrase in purposes),
        f"purposes = {', '.join(purposes or ())}",
        "the study's purpose contains none of them",
    )
    return found + _partners(policy, study, unconfirmed) + _columns(policy, study)


def _partners(policy: Policy, study: Study, unconfirmed: Collection[str]) -> list[str]:
    if policy.partners is None:
        return []
    strangers = sorted({hospital.id for hospital in study.hospitals} - set(policy.partners))
    return [
        *(f"partners: the study names {name}, which is not in the list" for name in strangers),
        *(f"partners: the key of {name} is not confirmed" for name in unconfirmed),
    ]


def _columns(policy: Policy, study: Study) -> list[str]:
    steps = study.data.sequence.columns if study.data.sequence else ()
    used = {*study.data.outcome_columns, *(column.name for column in steps)}
    used |= {column.name for column in study.data.columns}
    forbidden = {_alike(name) for name in policy.forbidden_columns}
    found = {name for name in used if _alike(name) in forbidden}
    for column in study.data.columns:
        if isinstance(column, ImageColumn):
            like_it = column.model_copy(update={"name": _alike(column.name)})
            places = (one.rpartition("_")[2] for one in forbidden if like_it.has_pixel(one))
            found |= {f"{column.name}_{place}" for place in places}
    return [f"forbidden_columns: the study uses {name}" for name in sorted(found)]


def refuse_violations(
    policy: Policy, study: Study, hospital: str, epsilon: float, unconfirmed: Collection[str]
) -> None:
    """Check a study. Raises PolicyError naming every rule of the policy that it breaks."""
    found = findings(policy, study, hospital, epsilon, unconfirmed)
    if found:
        raise PolicyError(
            "this site's policy forbids the study:\n" + "\n".join(f"  {text}" for text in found),
            hint="ask the coordinator for another study; or, if the steward agrees, change "
            "policy.toml, then: flo site policy --sign",
        )
