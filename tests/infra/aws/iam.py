"""May this role do that? A static evaluation of a template's policies.

Source: the IAM user guide, "Policy evaluation logic". Within one account: an explicit Deny wins;
then an Allow of the role's own policy is enough, but for KMS keys, whose key policy must allow it
too: to the role, or to the account, which leaves it to the role's own policy. Condition operators
that this template does not use are an error, never a yes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

ACCOUNT, REGION = "123456789012", "eu-central-1"


@dataclass(frozen=True)
class Request:
    action: str
    resource: str
    keys: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.action} {self.resource} {','.join(self.keys.values())}"


class Template:
    """``arn:NAME`` is the ARN of the resource NAME, and ``NAME`` its id."""

    def __init__(self, template: dict[str, Any]) -> None:
        self._resources = template["Resources"]

    def administrator_may(self, key: str, action: str) -> bool:
        """Whether the account may do that to a key, without any condition's help."""
        statements = self._statements_of_resource(f"arn:{key}")
        of_the_account = [s for s in statements if "root" in str(s.get("Principal"))]
        return any(
            s["Effect"] == "Allow" and _matches(s, Request(action, "*")) for s in of_the_account
        )

    def allows(self, role: str, asked: Request) -> bool:
        own = self._statements_of_role(role)
        others = self._statements_of_resource(asked.resource)
        for_role = [s for s in others if _names(_resolved(s.get("Principal")), f"arn:{role}")]
        for_account = [s for s in others if "root" in str(s.get("Principal"))]
        if any(s["Effect"] == "Deny" and _matches(s, asked) for s in own + for_role):
            return False
        by_role = any(s["Effect"] == "Allow" and _matches(s, asked) for s in own)
        if asked.action.startswith("kms:"):
            return by_role and any(
                s["Effect"] == "Allow" and _matches({**s, "Resource": "*"}, asked)
                for s in for_role + for_account
            )
        return by_role

    def _statements_of_role(self, role: str) -> list[dict[str, Any]]:
        found = []
        for resource in self._resources.values():
            properties = resource.get("Properties", {})
            if resource["Type"] == "AWS::IAM::RolePolicy" and properties["RoleName"] == {
                "Ref": role
            }:
                found += properties["PolicyDocument"]["Statement"]
        return found

    def _statements_of_resource(self, resource: str) -> list[dict[str, Any]]:
        found = []
        for name, kept in self._resources.items():
            properties = kept.get("Properties", {})
            if kept["Type"] == "AWS::KMS::Key" and resource == f"arn:{name}":
                found += properties["KeyPolicy"]["Statement"]
            if kept["Type"] == "AWS::S3::BucketPolicy":
                bucket = properties["Bucket"]["Ref"]
                if resource.split("/")[0] == f"arn:{bucket}":
                    found += properties["PolicyDocument"]["Statement"]
        return found


def _matches(statement: dict[str, Any], asked: Request) -> bool:
    return (
        any(_like(pattern, asked.action) for pattern in _list(statement["Action"]))
        and any(_like(p, asked.resource) for p in _list(_resolved(statement["Resource"])))
        and all(
            _holds(operator, name, _list(_resolved(values)), asked.keys)
            for operator, pairs in statement.get("Condition", {}).items()
            for name, values in pairs.items()
        )
    )


def _holds(operator: str, name: str, values: list[str], keys: dict[str, str]) -> bool:
    given = keys.get(name)
    if operator == "Null":
        return (given is None) == (values == ["true"])
    if operator == "StringNotEquals":
        return given is None or given not in values
    if operator in ("BoolIfExists", "StringEqualsIfExists"):
        return given is None or given in values
    if operator == "ForAllValues:StringEquals":
        return given is None or given in values
    if operator in ("StringEquals", "ForAnyValue:StringEquals", "Bool"):
        return given is not None and given in values
    if operator == "ArnLike":
        return given is not None and any(_like(value, given) for value in values)
    raise AssertionError(f"condition operator {operator} is not known here")


def _names(principal: Any, arn: str) -> bool:
    if principal == "*":
        return True
    return isinstance(principal, dict) and arn in _list(principal.get("AWS", []))


def _resolved(value: Any) -> Any:
    """With CloudFormation's functions carried out, every resource by its name."""
    if isinstance(value, list):
        return [_resolved(found) for found in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"Ref"}:
        return _reference(value["Ref"])
    if set(value) == {"Fn::GetAtt"}:
        return f"arn:{value['Fn::GetAtt'][0]}"
    if set(value) == {"Fn::Sub"}:
        text = re.sub(r"\$\{(\w+)\.\w+\}", r"arn:\1", value["Fn::Sub"])
        return re.sub(r"\$\{([A-Za-z:]+)\}", lambda found: _reference(found.group(1)), text)
    return {name: _resolved(found) for name, found in value.items()}


def _reference(name: str) -> str:
    known = {"AWS::Partition": "aws", "AWS::AccountId": ACCOUNT, "AWS::Region": REGION}
    return known.get(name, name)


def _like(pattern: str, text: str) -> bool:
    return bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
