"""Attacks on the private listener, and on the commands of who runs the coordinator."""

from __future__ import annotations

import base64
import json
import pickle
import time
from collections.abc import Iterable, Mapping

from flo.documents import canonical
from flo.keys.identity import Identity
from flo.server.flower.control import CONTROL_PREFIX
from flo.server.http.tokens import Role, issue
from flo.study.document import MAX_STUDY_BYTES
from tests.attacks.attack import Attack, call, denied, shown
from tests.attacks.stage import Stage, status
from tests.builders import small_study
from tests.commands import flo

STUDIES = "/v1/flo/studies"


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def asks(
    stage: Stage, headers: Mapping[str, str], method: str = "GET", path: str = STUDIES
) -> Iterable[str]:
    yield status(stage.coordinator.private(method, path, headers=headers))


def of(identity: Identity, *, seconds_ago: float = 0) -> dict[str, str]:
    """An operator's token that this key signed, good for ten minutes from then."""
    text, _ = issue(identity, "mallory", "operator", 600, now=time.time() - seconds_ago)
    return bearer(text)


def promoted(stage: Stage) -> dict[str, str]:
    """A viewer's own token, edited to say operator."""
    text = stage.token("viewer")["authorization"].removeprefix("Bearer ")
    encoded, _, signature = text.partition(".")
    document = json.loads(base64.urlsafe_b64decode(encoded)) | {"role": "operator"}
    edited = base64.urlsafe_b64encode(canonical.encode(document)).decode()
    return bearer(f"{edited}.{signature}")


def signed_for_another_purpose(stage: Stage) -> dict[str, str]:
    """The coordinator's signature of a study, as if it were one of a token."""
    document = stage.study.canonical_bytes
    signature = stage.coordinator.home.open_identity().sign("study", document)
    return bearer(f"{base64.urlsafe_b64encode(document).decode()[:1000]}.{signature}")


def in_the_address(stage: Stage) -> Iterable[str]:
    text = stage.token("operator")["authorization"].removeprefix("Bearer ")
    return asks(stage, {}, path=f"{STUDIES}?token={text}&authorization=Bearer%20{text}")


def launches(stage: Stage, role: Role, body: bytes) -> Iterable[str]:
    headers = stage.token(role)
    yield status(stage.coordinator.private("POST", STUDIES, body=body, headers=headers))


def invites(stage: Stage, hospital: str) -> Iterable[str]:
    """The command, as whoever runs the coordinator types it."""
    home, out = stage.coordinator.home.directory, stage.folder / "invitation.json"
    done = flo("coordinator", "invite", hospital, "--home", home, "--out", out)
    stage.screen.add(done.returncode, done.stderr)
    yield "UsageError" if done.returncode == 2 and not out.exists() else "accepted"


ATTACKS = (
    Attack("no token", lambda s: asks(s, {}), "401", denied("no token")),
    Attack(
        "a token signed by another key",
        lambda s: asks(s, of(Identity.new())),
        "401",
        denied("the signature of this token does not match"),
    ),
    Attack(
        "a token of another coordinator",
        lambda s: asks(s, of(s.liar.identity)),
        "401",
        denied("the signature of this token does not match"),
    ),
    Attack(
        "a token that has expired",
        lambda s: asks(s, of(s.coordinator.home.open_tls_identity(), seconds_ago=601)),
        "401",
        denied("this token has expired"),
    ),
    Attack(
        "a token from the future",
        lambda s: asks(s, of(s.coordinator.home.open_tls_identity(), seconds_ago=-900)),
        "401",
        denied("this token is not valid yet"),
    ),
    Attack(
        "a viewer's token edited to be an operator's",
        lambda s: asks(s, promoted(s)),
        "401",
        denied("the signature of this token does not match"),
    ),
    Attack(
        "the coordinator's signature of something else as a token",
        lambda s: asks(s, signed_for_another_purpose(s)),
        "401",
        denied("this"),
    ),
    Attack("a token in the address", in_the_address, "401", denied("no token")),
    Attack(
        "a viewer that launches a study",
        lambda s: launches(s, "viewer", small_study(name="mine").canonical_bytes),
        "403",
        denied("the role viewer may not launch a study"),
    ),
    Attack(
        "an auditor that stops a study",
        lambda s: asks(s, s.token("auditor"), "POST", f"{STUDIES}/{s.study.digest}/stop"),
        "403",
        denied("the role auditor may not stop a study"),
    ),
    Attack(
        "a viewer that takes the audit log",
        lambda s: asks(s, s.token("viewer"), "GET", "/v1/flo/audit"),
        "403",
        denied("the role viewer may not export the audit log"),
    ),
    Attack(
        "a pickle as a study, by an operator",
        lambda s: launches(s, "operator", pickle.dumps(s.study.name)),
        "400",
        call("not valid JSON"),
    ),
    Attack(
        "a study larger than any, by an operator",
        lambda s: launches(s, "operator", b" " * (MAX_STUDY_BYTES + 1)),
        "400",
        call("the body exceeds"),
    ),
    Attack(
        "a number without end in an address, by an operator",
        lambda s: asks(s, s.token("operator"), "GET", f"{STUDIES}/{s.study.digest}?after={10**30}"),
        "400",
        call("after"),
    ),
    Attack(
        "a path as a study's digest, by an operator",
        lambda s: asks(s, s.token("operator"), "GET", f"{STUDIES}/..%2f..%2f..%2fetc%2fpasswd"),
        "403",
        denied("no such action"),
    ),
    Attack(
        "a control call of Flower's with an operator's token",
        lambda s: asks(s, s.token("operator"), "POST", f"{CONTROL_PREFIX}start-run"),
        "401",
        denied("not a process of this coordinator"),
    ),
    Attack(
        "a runtime call of Flower's with an operator's token",
        lambda s: asks(s, s.token("operator"), "POST", "/v1/runtime/push-messages"),
        "401",
        denied("not a process of this coordinator"),
    ),
    Attack(
        "a hospital's call at the private port",
        lambda s: asks(s, s.token("operator"), "POST", "/v1/fleet/pull-messages"),
        "403",
        denied("no such action"),
    ),
    Attack(
        "an invitation for a hospital whose name is a path",
        lambda s: invites(s, "../../north"),
        "UsageError",
        shown(2, "is not a hospital id"),
    ),
)
