"""Names of AWS resources, as settings spell them."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from flo.documents.document import Document, spelt

Region = Annotated[str, spelt("[a-z]{2}(-[a-z]+)+-[0-9]", "an AWS region, such as eu-central-1")]
StackName = Annotated[
    str,
    spelt(
        "[A-Za-z][A-Za-z0-9-]{0,127}",
        "the name of a CloudFormation stack: a letter, then letters, digits and hyphens",
    ),
]
Account = Annotated[str, spelt("[0-9]{12}", "the 12 digits of an AWS account")]
Bucket = Annotated[
    str,
    spelt(
        "[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
        "the name of an S3 bucket: 3 to 63 lower-case letters, digits, dots and hyphens",
    ),
]
Role = Annotated[
    str,
    spelt(
        "arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]{1,128}",
        "the ARN of an IAM role, such as arn:aws:iam::123456789012:role/flo-job",
    ),
]
RolePath = Annotated[
    str,
    spelt(
        "arn:aws[a-z-]*:iam::[0-9]{12}:role/flo/[a-z0-9-]{1,32}/[A-Za-z][A-Za-z0-9-]{0,127}/",
        "the ARN of a stack's roles, such as arn:aws:iam::123456789012:role/flo/eu-central-1/flo/",
    ),
]
Image = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./:@-]{1,255}$")]
Instance = Annotated[str, StringConstraints(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")]
Id = Annotated[str, StringConstraints(pattern=r"^[a-z]+-[0-9a-z]{1,32}$")]  # of a subnet or group


class StackPlace(Document):
    """Which stack a coordinator is in. ``study_roles``: the ARN of its studies' roles, which names
    the account."""

    name: StackName
    region: Region
    study_roles: RolePath
