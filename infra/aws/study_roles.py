"""One IAM role for each study: of its training jobs, which reach this study's objects only.

All of them have the stack's one policy, which reads the study from the role's tag and asks that the
role has its name. It is their permissions boundary, too: another policy that somebody attaches to
a role by mistake gives it nothing. The coordinator's network does not reach IAM, so whoever deploys
the stack makes the roles.

A role's name is the study's digest, whose 64 characters are as many as IAM allows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flo.errors import RefusedError
from flo.infra.aws.clients import client, code_of, translate_errors

TAG = "flo-study"
_GONE = "NoSuchEntity"


@dataclass(frozen=True)
class StudyRole:
    """The role of one study. ``made``: when."""

    study: str
    made: datetime


def role_request(roles: str, policy: str, study: str) -> dict[str, Any]:
    """Return the ``CreateRole`` request for a study.

    ``roles``: the ARN of their path, which names region and stack. ``policy``: the ARN of the
    stack's policy. ``study``: digest.
    """
    partition, account = roles.split(":")[1], roles.split(":")[4]
    jobs = f"arn:{partition}:sagemaker:{_path(roles).split('/')[2]}:{account}:training-job/*"
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sagemaker.amazonaws.com"},
                "Action": "sts:AssumeRole",
                "Condition": {
                    "StringEquals": {"aws:SourceAccount": account},
                    "ArnLike": {"aws:SourceArn": jobs},
                },
            }
        ],
    }
    return {
        "RoleName": study,
        "Path": _path(roles),
        "Description": "FLO, the training jobs of one study",
        "AssumeRolePolicyDocument": json.dumps(trust),
        "PermissionsBoundary": policy,
        "Tags": [{"Key": TAG, "Value": study}],
    }


class StudyRoles:
    """The roles of one stack's studies. ``arn``, ``policy``: ``role_request``'s first arguments."""

    def __init__(self, arn: str, policy: str) -> None:
        self.arn, self._policy = arn, policy
        self._region = _path(arn).split("/")[2]
        self._iam = client("iam", self._region)

    def make(self, study: str) -> bool:
        """Make the role of a study, or complete it; return False if it was there and complete.

        Raises:
            RefusedError: a role of this name is not as FLO makes it. TrustError: AWS denies it.
        """
        from botocore.exceptions import ClientError

        request = role_request(self.arn, self._policy, study)
        with translate_errors(f"making the role of study {study[:12]}"):
            try:
                self._iam.create_role(**request)
            except ClientError as error:
                if code_of(error) != "EntityAlreadyExists":
                    raise
                self._refuse_another(request)
            self._iam.get_waiter("role_exists").wait(RoleName=study)  # everywhere in IAM
            complete = self._policy in self._attached(study)
            self._iam.attach_role_policy(RoleName=study, PolicyArn=self._policy)
        return not complete

    def remove(self, study: str) -> bool:
        """Remove the role of a study; return False if it has none.

        Raises:
            RefusedError: a job still uses it, or it is another stack's. TrustError: AWS denies it.
        """
        from botocore.exceptions import ClientError

        with translate_errors(f"removing the role of study {study[:12]}"):
            try:
                found = self._iam.get_role(RoleName=study)["Role"]
            except ClientError as error:
                if code_of(error) == _GONE:
                    return False
                raise
            if found["Path"] != _path(self.arn):
                raise _of_another_stack(found)
            if job := self.in_use().get(study):
                raise RefusedError(
                    f"the training job {job} still uses the role of study {study[:12]}",
                    hint="repeat this when the job is over; stop the study if it is to end now",
                )
            for policy in self._attached(study):
                self._iam.detach_role_policy(RoleName=study, PolicyArn=policy)
            for name in self._iam.list_role_policies(RoleName=study)["PolicyNames"]:
                self._iam.delete_role_policy(RoleName=study, PolicyName=name)
            self._iam.delete_role(RoleName=study)
        return True

    def all(self) -> list[StudyRole]:
        """Return the roles of this stack's studies, the oldest first."""
        pages = self._iam.get_paginator("list_roles")
        with translate_errors("listing the studies' roles"):
            found = [
                StudyRole(role["RoleName"], role["CreateDate"])
                for page in pages.paginate(PathPrefix=_path(self.arn))
                for role in page["Roles"]
            ]
        return sorted(found, key=lambda role: role.made)

    def in_use(self) -> dict[str, str]:
        """Return the studies whose roles a training job uses: study -> job."""
        sagemaker = client("sagemaker", self._region)
        pages = sagemaker.get_paginator("list_training_jobs")
        with translate_errors("listing training jobs"):
            jobs = [
                job["TrainingJobName"]
                for state in ("InProgress", "Stopping")
                for page in pages.paginate(StatusEquals=state, NameContains="flo-run-")
                for job in page["TrainingJobSummaries"]
            ]
            roles = {
                sagemaker.describe_training_job(TrainingJobName=job)["RoleArn"]: job for job in jobs
            }
        return {
            role.removeprefix(self.arn): job
            for role, job in roles.items()
            if role.startswith(self.arn)
        }

    def _attached(self, study: str) -> list[str]:
        found = self._iam.list_attached_role_policies(RoleName=study)["AttachedPolicies"]
        return [one["PolicyArn"] for one in found]

    def _refuse_another(self, request: dict[str, Any]) -> None:
        """Raise RefusedError if the role of this name is not what the request would make."""
        study = request["RoleName"]
        found = self._iam.get_role(RoleName=study)["Role"]
        if found["Path"] != request["Path"]:
            raise _of_another_stack(found)
        boundary = found.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn")
        tags = {one["Key"]: one["Value"] for one in found.get("Tags", [])}
        as_made = {
            "trust policy": found["AssumeRolePolicyDocument"]
            == json.loads(request["AssumeRolePolicyDocument"]),
            "permissions boundary": boundary == request["PermissionsBoundary"],
            f"tag {TAG}": tags.get(TAG) == study,
        }
        differing = [name for name, same in as_made.items() if not same]
        if differing:
            raise RefusedError(
                f"the role {study} is there, and not as FLO makes it: {', '.join(differing)}",
                hint=f"look who changed it; flo aws role {study} --remove, then make it anew",
            )


def _path(roles: str) -> str:
    return roles.partition(":role")[2]


def _of_another_stack(found: dict[str, Any]) -> RefusedError:
    return RefusedError(
        f"the role {found['RoleName']} has the path {found['Path']}: it is another stack's",
        hint="name that stack: --name",
    )
