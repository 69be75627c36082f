"""The site's own policy: what it allows. It wins over any study, also over an approved one.

``policy.toml`` is written by the hospital and counts once it is signed here (``flo site policy
--sign``); an edited one stops everything until it is signed again. Rules only, and where they are
kept; who asks is the approval (before anything is spent) and the handler (at every message).

What a rule compares is in a study, never in patients, so a refusal may name it to the steward.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import Field, StringConstraints, field_validator, model_validator

from flo import canonical
from flo.claims import Digest, PublicKey, Signature
from flo.decisions import PersonName, PersonRole
from flo.errors import PolicyError, TrustError, UsageError
from flo.files import write_private
from flo.identity import Identity, fingerprint, load_public, verify
from flo.model_kinds import Pack
from flo.schema import ImageColumn, Text
from flo.settings import Document, parse, read_toml
from flo.study import Identifier, Study

_LIMIT = 1 << 20
Clock = Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Layer = Literal["no_new_privs", "seccomp", "landlock", "namespace", "limits"]


class Hours(Document):
    """Local time of day, ``begin`` to ``end``; over midnight if ``end`` is earlier."""

    begin: Clock
    end: Clock

    def contain(self, moment: time) -> bool:
        begin, end = time.fromisoformat(self.begin), time.fromisoformat(self.end)
        if begin <= end:
            return begin <= moment < end
        return moment >= begin or moment < end


class Person(Document):
    """Who may approve: a name, a role, and the public key (DER, hexadecimal) they sign with."""

    name: PersonName
    role: PersonRole
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
        return fingerprint(bytes.fromhex(self.public))


class Policy(Document):
    """``policy.toml``. What is left out is not limited, except as the defaults say."""

    schema_version: Literal[1] = 1
    consent_to_epsilon_of_one_or_more: bool = False
    largest_study_epsilon: Annotated[float, Field(gt=0)] | None = None
    largest_epsilon_a_year: Annotated[float, Field(gt=0, le=10)] | None = None
    models: tuple[Literal["logistic", "mlp", "cnn"], ...] = ("logistic", "mlp", "cnn")
    packs: Annotated[tuple[Digest, ...], Field(max_length=1000)] = ()
    trust_models: tuple[Literal["local", "distributed"], ...] = ("local", "distributed")
    masking_required: bool = False
    sampling_allowed: bool = True
    surveys_allowed: bool = True
    minimum_hospitals: Annotated[int, Field(ge=1)] = 2
    minimum_cohort: Annotated[int, Field(ge=1)] = 1
    minimum_declared_size: Annotated[int, Field(ge=10)] | None = None
    purposes: tuple[Text, ...] | None = None
    partners: tuple[Identifier, ...] | None = None
    forbidden_columns: tuple[Text, ...] = ()
    hours: Hours | None = None
    approvers: Annotated[int, Field(ge=1, le=8)] = 1
    people: Annotated[tuple[Person, ...], Field(max_length=100)] = ()
    confinement: tuple[Layer, ...] = ("no_new_privs", "seccomp")

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        for what, values in (
            ("people: the same name", [person.name for person in self.people]),
            ("people: the same key", [person.public for person in self.people]),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"{what} stands twice")
        if self.approvers > 1 and len(self.people) < self.approvers:
            raise ValueError(
                f"approvers = {self.approvers} needs as many people with keys of their own, and "
                f"[[people]] names {len(self.people)}"
            )
        return self

    @property
    def digest(self) -> str:
        return canonical.digest(canonical.encode(self.model_dump(mode="json")))

    def person(self, key: Identity) -> Person:
        """Who holds this key. Raises PolicyError for a stranger."""
        for person in self.people:
            if person.fingerprint == key.fingerprint:
                return person
        raise PolicyError(
            "this key belongs to nobody that the site's policy names under [[people]]",
            hint="add the person to policy.toml, then: flo site policy --sign",
        )

    def is_open(self, moment: datetime) -> bool:
        """Whether releases may be made at this local time."""
        return self.hours is None or self.hours.contain(moment.time())


def findings(policy: Policy, study: Study, epsilon: float) -> list[str]:
    """Every rule that a study charged at ``epsilon`` breaks: the rule, its limit, the value."""
    found: list[str] = []

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
    if isinstance(study.model, Pack):
        refuse(
            study.model.digest not in policy.packs,
            f"packs = {list(policy.packs)}",
            f"the study trains the model pack {study.model.name}, {study.model.digest}, which is "
            "not installed here",
        )
    elif not study.survey:
        refuse(
            study.model.kind not in policy.models,
            f"models = {', '.join(policy.models)}",
            f"the study trains {study.model.kind}",
        )
    refuse(study.survey is not None and not policy.surveys_allowed, "surveys_allowed = false", "")
    refuse(
        study.mechanism.noise not in policy.trust_models,
        f"trust_models = {', '.join(policy.trust_models)}",
        f"the study uses {study.mechanism.noise} noise",
    )
    refuse(
        policy.masking_required and not study.masked,
        "masking_required = true",
        "the coordinator would see single hospitals' sums",
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
        f"the study names {count}",
    )
    refuse(
        study.cohort_floor < policy.minimum_cohort,
        f"minimum_cohort = {policy.minimum_cohort}",
        f"a round of the study may have {study.cohort_floor}",
    )
    for hospital in study.hospitals:
        refuse(
            policy.minimum_declared_size is not None
            and hospital.declared_size < policy.minimum_declared_size,
            f"minimum_declared_size = {policy.minimum_declared_size}",
            f"{hospital.id} declares {hospital.declared_size}",
        )
    purposes = policy.purposes
    refuse(
        purposes is not None
        and not any(phrase.casefold() in study.purpose.casefold() for phrase in purposes),
        f"purposes = {', '.join(purposes or ())}",
        "the study's purpose contains none of them",
    )
    return found + _partners(policy, study) + _columns(policy, study)


def _partners(policy: Policy, study: Study) -> list[str]:
    if policy.partners is None:
        return []
    strangers = sorted({hospital.id for hospital in study.hospitals} - set(policy.partners))
    # A site may leave itself out of its own list.
    return [f"partners: the study names {name}, which is not among them" for name in strangers]


def _columns(policy: Policy, study: Study) -> list[str]:
    used = {study.data.label}
    for column in study.data.columns:
        used |= set(column.pixels) if isinstance(column, ImageColumn) else {column.name}
    forbidden = {name.casefold() for name in policy.forbidden_columns}
    return [
        f"forbidden_columns: the study uses {name}"
        for name in sorted(used)
        if name.casefold() in forbidden
    ]


def refuse_violations(policy: Policy, study: Study, hospital: str, epsilon: float) -> None:
    """Raises PolicyError naming every rule of the policy that the study breaks."""
    if policy.partners is not None:
        policy = policy.model_copy(update={"partners": (*policy.partners, hospital)})
    found = findings(policy, study, epsilon)
    if found:
        raise PolicyError(
            "this site's policy forbids it:\n" + "\n".join(f"  {text}" for text in found),
            hint="ask the coordinator for another study, or let the steward change policy.toml and "
            "sign it: flo site policy --sign",
        )


class _SignedPolicy(Document):
    """``policy.signed.json``: the policy in force."""

    schema_version: Literal[1] = 1
    policy: Policy
    time: str
    person: Digest | None
    signature: Signature

    def statement(self) -> bytes:
        return canonical.encode(self.model_dump(mode="json", exclude={"signature"}))


EXPLAINED: dict[str, tuple[str, str]] = {
    "consent_to_epsilon_of_one_or_more": ("true", "Allow studies and life budgets of ε >= 1."),
    "largest_study_epsilon": ("0.5", "The largest ε that one study may take."),
    "largest_epsilon_a_year": ("0.7", "What all approvals of 365 days may take together."),
    "models": ('["logistic"]', "Models that may be trained."),
    "packs": (f'["{"0" * 64}"]', "Model packs that are installed here, by their digests."),
    "trust_models": ('["distributed"]', "local: every upload is private by itself; distributed."),
    "masking_required": ("true", "The coordinator must never see one hospital's sums."),
    "sampling_allowed": ("false", "Whether a step may use a random sample of the patients."),
    "surveys_allowed": ("false", "Whether noisy counts may be asked for."),
    "minimum_hospitals": ("3", "The fewest hospitals that a study names."),
    "minimum_cohort": ("3", "The fewest hospitals that a round may have."),
    "minimum_declared_size": ("100", "The fewest patients that each hospital declares."),
    "purposes": ('["heart disease"]', "Phrases of which a study's purpose contains one."),
    "partners": ('["cleveland", "hungary"]', "Hospitals that a study may name; no others."),
    "forbidden_columns": ('["hiv_status"]', "Columns that are never used."),
    "hours": ('{ begin = "20:00", end = "06:00" }', "When releases are made, local time."),
    "approvers": ("2", "How many of the people below must approve, each with their own key."),
    "confinement": (
        '["no_new_privs", "seccomp", "landlock", "namespace", "limits"]',
        "What must lock in the process that holds patients, or the agent does not start.",
    ),
    "people": ("", "Who may approve: [[people]] tables at the end, from `flo site person`."),
}
_HEADING = """\
# What this hospital allows; it wins over any study, also over an approved one.
# A rule with # before it is not in force; the value there is an example.
# After a change: flo site policy --sign. Until then nothing is released.
"""


def write_toml(path: Path, policy: Policy) -> None:
    """A ``policy.toml`` that explains every rule, and sets those that are not at their default."""
    chosen = policy.model_dump(mode="json", exclude_defaults=True)
    people = chosen.pop("people", [])
    parts = [_HEADING]
    for name, (example, meaning) in EXPLAINED.items():
        value = tomli_w.dumps({name: chosen[name]}) if name in chosen else ""
        if name == "hours" and value:  # a table of its own would end the plain settings
            begin, end = chosen[name]["begin"], chosen[name]["end"]
            value = f'hours = {{ begin = "{begin}", end = "{end}" }}\n'
        parts.append(f"\n# {meaning}\n" + (value or (f"# {name} = {example}\n" if example else "")))
    if people:
        parts.append("\n" + tomli_w.dumps({"people": people}))
    write_private(path, "".join(parts).encode())


def read_edited(path: Path) -> Policy:
    """``policy.toml`` as it stands, signed or not. Raises UsageError."""
    return parse(Policy, read_toml(path), str(path))


def sign(directory: Path, identity: Identity, person: Identity | None = None) -> Policy:
    """Put ``policy.toml`` in force.

    ``person``: the key of whoever changes it; needed where the policy in force names people.

    Raises:
        PolicyError: the policy in force names people, and the key is none of theirs.
    """
    policy = read_edited(directory / "policy.toml")
    if (directory / "policy.signed.json").exists():
        before = _read_signed(directory, identity).policy
        if before.people:
            if person is None:
                raise PolicyError(
                    "the policy in force names people, so one of them signs a new one",
                    hint="flo site policy --sign --person KEY",
                )
            before.person(person)
    unsigned = _SignedPolicy(
        policy=policy,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        person=person.fingerprint if person else None,
        signature="0",
    )
    signed = unsigned.model_copy(
        update={"signature": identity.sign("policy", unsigned.statement())}
    )
    write_private(
        directory / "policy.signed.json", canonical.encode(signed.model_dump(mode="json"))
    )
    return policy


def in_force(directory: Path, identity: Identity) -> Policy:
    """The policy that was signed here.

    Raises:
        TrustError: there is none, it was edited since, or another key signed it.
    """
    signed = _read_signed(directory, identity)
    path = directory / "policy.toml"
    try:
        edited = read_edited(path)
    except UsageError as error:
        raise TrustError(f"the site's policy cannot be read: {error}") from error
    if edited != signed.policy:
        raise TrustError(
            f"{path} was edited since it was signed; nothing is released meanwhile",
            hint="put it in force: flo site policy --sign",
        )
    return edited


def _read_signed(directory: Path, identity: Identity) -> _SignedPolicy:
    path = directory / "policy.signed.json"
    if not path.exists():
        raise TrustError("this site's policy is not signed", hint="flo site policy --sign")
    document = canonical.decode(path.read_bytes(), limit=_LIMIT, what=str(path))
    try:
        signed = parse(_SignedPolicy, document, str(path))
    except UsageError as error:
        raise TrustError(str(error)) from error
    verify(identity.public, "policy", signed.statement(), signed.signature)
    return signed


def a_year_before(moment: datetime) -> datetime:
    """Since when reservations count towards ``largest_epsilon_a_year``."""
    return moment - timedelta(days=365)
