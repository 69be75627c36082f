"""One CloudFormation stack: plan changes, apply them, report its status, delete it.

The template is ``flo.yaml`` in this folder, sent unchanged. ``sleeping`` puts the stack to sleep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flo.errors import FloError, RefusedError, UsageError
from flo.infra.aws.clients import client, code_of, translate_errors
from flo.infra.aws.study_roles import StudyRoles

TEMPLATE = Path(__file__).parent / "flo.yaml"
_LOOK_SECONDS, _MOST_SECONDS = 3.0, 3600.0
# Parameters that a deployment leaves as they are, unless it is given them.
_LEFT = (
    *("CoordinatorInstanceType", "EndpointZones", "Awake", "WakeAt", "SleepAt", "CalendarZone"),
    *("LogDays", "AuditYears"),
)
_SETTINGS = {  # output of the template -> name in [aws] of coordinator.toml
    "Region": "region",
    "Bucket": "bucket",
    "ArtifactsKeyArn": "artifacts_key",
    "LaunchKeyArn": "launch_key",
    "AuditBucketName": "audit_bucket",
    "AuditKeyArn": "audit_key",
    "StudyRoles": "study_roles",
}


@dataclass(frozen=True)
class Change:
    """``action``: Add, Modify or Remove. ``replaced``: the current resource is deleted."""

    action: str
    name: str
    type: str
    replaced: bool


@dataclass(frozen=True)
class StackEvent:
    """One step of a deployment, in CloudFormation's words. ``why``: "" without a reason."""

    name: str
    type: str
    status: str
    why: str


class Stack:
    """One stack of one region, by name, in the account of the credentials that AWS's SDK finds."""

    def __init__(self, name: str, region: str) -> None:
        self.name, self.region = name, region
        self._formation = client("cloudformation", region)

    def status(self) -> str | None:
        """Return CloudFormation's status; None if there is no such stack."""
        found = self._described()
        return str(found["StackStatus"]) if found else None

    def outputs(self) -> dict[str, str]:
        """Return the outputs. Raises UsageError if there is no such stack."""
        found = self._existing().get("Outputs", [])
        return {item["OutputKey"]: item["OutputValue"] for item in found}

    def parameters(self) -> dict[str, str]:
        """Return the values of the template's parameters. Raises UsageError as ``outputs``."""
        found = self._existing()
        return {item["ParameterKey"]: item["ParameterValue"] for item in found["Parameters"]}

    def study_roles(self) -> StudyRoles:
        """Return the roles of its studies.

        Raises:
            UsageError: there is no such stack, or an earlier FLO deployed it.
        """
        outputs = self.outputs()
        if "StudyRoles" not in outputs:
            raise UsageError(
                f"stack {self.name} was deployed by an earlier FLO: all of its jobs share one role",
                hint="flo aws deploy, then put its lines of [aws] into coordinator.toml",
            )
        return StudyRoles(outputs["StudyRoles"], outputs["StudyPolicyArn"])

    def plan(self, parameters: dict[str, str]) -> list[Change]:
        """Return what a deployment would change, without changing it.

        Raises:
            UsageError: the template or a parameter is refused.
        """
        before, named = self.status(), f"flo-{int(time.time())}"
        kind = "CREATE" if before in (None, "REVIEW_IN_PROGRESS") else "UPDATE"
        place = {"StackName": self.name, "ChangeSetName": named}
        with translate_errors(f"planning {self.name}"):
            self._formation.create_change_set(
                **self._request(parameters), ChangeSetName=named, ChangeSetType=kind
            )
            try:
                found = self._formation.describe_change_set(**place)
                if found["Status"] not in ("CREATE_COMPLETE", "FAILED"):
                    self._formation.get_waiter("change_set_create_complete").wait(**place)
                    found = self._formation.describe_change_set(**place)
            finally:
                self._formation.delete_change_set(**place)
                if before is None:  # planning created an empty stack
                    self._formation.delete_stack(StackName=self.name)
        changes = [item["ResourceChange"] for item in found.get("Changes", [])]
        return [
            Change(
                change["Action"],
                change["LogicalResourceId"],
                change["ResourceType"],
                change.get("Replacement") == "True",
            )
            for change in changes
        ]

    def deploy(self, parameters: dict[str, str], show: Callable[[StackEvent], None]) -> None:
        """Create or update the stack; call ``show`` with each step.

        Raises:
            FloError: it was rolled back; the first failed step is named.
        """
        before, began = self.status(), time.time()
        request = self._request(parameters)
        if before in (None, "REVIEW_IN_PROGRESS"):
            with translate_errors(f"deploying {self.name}"):
                self._formation.create_stack(**request, OnFailure="ROLLBACK")
        elif not self._updates(request):
            return
        self._follow(began, show)

    def change(self, parameters: dict[str, str], show: Callable[[StackEvent], None]) -> None:
        """Give the deployed template these values; call ``show`` with each step.

        An update under way, such as the calendar's, is waited for.

        Raises:
            UsageError: there is no such stack, or AWS refuses a value. FloError: it was rolled
            back.
        """
        if str(self.status()).endswith("_IN_PROGRESS"):
            self._follow(time.time(), lambda _: None)
        known = self.parameters()
        began, request = time.time(), self._request(known | parameters)
        del request["TemplateBody"]
        request["UsePreviousTemplate"] = True
        if self._updates(request):
            self._follow(began, show)

    def destroy(self, show: Callable[[StackEvent], None]) -> None:
        """Delete the studies' roles and the stack; buckets, keys, logs, images and the disk remain.

        Raises:
            RefusedError: machine or load balancer is protected, or a training job is under way.
            UsageError: there is no such stack. FloError: a deletion failed.
        """
        self._refuse_protected()
        if "StudyRoles" in self.outputs():
            self._remove_roles()
        began = time.time()
        with translate_errors(f"destroying {self.name}"):
            self._formation.delete_stack(StackName=self.name)
        self._follow(began, show)

    # -- inside ----------------------------------------------------------------------------------

    def _updates(self, request: dict[str, Any]) -> bool:
        """Ask for an update; return False if there is nothing to change."""
        from botocore.exceptions import ClientError

        with translate_errors(f"updating {self.name}"):
            try:
                self._formation.update_stack(**request)
            except ClientError as error:  # CloudFormation has no error code for this
                if "No updates are to be performed" in str(error):
                    return False
                raise
        return True

    def _request(self, parameters: dict[str, str]) -> dict[str, Any]:
        found = self._described() or {}
        known = {one["ParameterKey"]: one["ParameterValue"] for one in found.get("Parameters", [])}
        left = {name: known[name] for name in _LEFT if name in known}
        return {
            "StackName": self.name,
            "TemplateBody": TEMPLATE.read_text(encoding="utf-8"),
            "Parameters": [
                {"ParameterKey": name, "ParameterValue": value}
                for name, value in sorted((left | parameters).items())
            ],
            "Capabilities": ["CAPABILITY_IAM"],
            "Tags": [{"Key": "flo", "Value": self.name}],
        }

    def _existing(self) -> dict[str, Any]:
        found = self._described()
        if found is None:
            raise UsageError(f"no stack {self.name} in {self.region}", hint="flo aws deploy")
        return found

    def _described(self) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        with translate_errors(f"reading the status of {self.name}"):
            try:
                found = self._formation.describe_stacks(StackName=self.name)["Stacks"]
            except ClientError as error:
                if code_of(error) == "ValidationError":
                    return None
                raise
        return found[0] if found else None

    def _follow(self, began: float, show: Callable[[StackEvent], None]) -> None:
        end, seen, failed = time.monotonic() + _MOST_SECONDS, set[str](), ""
        while time.monotonic() < end:
            for identifier, event in self._events(began):
                if identifier not in seen:
                    seen.add(identifier)
                    show(event)
                    if event.status.endswith("FAILED") and not failed:
                        failed = f"{event.name} ({event.type}): {event.why}"
            status = self.status()
            if status is None or status == "DELETE_COMPLETE":
                return
            if status.endswith(("_COMPLETE", "_FAILED")) and "CLEANUP" not in status:
                if "ROLLBACK" in status or status.endswith("_FAILED") or failed:
                    raise FloError(f"{self.name} is {status}: {failed or 'see its events'}")
                return
            time.sleep(_LOOK_SECONDS)
        raise FloError(
            f"{self.name} was not ready within {_MOST_SECONDS:g} seconds",
            hint="see its events in CloudFormation, then: flo aws status",
        )

    def _events(self, began: float) -> Iterator[tuple[str, StackEvent]]:
        from botocore.exceptions import ClientError

        with translate_errors(f"following {self.name}"):
            try:
                found = self._formation.describe_stack_events(StackName=self.name)["StackEvents"]
            except ClientError:  # the stack no longer exists
                return
        for item in reversed(found):
            if item["Timestamp"].timestamp() >= began - 1:
                yield (
                    item["EventId"],
                    StackEvent(
                        item["LogicalResourceId"],
                        item["ResourceType"],
                        item["ResourceStatus"],
                        item.get("ResourceStatusReason", ""),
                    ),
                )

    def _remove_roles(self) -> None:
        """Remove the studies' roles: as long as one has the stack's policy, the stack stays."""
        roles = self.study_roles()
        for job in roles.in_use().values():
            raise RefusedError(
                f"the training job {job} is under way",
                hint="stop the studies that are aggregated in AWS, and repeat this afterwards",
            )
        for role in roles.all():
            roles.remove(role.study)

    def _refuse_protected(self) -> None:
        outputs = self.outputs()
        machine, targets = outputs.get("Machine", ""), outputs.get("Targets")
        with translate_errors("reading the protection of the machine and the load balancer"):
            protected = client("ec2", self.region).describe_instance_attribute(
                InstanceId=machine, Attribute="disableApiTermination"
            )["DisableApiTermination"]["Value"]
            balancers = self._protected_balancers(targets) if targets else []
        kept = [f"machine {machine}"] if protected else []
        kept += [f"load balancer {name}" for name in balancers]
        if kept:
            raise RefusedError(
                f"the coordinator's {' and '.join(kept)} cannot be deleted: protected against "
                "termination",
                hint="make a backup, then turn off the protection of the machine and of the load "
                "balancer",
            )

    def _protected_balancers(self, targets: str) -> list[str]:
        elb = client("elbv2", self.region)
        (group,) = elb.describe_target_groups(TargetGroupArns=[targets])["TargetGroups"]
        found = []
        for balancer in group["LoadBalancerArns"]:
            kept = elb.describe_load_balancer_attributes(LoadBalancerArn=balancer)["Attributes"]
            if {"Key": "deletion_protection.enabled", "Value": "true"} in kept:
                found.append(balancer.split("/")[-2])
        return found


def settings(outputs: dict[str, str]) -> dict[str, Any]:
    """Return ``[aws]`` of coordinator.toml as far as the outputs know it: all but
    ``image``, and what an earlier FLO's stack does not have."""
    known = {output: name for output, name in _SETTINGS.items() if output in outputs}
    found: dict[str, Any] = {name: outputs[output] for output, name in known.items()}
    found["subnets"] = outputs["Subnets"].split(",")
    found["security_groups"] = outputs["SecurityGroups"].split(",")
    return found
