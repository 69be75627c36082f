"""Client of the private listener: a token, and TLS verified by the coordinator's own CA."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
from pydantic import Field, StringConstraints

from flo.audit.chain import MAX_EXPORT_BYTES
from flo.documents.aws_names import StackPlace
from flo.documents.document import Document, read_json
from flo.errors import EXIT_USAGE, FloError, MessageError, NetworkError, TrustError, UsageError
from flo.protocol.https import Connection, ErrorReply, trusting
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.http.tokens import PersonRole, Token, issue

_LIMIT, _OWN_SECONDS = 1 << 20, 900
_ASK_AGAIN = "ask the owner of the coordinator's folder for a new one: flo coordinator token NAME"


class Access(Document):
    """Access file, as ``flo coordinator token`` writes it. ``stack``: None outside AWS."""

    schema_version: Literal[1] = 1
    url: Annotated[str, Field(pattern=r"^https://[^/\s]{1,253}$")]
    ca: Annotated[str, StringConstraints(max_length=8192)]
    token: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._=-]{1,2048}$")]
    stack: StackPlace | None = None


def read_access(place: Path) -> Access:
    """Read an access file. Raises UsageError if it is not one."""
    try:
        return read_json(Access, place, limit=_LIMIT)
    except (MessageError, UsageError) as error:
        raise UsageError(f"{place} is not an access file: {error}", hint=_ASK_AGAIN) from error


def issue_recorded(
    home: CoordinatorHome, name: str, role: PersonRole, seconds: int
) -> tuple[str, Token]:
    """Issue a token to a person and enter it in the audit log. Raises UsageError as ``issue``."""
    text, made = issue(home.open_identity(), name, role, seconds)
    facts = made.model_dump(include={"id", "name", "role", "expires"})
    with home.recording() as store:
        store.add_event(None, "token-issued", **facts)
    return text, made


def call_once(place: Path, method: str, path: str, *, body: bytes | None = None) -> Any:
    """Make one call with an ``Operator``, then close its connection."""
    with Operator(place) as operator:
        return operator.call(method, path, body=body)


class Operator(Connection):
    """Client of ``/v1/flo/*``, with an access file or as the owner of the coordinator's folder.

    ``place``: the coordinator's stack in AWS. ``stack``: the same from an access file, whose owner
    may reach AWS; the coordinator's own machine does not.
    """

    def __init__(self, place: Path) -> None:
        self._home = None if place.is_file() else CoordinatorHome.open(place)
        if self._home is None:
            self._access = read_access(place)
        else:
            url, ca = self._home.read_private_url(), self._home.ca_path.read_text()
            unsigned = "-"  # ``_bearer`` signs a token when it is needed
            self._access = Access(url=url, ca=ca, token=unsigned)
        try:
            context = trusting(self._access.ca)
            super().__init__(self._access.url, context, limit=MAX_EXPORT_BYTES)
        except (TrustError, UsageError) as error:
            raise UsageError(f"{place} is not an access file", hint=_ASK_AGAIN) from error
        self.stack = self._access.stack
        self.place = self.stack
        if self._home is not None and (aws := self._home.read_config().aws) is not None:
            self.place = aws.place
        self._token = self._access.token
        self._good_until = float("inf") if self._home is None else 0.0

    def call(self, method: str, path: str, *, body: bytes | None = None) -> Any:
        """Return the parsed reply.

        Raises NetworkError, TrustError, or the coordinator's own refusal, as a FloError.
        """
        return self.fetch(method, path, body=body).json()

    def fetch(self, method: str, path: str, *, body: bytes | None = None) -> httpx.Response:
        """Return the raw reply. Raises as ``call`` does."""
        headers = {"authorization": f"Bearer {self._bearer()}"}
        try:
            response = self.http.request(method, f"/v1/flo/{path}", content=body, headers=headers)
        except httpx.RequestError as error:
            hint = "start it: flo coordinator serve"
            if (at := self.stack) is not None:
                hint = f"it may sleep: flo aws wake --name {at.name} --region {at.region}"
            raise NetworkError(f"no coordinator answers at {self.url}", hint=hint) from error
        if response.status_code != 200:
            raise self._refused(ErrorReply.of(response))
        return response

    @staticmethod
    def _refused(reply: ErrorReply) -> FloError:
        if reply.status == 401:
            return reply.error(
                "the coordinator does not accept this token",
                "it has expired, or the coordinator's key was replaced: flo coordinator token",
            )
        if reply.status == 403:
            return reply.error(
                f"the coordinator refuses: {reply.why}",
                "ask its operator for a token with another role",
            )
        refusal = reply.error(reply.why, reply.hint)
        refusal.exit_code = reply.exit_code or EXIT_USAGE
        return refusal

    def _bearer(self) -> str:
        """Return the token; as owner of the folder, sign a new one before the last expires."""
        if self._home is not None and time.monotonic() > self._good_until - 60:
            self._token, _ = issue(
                self._home.open_identity(), "owner of the folder", "operator", _OWN_SECONDS
            )
            self._good_until = time.monotonic() + _OWN_SECONDS
        return self._token
