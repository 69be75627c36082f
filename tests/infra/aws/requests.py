"""Requests to AWS, checked against botocore's model of the service, as the service itself does.

botocore checks names, types and lengths before it sends; patterns, enumerations and the service's
own limits it leaves to AWS.
"""

from __future__ import annotations

import re
from typing import Any

LIMITS = {  # of SageMaker, where its model allows more
    ("CreateEndpointConfig", "ShadowProductionVariants"): 1,
    ("CreateEndpointConfig", "ProductionVariants"): 10,
}


class RequestRefused(AssertionError):
    """What AWS would refuse."""


def check(client: Any, operation: str, params: dict[str, Any]) -> None:
    """Raise RequestRefused for what the service would refuse."""
    _check(client.meta.service_model.operation_model(operation).input_shape, params, operation)
    for (name, member), most in LIMITS.items():
        if name == operation and len(params.get(member) or ()) > most:
            raise RequestRefused(f"{operation}: {member} has more than {most}")
    if operation == "CreateEndpointConfig":
        _serverless(params)


def _serverless(params: dict[str, Any]) -> None:
    """Serverless endpoints have one variant, and no key for machines that they do not have."""
    variants = params["ProductionVariants"]
    if any("ServerlessConfig" in one for one in variants):
        if len(variants) > 1:
            raise RequestRefused("a serverless endpoint has one variant")
        if "InstanceType" in variants[0]:
            raise RequestRefused("a serverless endpoint has no machines")


def _check(shape: Any, value: Any, place: str) -> None:
    kind, rules = shape.type_name, shape.metadata
    if kind == "structure":
        for name in shape.required_members:
            if name not in value:
                raise RequestRefused(f"{place}.{name} is missing")
        for name, inner in value.items():
            if name not in shape.members:
                raise RequestRefused(f"{place}.{name} is unknown")
            _check(shape.members[name], inner, f"{place}.{name}")
    elif kind == "list":
        _length(len(value), rules, place)
        for number, inner in enumerate(value):
            _check(shape.member, inner, f"{place}[{number}]")
    elif kind == "map":
        _length(len(value), rules, place)
        for name, inner in value.items():
            _check(shape.key, name, f"{place} key")
            _check(shape.value, inner, f"{place}.{name}")
    elif kind == "string":
        _length(len(value), rules, place)
        if rules.get("enum") and value not in rules["enum"]:
            raise RequestRefused(f"{place}: {value!r} is none of {rules['enum'][:5]} ...")
        if rules.get("pattern") and not re.fullmatch(_as_python(rules["pattern"]), value):
            raise RequestRefused(f"{place}: {value!r} does not match {rules['pattern']}")
    elif kind in ("integer", "long", "float", "double"):
        _length(value, rules, place)


def _as_python(pattern: str) -> str:
    """Return a pattern of the model, which is Java's, without its Unicode classes."""
    classes = {
        r"\p{L}": "a-zA-Z\u00c0-\u024f",
        r"\p{Z}": " ",
        r"\p{N}": "0-9",
        r"\p{ASCII}": r"[\x00-\x7f]",
    }
    for name, characters in classes.items():
        pattern = pattern.replace(name, characters)
    return pattern


def _length(value: float, rules: dict[str, Any], place: str) -> None:
    if value < rules.get("min", value) or value > rules.get("max", value):
        raise RequestRefused(
            f"{place}: {value} is not within {rules.get('min')} and {rules.get('max')}"
        )


def checked(client: Any) -> Any:
    """Check every request of a client; return what ends that."""

    def look(params: dict[str, Any], model: Any, **_: Any) -> None:
        check(client, model.name, params)

    event = f"provide-client-params.{client.meta.service_model.service_id.hyphenize()}"
    client.meta.events.register(event, look)
    return lambda: client.meta.events.unregister(event, look)
