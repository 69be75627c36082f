"""Parts of Flower's control interface that the coordinator replaces: tokens, app descriptor."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import ACCESS_TOKEN_KEY, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.supercore.auth.typing import AccountAuthCredentials, AccountAuthLoginDetails, AccountInfo
from flwr.supercore.error import http_error_translator
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.superlink.auth_plugin import ControlAuthnPlugin
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

from flo import __version__
from flo.errors import NetworkError

CONTROL_PREFIX = "/v1/control/"


def part_of(whole: Any, router: APIRouter, *inner: Middleware) -> FastAPI:
    """Return an application with only the routes of ``router``, sharing the state of ``whole``."""
    part = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=http_error_translator),
            Middleware(ProtobufTranslationMiddleware),
            *inner,
        ],
    )
    part.include_router(router)
    part.state = whole.state
    return part


class OtherState:
    """An application's state with some attributes replaced."""

    def __init__(self, state: Any, **differs: Any) -> None:
        self._state, self._differs = state, differs

    def __getattr__(self, name: str) -> Any:
        return self._differs[name] if name in self._differs else getattr(self._state, name)


class OneToken(ControlAuthnPlugin):
    """Authentication of Flower's Control API: only this process's own token is accepted."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_login_details(self) -> AccountAuthLoginDetails | None:
        """Return None: there is no login."""
        return None

    def validate_tokens_in_metadata(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[bool, AccountInfo | None]:
        """Return whether a call shows this process's token, and Flower's own account for it."""
        given = dict(metadata).get(ACCESS_TOKEN_KEY, "")
        text = given.decode("latin-1") if isinstance(given, bytes) else given
        if not hmac.compare_digest(text.encode(), self._token.encode()):
            return False, None
        return True, AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)

    def get_auth_tokens(self, device_code: str) -> AccountAuthCredentials | None:
        """Return None: no token is issued."""
        return None

    def refresh_tokens(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[Sequence[tuple[str, str | bytes]] | None, AccountInfo | None]:
        """Return None twice: the token does not expire."""
        return None, None


class Bearer:
    """Interceptor that adds this process's token to its Control calls."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the token to a call, then make it."""
        context.request.headers["authorization"] = f"Bearer {self._token}"
        return call_next(context)


def app_bundle(app: str) -> bytes:
    """Build the app bundle that Flower requires: it has names but no code. Sites never fetch it."""
    project = f"""
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "flo"
version = "{__version__}"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.42,<1.43"]
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "flo"
fab-format-version = 1
flwr-version-target = "1.42.0"
[tool.flwr.app.components]
serverapp = "{app}"
clientapp = "flo.server.runs.app:refused"
[tool.flwr.app.config]
run = ""
"""
    files: dict[str, bytes | Path] = {"pyproject.toml": project.encode(), "LICENSE": b"Apache-2.0"}
    bundle, _ = build_fab_from_files(files)
    if len(bundle) > 16_384:
        raise NetworkError(f"the app descriptor has {len(bundle)} bytes; it must not contain code")
    return bundle
