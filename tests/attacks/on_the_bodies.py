"""Attacks of an enrolled hospital with what stands in a request."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable, Iterable
from typing import Any

from flo.server.listeners.hospital_listener import MAX_SITE_BODY
from tests.attacks.attack import Attack, call, request
from tests.attacks.stage import Stage, status

NOWHERE_TO_GO = "../../etc/passwd"
Body = Callable[[Stage], Any]


def posts(name: str, body: Body) -> Callable[[Stage], Iterable[str]]:
    return lambda stage: [stage.call(name, body(stage))]


def sends(**how: Any) -> Callable[[Stage], Iterable[str]]:
    """A request to ``heads`` with these arguments of ``http.client``."""

    def attack(stage: Stage) -> Iterable[str]:
        port, client = stage.coordinator.port, stage.client("north")
        with stage.coordinator.connection(port, client) as connection:
            connection.request("POST", "/v1/site/heads", **how)
            yield str(connection.getresponse().status)

    return attack


def bomb(stage: Stage) -> Iterable[str]:
    """64 MB of zeros in 64 kB, were it ever unpacked."""
    body = gzip.compress(bytes(64 << 20))
    assert len(body) < MAX_SITE_BODY
    headers = {"content-encoding": "gzip"}
    client = stage.client("north")
    answer = stage.coordinator.outside("POST", "/v1/site/heads", client, body=body, headers=headers)
    yield status(answer)


ATTACKS = (
    Attack(
        "a body of more than its limit",
        sends(body=bytes(MAX_SITE_BODY + 1)),
        "413",
        request(f"the body exceeds {MAX_SITE_BODY} bytes"),
    ),
    Attack(
        "a body in pieces that says no length",
        sends(
            body=iter([bytes(1 << 16)] * 17),
            headers={"transfer-encoding": "chunked"},
            encode_chunked=True,
        ),
        "413",
        request(f"the body exceeds {MAX_SITE_BODY} bytes"),
    ),
    Attack("a decompression bomb", bomb, "400", call("request: not valid JSON")),
    Attack(
        "a pickle as a body",
        posts("heads", lambda s: pickle.dumps({"head": None})),
        "400",
        call("request: not valid JSON"),
    ),
    Attack(
        "JSON too deep to read",
        posts("heads", lambda s: b"[" * 500_000),
        "400",
        call("more than 200000 values"),
    ),
    Attack(
        "NaN where a number stands",
        posts("heads", lambda s: b'{"head":{"sequence":NaN}}'),
        "400",
        call("NaN is not allowed"),
    ),
    Attack(
        "the same key twice",
        posts("heads", lambda s: b'{"head":null,"head":null}'),
        "400",
        call("duplicate key"),
    ),
    Attack(
        "an integer of a million digits",
        posts("heads", lambda s: b'{"head":{"sequence":' + b"9" * 1_000_000 + b"}}"),
        "400",
        call("request: not valid JSON"),
    ),
    Attack(
        "an integer that no database holds",
        posts(
            "heads",
            lambda s: {"head": {"sequence": 10**30}},
        ),
        "400",
        call("head.sequence: Input should be less than"),
    ),
    Attack(
        "a field that the schema does not know",
        posts("heads", lambda s: {"head": None, "hospital": "south"}),
        "400",
        call("document: Extra inputs"),
    ),
    Attack(
        "a path as a study's digest, for its model",
        posts("models", lambda s: {"study": NOWHERE_TO_GO}),
        "400",
        call("study: String should match"),
    ),
    Attack(
        "a path as a study's digest, with an extract",
        posts("reports", lambda s: {"study": NOWHERE_TO_GO, "extract": "{}"}),
        "400",
        call("study: String should match"),
    ),
)
