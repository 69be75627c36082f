"""``policy.toml``: written by the hospital, in force once it is signed here.

After an edit, all releases stop until it is signed again. If the policy in force names people, as
many of them as it asks for must sign a new one. The audit log names the policy that was signed
last, so an older pair of files, or a missing one, is not accepted.
"""

from __future__ import annotations

from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import Field

from flo.audit.chain import Entry
from flo.audit.log import AuditLog, existing
from flo.clients.home.policy import Policy
from flo.documents import canonical
from flo.documents.document import Document, read_json, read_settings
from flo.errors import PolicyError, TrustError, UsageError
from flo.keys.claims import Digest, PublicKey, Signature
from flo.keys.identity import Identity, fingerprint, verify
from flo.storage.files import write_private

_LIMIT = 1 << 20
_SIGNED = "policy-signed"


class _Signature(Document):
    public: PublicKey
    signature: Signature


class _SignedPolicy(Document):
    """``policy.signed.json``: the policy in force."""

    schema_version: Literal[1] = 1
    policy: Policy
    time: str
    people: Annotated[tuple[_Signature, ...], Field(max_length=100)] = ()
    signature: Signature

    def statement(self) -> bytes:
        return canonical.encode(self.model_dump(mode="json", exclude={"signature"}))


class _Waiting(Document):
    """``policy.waiting.json``: signatures of a new policy, while more are required."""

    schema_version: Literal[1] = 1
    policy: Digest
    people: Annotated[tuple[_Signature, ...], Field(max_length=100)] = ()


EXPLAINED: dict[str, tuple[str, str]] = {
    "consent_to_epsilon_of_one_or_more": ("true", "Allow studies and life budgets of ε >= 1."),
    "largest_study_epsilon": ("0.5", "The largest ε that one study may take."),
    "largest_epsilon_a_year": ("0.7", "The largest ε that all approvals of 365 days may take."),
    "models": ('["logistic"]', "Models that may be trained."),
    "packs": (f'["{"0" * 64}"]', "Model packs that are installed here, by their digests."),
    "encoders": (f'["{"0" * 64}"]', "Frozen encoders that studies may use here, by their digests."),
    "trust_models": (
        '["distributed"]',
        "local: every upload is private by itself; distributed: only the sum over hospitals is.",
    ),
    "masking_required": ("true", "The coordinator must never see one hospital's sums."),
    "sampling_allowed": ("false", "Whether a step may use a random sample of the patients."),
    "surveys_allowed": ("false", "Whether a study may ask for noisy counts of patients."),
    "gate_required": ("true", "Only models that passed a release gate may be fetched and used."),
    "minimum_hospitals": ("3", "The fewest hospitals that a study names."),
    "minimum_cohort": ("3", "The fewest hospitals that a round may have."),
    "minimum_declared_size": ("100", "The fewest patients that each hospital declares."),
    "purposes": ('["heart disease"]', "Phrases; a study's purpose must contain one of them."),
    "partners": ('["cleveland", "hungary"]', "Hospitals that a study may name; no others."),
    "forbidden_columns": ('["hiv_status"]', "Columns that are never used."),
    "hours": ('{ begin = "20:00", end = "06:00" }', "Local time in which releases may be made."),
    "approvers": ("2", "How many of the people below must approve, each with their own key."),
    "confinement": (
        '["no_new_privs", "seccomp", "landlock", "namespace", "limits"]',
        "Layers that must confine the data process; without one of them the agent does not start.",
    ),
    "people": ("", "Who may approve: [[people]] tables at the end, from `flo site person`."),
}
_HEADING = """\
# Rules of this hospital. They override every study, including approved ones.
# A rule with # before it is not in force; its value is an example.
# After a change: flo site policy --sign. Until then no release is made.
"""


def write_toml(path: Path, policy: Policy) -> None:
    """Write a ``policy.toml`` that explains every rule and sets those not at their default."""
    chosen = policy.model_dump(mode="json", exclude_defaults=True)
    people = chosen.pop("people", [])
    parts = [_HEADING]
    for name, (example, meaning) in EXPLAINED.items():
        value = tomli_w.dumps({name: chosen[name]}) if name in chosen else ""
        if name == "hours" and value:  # a [hours] table would end the plain settings
            begin, end = chosen[name]["begin"], chosen[name]["end"]
            value = f'hours = {{ begin = "{begin}", end = "{end}" }}\n'
        parts.append(f"\n# {meaning}\n" + (value or (f"# {name} = {example}\n" if example else "")))
    if people:
        parts.append("\n" + tomli_w.dumps({"people": people}))
    write_private(path, "".join(parts).encode())


def read_edited(path: Path) -> Policy:
    """Return the present ``policy.toml``, signed or not. Raises UsageError."""
    return read_settings(Policy, path)


def sign(directory: Path, identity: Identity, person: Identity | None = None) -> Policy | None:
    """Put ``policy.toml`` in force and return it; return None if more people must sign first.

    ``person``: the key of the person who signs; required if the policy in force names people.

    Raises:
        PolicyError: the policy in force names people, and the key is missing or not one of theirs.
    """
    policy = read_edited(directory / "policy.toml")
    with closing(existing(directory / "audit.sqlite", identity)) as log:
        last = log.last(_SIGNED)
        people: tuple[_Signature, ...] = ()
        if last is not None and last.facts["people"]:
            people = _signatures(directory, policy, last, person)
            if len(people) < last.facts["approvers"]:
                log.append("policy-waiting", policy=policy.digest, people=_names(people))
                return None
        unsigned = _SignedPolicy(
            policy=policy,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            people=people,
            signature="0",
        )
        signature = identity.sign("policy", unsigned.statement())
        signed = unsigned.model_copy(update={"signature": signature})
        path = directory / "policy.signed.json"
        write_private(path, signed.to_bytes())
        log.append(
            _SIGNED,
            policy=policy.digest,
            approvers=policy.approvers,
            people=[someone.fingerprint for someone in policy.people],
            by=_names(people),
        )
    (directory / "policy.waiting.json").unlink(missing_ok=True)
    return policy


def policy_paths(directory: Path) -> tuple[Path, Path]:
    """Return the files that ``read_signed`` reads."""
    return directory / "policy.toml", directory / "policy.signed.json"


def read_signed(directory: Path, identity: Identity) -> Policy:
    """Return the policy in policy.toml if it is the one that was signed here.

    Raises:
        TrustError: none is signed, it was edited since, or another key signed it.
    """
    edited_path, path = policy_paths(directory)
    if not path.exists():
        raise TrustError("this site's policy is not signed", hint="flo site policy --sign")
    try:
        signed = read_json(_SignedPolicy, path, limit=_LIMIT)
        edited = read_edited(edited_path)
    except UsageError as error:
        raise TrustError(f"the site's policy cannot be read: {error}") from error
    verify(identity.public, "policy", signed.statement(), signed.signature)
    if edited != signed.policy:
        raise TrustError(
            f"{edited_path} was edited since it was signed; no release is made meanwhile",
            hint="sign it: flo site policy --sign",
        )
    return edited


def in_force(directory: Path, signed: Policy, log: AuditLog) -> Policy:
    """Return ``signed`` if the audit log names it as the policy that was signed last.

    Raises:
        TrustError: it is an older policy, the ledger was recovered since, or the log is missing.
    """
    log.require_same_file()
    last, restored = log.last(_SIGNED), log.last("ledger-recovered")
    if last is not None and restored is not None and restored.number > last.number:
        raise TrustError(
            "the policy and the opt-outs are those of a backup; no release is made meanwhile",
            hint="read the policy (flo site policy), enter opt-outs made after the backup (flo "
            "site opt-out), then: flo site policy --sign",
        )
    if last is None or last.facts.get("policy") != signed.digest:
        raise TrustError(
            f"{directory / 'policy.signed.json'} is not the policy that was signed here last; "
            "no release is made meanwhile",
            hint="correct policy.toml, then: flo site policy --sign",
        )
    return signed


def _signatures(
    directory: Path, policy: Policy, last: Entry, person: Identity | None
) -> tuple[_Signature, ...]:
    """Add ``person``'s signature; return and store all signatures of this change.

    ``last``: the audit entry that put the present policy in force. A signature is valid only for
    the policy that follows this entry.
    """
    named = last.facts["people"]
    if person is None:
        raise PolicyError(
            f"the policy in force names people, and {last.facts['approvers']} of them must sign a "
            "new one",
            hint="flo site policy --sign --person KEY",
        )
    if person.fingerprint not in named:
        raise PolicyError("this key is not one of those that the policy in force names")
    statement = canonical.encode({"policy": policy.digest, "follows": last.hash})
    path = directory / "policy.waiting.json"
    kept: dict[str, _Signature] = {}
    if path.exists():
        waiting = read_json(_Waiting, path, limit=_LIMIT)
        for given in waiting.people if waiting.policy == policy.digest else ():
            public = bytes.fromhex(given.public)
            with suppress(TrustError):  # a signature made after another entry is void
                verify(public, "policy-change", statement, given.signature)
                if fingerprint(public) in named:
                    kept[fingerprint(public)] = given
    kept[person.fingerprint] = _Signature(
        public=person.public.hex(), signature=person.sign("policy-change", statement)
    )
    people = tuple(kept.values())
    waiting = _Waiting(policy=policy.digest, people=people)
    write_private(path, waiting.to_bytes())
    return people


def _names(people: tuple[_Signature, ...]) -> list[str]:
    return [fingerprint(bytes.fromhex(given.public)) for given in people]
