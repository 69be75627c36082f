"""Attacks on the coordinator's pages: other pages, other roles, other keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import urlencode

from flo.keys.identity import Identity
from flo.server.console.sign_in import COOKIE, SIGN_IN
from flo.server.http.tokens import Role, issue
from tests.attacks.attack import Attack, denied
from tests.attacks.stage import Stage, status

_FOREIGN = ("https://evil.example", "null", "http://127.0.0.1", "")


def token(stage: Stage, role: Role) -> str:
    return stage.token(role)["authorization"].removeprefix("Bearer ")


def sends(
    stage: Stage, role: Role | None, path: str, fields: Mapping[str, str], origin: str | None = None
) -> Iterable[str]:
    """A form, from a page of the console if no other is named."""
    own = f"https://127.0.0.1:{stage.coordinator.private_port}"
    headers = {"origin": own if origin is None else origin}
    if role is not None:
        headers["cookie"] = f"{COOKIE}={token(stage, role)}"
    shown = {name: value for name, value in headers.items() if value}
    body = urlencode(fields).encode()
    yield status(stage.coordinator.private("POST", path, headers=shown, body=body))


def from_other_pages(stage: Stage) -> Iterable[str]:
    for path in (_stop(stage), "/console/drafts", SIGN_IN, "/console/sign-out"):
        for origin in _FOREIGN:
            yield from sends(stage, "operator", path, {"document": "x"}, origin)


def signs_in(stage: Stage, text: str) -> Iterable[str]:
    return sends(stage, None, SIGN_IN, {"token": text})


def _stop(stage: Stage) -> str:
    return f"/console/studies/{stage.study.digest}/stop"


ATTACKS = (
    Attack(
        "a form on another page, with an operator's cookie",
        from_other_pages,
        "403",
        denied("is not from a page of this coordinator"),
    ),
    Attack(
        "a viewer who stops a study on the console",
        lambda stage: sends(stage, "viewer", _stop(stage), {}),
        "403",
        denied("the role viewer may not stop a study"),
    ),
    Attack(
        "an auditor who writes a draft on the console",
        lambda stage: sends(stage, "auditor", "/console/drafts", {"document": "x"}),
        "403",
        denied("the role auditor may not launch a study"),
    ),
    Attack(
        "a job's token to sign in to the console with",
        lambda stage: signs_in(stage, token(stage, "aggregator")),
        "403",
        denied("a job's, not a person's"),
    ),
    Attack(
        "a token of a stranger's key to sign in with",
        lambda stage: signs_in(stage, issue(Identity.new(), "mallory", "operator", 600)[0]),
        "403",
        denied("the signature of this token"),
    ),
)
