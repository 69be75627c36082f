"""Lambda, emulated: moto keeps functions, versions and aliases; each invocation runs the code that
it keeps, in a process of AWS's own runtime client."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from flo.errors import FloError
from flo.infra.aws.serving.local_function import LocalFunction
from tests.infra.aws.emulated import REGION, Aws


@dataclass
class EmulatedLambda:
    """``spoilt``: numbers of versions that answer another score, as a broken one would."""

    client: Any
    dice: random.Random
    spoilt: set[str] = field(default_factory=set)
    asked: dict[str, int] = field(default_factory=dict)
    _running: dict[str, LocalFunction] = field(default_factory=dict)

    def invoke(self, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        """In place of the request to moto, which needs Docker."""
        name, qualifier = self._called(params)
        number = self._chosen(name, qualifier)
        self.asked[number] = self.asked.get(number, 0) + 1
        try:
            body = self._function(name, number).said_of(params["body"])
        except FloError as error:
            return _ok(), {"Payload": io.BytesIO(str(error).encode()), "FunctionError": "Unhandled"}
        if number in self.spoilt:
            body = body.replace(b'"score": 0.', b'"score": 0.0')
        return _ok(), {"Payload": io.BytesIO(body), "StatusCode": 200}

    def update_alias(self, params: dict[str, Any], **_: Any) -> None:
        """Before the request to moto, which takes every revision for the latest."""
        from botocore.exceptions import ClientError

        _, _, _, name, _, alias = params["url_path"].split("/")
        there = self.client.get_alias(FunctionName=name, Name=alias)
        wanted = json.loads(params["body"]).get("RevisionId", there["RevisionId"])
        if wanted != there["RevisionId"]:
            raise ClientError({"Error": {"Code": "PreconditionFailedException"}}, "UpdateAlias")

    def _called(self, params: dict[str, Any]) -> tuple[str, str]:
        name = params["url_path"].split("/")[3]
        return name, params["query_string"].get("Qualifier", "$LATEST")

    def _chosen(self, name: str, qualifier: str) -> str:
        """As Lambda chooses: by the weights of the alias."""
        if qualifier.isdigit():
            return qualifier
        alias = self.client.get_alias(FunctionName=name, Name=qualifier)
        weights = (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
        for number, weight in weights.items():
            if self.dice.random() < weight:
                return str(number)
        return str(alias["FunctionVersion"])

    def _function(self, name: str, number: str) -> LocalFunction:
        key = f"{name}:{number}"
        if key not in self._running:
            self._running[key] = LocalFunction(self.code(name, number)).__enter__()
        return self._running[key]

    def code(self, name: str, number: str) -> bytes:
        from moto.backends import get_backend
        from moto.core import DEFAULT_ACCOUNT_ID

        backend = get_backend("lambda")[DEFAULT_ACCOUNT_ID][REGION]
        return bytes(backend.get_function(name, number).code_bytes)

    def close(self) -> None:
        for one in self._running.values():
            one.__exit__(None, None, None)


def _ok() -> Any:
    class Ok:
        status_code = 200

    return Ok()


@contextlib.contextmanager
def emulated_lambda(aws: Aws) -> Iterator[EmulatedLambda]:
    client = aws.client("lambda")
    found = EmulatedLambda(client, random.Random(7))
    hooks = {"Invoke": found.invoke, "UpdateAlias": found.update_alias}
    for call, hook in hooks.items():
        client.meta.events.register(f"before-call.lambda.{call}", hook)
    try:
        yield found
    finally:
        for call, hook in hooks.items():
            client.meta.events.unregister(f"before-call.lambda.{call}", hook)
        found.close()
