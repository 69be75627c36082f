"""May this role do that? A static evaluation of a template's policies.

Source: the IAM user guide, "Policy evaluation logic". Within one account: an explicit Deny wins;
then an Allow of the role's own policy is enough, but for KMS keys, whose key policy must allow it:
to the role, or to the account, which leaves it to the role's own policy. A role with a permissions
boundary may what both allow. A statement with a variable that the request does not have
says nothing. Condition operators that this template does not use are an error, never a yes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

ACCOUNT, REGION = "123456789012", "eu-central-1"
_VARIABLE = re.compile(r"\$\{(aws:[^}]+)\}")


@dataclass(frozen=True)
class Request:
    action: str
    resource: str
    keys: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.action} {self.resource} {','.join(self.keys.values())}"


def with_mappings(value: Any, mappings: dict[str, Any]) -> Any:
    """A template with each Fn::FindInMap carried out."""
    if isinstance(value, list):
        return [with_mappings(one, mappings) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"Fn::FindInMap"}:
        name, first, second = value["Fn::FindInMap"]
        return mappings[name][first][second]
    return {name: with_mappings(one, mappings) for name, one in value.items()}


class Template:
    """``arn:NAME`` is the ARN of the resource NAME, and ``NAME`` its id.

    A role is one of the template's, by its name, or ``made``: the request that makes it, with the
    names of its policies.
    """

    def __init__(self, template: dict[str, Any]) -> None:
        self._resources = template["Resources"]

    def administrator_may(self, key: str, action: str) -> bool:
        """Whether the account may do that to a key, without any condition's help."""
        statements = self._statements_of_resource(f"arn:{key}")
        of_the_account = [s for s in statements if _of_the_account(s)]
        return any(
            s["Effect"] == "Allow" and _matches(s, Request(action, "*")) for s in of_the_account
        )

    def allows_made(self, made: dict[str, Any], policies: list[str], asked: Request) -> bool:
        """Whether a role that ``CreateRole`` made, with these managed policies, may do that."""
        arn = f"arn:aws:iam::{ACCOUNT}:role{made['Path']}{made['RoleName']}"
        tags = {f"aws:PrincipalTag/{one['Key']}": one["Value"] for one in made["Tags"]}
        asked = replace(asked, keys={**asked.keys, **tags, "aws:PrincipalArn": arn})
        boundary = self._statements_of_policy(made["PermissionsBoundary"])
        bounded = any(s["Effect"] == "Allow" and _matches(s, asked) for s in boundary)
        own = [s for name in policies for s in self._statements_of_policy(name)]
        return bounded and self._allowed(arn, own, asked)

    def allows(self, role: str, asked: Request) -> bool:
        """Whether a role of the template may do that."""
        arn = f"arn:{role}"
        asked = replace(asked, keys={**asked.keys, "aws:PrincipalArn": arn})
        return self._allowed(arn, self._statements_of_role(role), asked)

    def _allowed(self, arn: str, own: list[dict[str, Any]], asked: Request) -> bool:
        others = self._statements_of_resource(asked.resource)
        for_role = [s for s in others if _names(_resolved(s.get("Principal")), arn)]
        for_account = [s for s in others if _of_the_account(s)]
        if any(s["Effect"] == "Deny" and _matches(s, asked) for s in own + for_role):
            return False
        by_role = any(s["Effect"] == "Allow" and _matches(s, asked) for s in own)
        if not asked.action.startswith("kms:"):
            return by_role
        named, left = (
            any(s["Effect"] == "Allow" and _matches({**s, "Resource": "*"}, asked) for s in some)
            for some in (for_role, for_account)
        )
        return named or (left and by_role)

    def _statements_of_role(self, role: str) -> list[dict[str, Any]]:
        found = []
        for resource in self._resources.values():
            properties = resource.get("Properties", {})
            if resource["Type"] == "AWS::IAM::RolePolicy" and properties["RoleName"] == {
                "Ref": role
            }:
                found += properties["PolicyDocument"]["Statement"]
        return found

    def _statements_of_policy(self, name: str) -> list[dict[str, Any]]:
        """Of a managed policy; none of the template's gives everything, as AWS's own do."""
        if name not in self._resources:
            return [{"Effect": "Allow", "Action": "*", "Resource": "*"}]
        found = self._resources[name]
        assert found["Type"] == "AWS::IAM::ManagedPolicy"
        return list(found["Properties"]["PolicyDocument"]["Statement"])

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


def _of_the_account(statement: dict[str, Any]) -> bool:
    """Whether it is for the whole account, in any spelling."""
    principal = _resolved(statement.get("Principal"))
    named = _list(principal.get("AWS", [])) if isinstance(principal, dict) else [principal]
    if any(":root" in str(one) and ACCOUNT not in str(one) for one in named):
        raise AssertionError(f"{principal} is not known here")
    return any(one in (ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root", "*") for one in named)


def trusts(trust: dict[str, Any], service: str, keys: dict[str, str]) -> bool:
    """Whether a trust policy lets a service take the role, or a principal of AWS by its ARN."""
    return any(
        statement["Effect"] == "Allow"
        and service in _list(next(iter(statement["Principal"].values())))
        and _matches({**statement, "Resource": "*"}, Request("sts:AssumeRole", "*", keys))
        for statement in trust["Statement"]
    )


def _matches(statement: dict[str, Any], asked: Request) -> bool:
    try:
        resources = _filled(_list(_resolved(statement["Resource"])), asked.keys)
        conditions = [
            (operator, name, _filled(_list(_resolved(values)), asked.keys))
            for operator, pairs in statement.get("Condition", {}).items()
            for name, values in pairs.items()
        ]
    except KeyError:  # a variable that the request does not have
        return False
    return (
        any(_like(pattern, asked.action) for pattern in _list(statement["Action"]))
        and any(_like(pattern, asked.resource) for pattern in resources)
        and all(_holds(operator, name, values, asked.keys) for operator, name, values in conditions)
    )


def _filled(values: list[str], keys: dict[str, str]) -> list[str]:
    """With IAM's own variables, which CloudFormation leaves as they are."""
    return [_VARIABLE.sub(lambda found: keys[found[1]], str(value)) for value in values]


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
    if operator in ("ArnLike", "StringLike"):
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
        text = re.sub(r"\$\{([A-Za-z:]+)\}", lambda found: _reference(found.group(1)), text)
        return text.replace("${!", "${")
    return {name: _resolved(found) for name, found in value.items()}


def _reference(name: str) -> str:
    known = {"AWS::Partition": "aws", "AWS::AccountId": ACCOUNT, "AWS::Region": REGION}
    return known.get(name, name)


def _like(pattern: str, text: str) -> bool:
    return bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
