"""People who may approve a study, and the approvals that each signs with a key of their own.

The site's policy names the people and how many of them must approve. Signed approvals are stored
until there are enough; no budget is reserved before that.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from pydantic import Field

from flo.clients.home.policy import Policy
from flo.clients.home.site_home import SiteHome
from flo.clients.records.approval import pending_path
from flo.documents.document import Document, read_json
from flo.errors import PolicyError, TrustError, UsageError
from flo.keys.identity import Identity
from flo.protocol.decisions import PersonApproval, Terms
from flo.storage.files import write_private
from flo.study.document import Study

_SHORTEST, _LIMIT = 12, 1 << 20


class _PendingApprovals(Document):
    """People who have approved while others have not yet."""

    schema_version: Literal[1] = 1
    people: Annotated[tuple[PersonApproval, ...], Field(max_length=8)]


def add_approver(
    home: SiteHome, study: Study, terms: Terms, key: Identity | None
) -> tuple[PersonApproval, ...]:
    """Add the approval of the holder of ``key``; return all approvals of the study on these terms.

    Drop approvals on other terms, and those of people whom the policy no longer names with the same
    role and key.

    Raises:
        PolicyError: the policy names people, and no key was given, or the key of a person whom it
        does not name or who has approved already while approvals of others are missing; or the
        policy names no people and a key was given.
    """
    policy, hospital = home.read_policy(), home.read_config().hospital
    if not policy.people:
        if key is not None:
            raise PolicyError(
                "a person's key was given, but the site's policy names no people",
                hint="approve without a key; or name people under [[people]] in policy.toml, then: "
                "flo site policy --sign",
            )
        return ()
    if key is None:
        raise PolicyError(
            "no key was given, and the site's policy names the people who must approve with theirs",
            hint="flo site approve STUDY --person KEY",
        )
    person, path = policy.person(key), pending_path(home, study.digest)
    earlier: tuple[PersonApproval, ...] = ()
    if path.exists():
        kept = read_json(_PendingApprovals, path, limit=_LIMIT).people
        earlier = tuple(
            given for given in kept if given.terms == terms.digest and _is_named(policy, given)
        )
    if any(given.name == person.name for given in earlier):
        if len(earlier) >= policy.approvers:
            return earlier
        raise PolicyError(
            f"{person.name} has already approved; the policy requires {policy.approvers} people",
            hint="another person must approve, with a key of their own",
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    own = PersonApproval.given(
        key, person.name, person.role, study.digest, hospital, terms.digest, now
    )
    people = (*earlier, own)
    home.record("person-approved", study.digest, name=person.name, role=person.role)
    write_private(path, _PendingApprovals(people=people).to_bytes())
    return people


def _is_named(policy: Policy, given: PersonApproval) -> bool:
    """Check if the policy still names the approving person, with the same role and key."""
    return any(
        (person.name, person.role, person.public) == (given.name, given.role, given.public)
        for person in policy.people
    )


def refuse_missing_people(
    policy: Policy, study: str, hospital: str, terms: Terms, people: tuple[PersonApproval, ...]
) -> None:
    """Check that as many people have approved as the policy asks for.

    Each must have approved this study (its digest) on these terms with the key that the policy
    names for them, and counts once. Raises PolicyError or TrustError.
    """
    if not policy.people:
        return
    known = {person.name: person for person in policy.people}
    for given in people:
        person = known.get(given.name)
        if person is None or person.role != given.role:
            raise PolicyError(f"{given.name} ({given.role}) is not among the policy's people")
        given.check(study, hospital, terms.digest, person.fingerprint)
    if len({given.name for given in people}) < policy.approvers:
        raise PolicyError(
            f"{len(people)} of {policy.approvers} required people have approved",
            hint="flo site approve STUDY --person KEY, with another person's key",
        )


def new_key(path: Path, passphrase: bytes) -> Identity:
    """Make an encrypted key (PKCS 8). Raises UsageError: the file exists, a short passphrase."""
    if path.exists():
        raise UsageError(f"{path} exists already", hint="choose another --out")
    if len(passphrase) < _SHORTEST:
        raise UsageError(f"the passphrase is too short: it needs at least {_SHORTEST} characters")
    identity = Identity.new()
    pem = identity.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase),
    )
    write_private(path, pem)
    return identity


def load_key(path: Path, passphrase: bytes) -> Identity:
    """Load a key. Raises UsageError: there is none. TrustError: wrong passphrase or file."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=passphrase)
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no key file at {path}", hint="make one: flo site person NAME --out KEY"
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TrustError(
            f"{path} cannot be opened: the passphrase is wrong, or the file is not a key made by "
            "`flo site person`"
        ) from error
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Identity.read(pem, str(path))
