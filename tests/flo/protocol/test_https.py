"""One client of a coordinator: what another party answers never chooses how a command ends."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from flo.errors import EXIT_TRUST, FloError, MessageError, NetworkError, RefusedError, TrustError
from flo.protocol.https import ErrorReply


def reply(status: int, document: Any) -> ErrorReply:
    return ErrorReply.of(httpx.Response(status, content=json.dumps(document).encode()))


@pytest.mark.parametrize(
    ("status", "family"),
    [
        (400, MessageError),
        (401, TrustError),
        (403, TrustError),
        (404, RefusedError),
        (409, RefusedError),
        (413, MessageError),
        (429, RefusedError),
        (500, NetworkError),
        (503, NetworkError),
    ],
)
def test_a_status_is_an_error_of_its_family(status: int, family: type[FloError]) -> None:
    error = reply(status, {"error": "no", "exit_code": 0, "hint": "run this"}).error("refused")
    assert type(error) is family
    assert error.exit_code == family.exit_code, "a reply chose how a command ends"
    assert error.hint == "", "a reply told a person what to do"


@pytest.mark.parametrize("code", [0, 1, -1, True, "4", 2**70, None, [4], 256])
def test_an_exit_code_that_is_none_of_ours_does_not_count(code: Any) -> None:
    assert reply(409, {"error": "no", "exit_code": code}).exit_code == 0


def test_an_operators_command_may_read_an_exit_code_of_ours() -> None:
    found = reply(400, {"error": "no", "exit_code": EXIT_TRUST, "hint": "look"})
    assert (found.why, found.hint, found.exit_code) == ("no", "look", EXIT_TRUST)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": 1}', b"x" * 70_000])
def test_a_reply_without_an_error_document_is_named_by_its_status(body: bytes) -> None:
    found = ErrorReply.of(httpx.Response(502, content=body))
    assert found.why in ("status 502", "1")
