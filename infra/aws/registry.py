"""SageMaker's model registry: a package is a signed model, its approval, and its location.

A fetched model is trusted for its signature, never for its origin: the card must be signed by a
coordinator that the caller knows, and contain the tensors' digest.
"""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flo.documents import canonical
from flo.documents.document import parse
from flo.errors import RefusedError, TrustError, UsageError
from flo.infra.aws.archives import packed
from flo.infra.aws.artifacts import prefix_of, study_artifacts
from flo.infra.aws.clients import client, code_of, translate_errors
from flo.infra.aws.s3 import S3Artifacts
from flo.infra.aws.serving.contract import COORDINATORS_VARIABLE
from flo.published.model_card import (
    MAX_CARD_BYTES,
    MAX_MODEL_BYTES,
    ModelCard,
    PublishedModel,
    paths_of,
)
from flo.published.model_states import ModelStates
from flo.server.home.aws_config import AwsConfig
from flo.storage.files import write_public

PackageApproval = Literal["PendingManualApproval", "Approved", "Rejected"]
_ARN = re.compile(
    r"arn:aws[a-z-]*:sagemaker:[a-z0-9-]+:[0-9]{12}:model-package/[A-Za-z0-9/-]{1,80}"
)
_MAX_PACKED = MAX_MODEL_BYTES + MAX_CARD_BYTES + (1 << 20)


@dataclass(frozen=True)
class RegisteredModel:
    """``approval``: PendingManualApproval, Approved or Rejected. ``place``: an S3 URI."""

    arn: str
    group: str
    study: str
    run: str
    approval: str
    epsilon: str
    created: str
    place: str


class Registry:
    """The model registry of one region. A model is verified on registration and on fetching."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._sagemaker = client("sagemaker", region)

    @classmethod
    def of(cls, arn: str) -> Registry:
        """Return the registry that holds a package. Raises UsageError for another kind of ARN."""
        if not _ARN.fullmatch(arn):
            raise UsageError(f"{arn[:80]!r} is not the ARN of a model package")
        return cls(arn.split(":")[3])

    def register(self, config: AwsConfig, path: Path, *coordinators: str) -> str:
        """Put a verified model into the registry, pending approval; return the package's ARN.

        The package names the serving image, and as its environment who signed the model.

        Raises:
            TrustError: none of these coordinators signed it. UsageError: the model does not exist,
            or [aws] names no serving image.
        """
        model = PublishedModel.open(path, *coordinators)
        if config.serving_image is None:
            raise UsageError(
                "[aws] of coordinator.toml names no `serving_image`, with which a package answers",
                hint="build and push infra/images/serving.Dockerfile, and name it (docs/aws.md)",
            )
        card_path, tensors_path = paths_of(path)
        card, study = model.card, model.study
        key = f"registry/{card.run}/model.tar.gz"
        archive = packed({p.name: p.read_bytes() for p in (card_path, tensors_path)})
        study_artifacts(config.region, config.bucket, config.artifacts_key, study.digest).put(
            key, archive
        )
        group = f"flo-{study.name}"
        self._make_group(group)
        with translate_errors(f"registering {card.run}"):
            made = self._sagemaker.create_model_package(
                ModelPackageGroupName=group,
                ModelPackageDescription=f"FLO run {card.run}, study {study.digest}",
                ModelApprovalStatus="PendingManualApproval",
                InferenceSpecification={
                    "Containers": [
                        {
                            "Image": config.serving_image,
                            "ModelDataUrl": f"s3://{config.bucket}/{prefix_of(study.digest)}{key}",
                            "Environment": {COORDINATORS_VARIABLE: ",".join(coordinators)},
                        }
                    ],
                    "SupportedContentTypes": ["application/json"],
                    "SupportedResponseMIMETypes": ["application/json"],
                },
                CustomerMetadataProperties={
                    "flo-study": study.digest,
                    "flo-run": card.run,
                    "flo-epsilon": f"{card.epsilon:.6g}",
                    "flo-file": card.file,
                },
            )
        return str(made["ModelPackageArn"])

    def packages(self, study: str) -> list[RegisteredModel]:
        """Return the packages of a study by name, the newest first."""
        pages = self._sagemaker.get_paginator("list_model_packages")
        with translate_errors(f"listing packages of {study}"):
            found = [
                item["ModelPackageArn"]
                for page in pages.paginate(
                    ModelPackageGroupName=f"flo-{study}",
                    SortBy="CreationTime",
                    SortOrder="Descending",
                )
                for item in page["ModelPackageSummaryList"]
            ]
        described = []
        for arn in found:
            with contextlib.suppress(UsageError):  # somebody else's package in the same group
                described.append(self._described(arn))
        return described

    def decide(self, arn: str, approval: PackageApproval, why: str) -> None:
        """Approve or reject a package and store ``why``. Raises UsageError if it is not FLO's."""
        facts = self._facts(arn)["CustomerMetadataProperties"]
        with translate_errors(f"setting the approval of {arn}"):
            self._sagemaker.update_model_package(
                ModelPackageArn=arn,
                ModelApprovalStatus=approval,
                ApprovalDescription=why[:1024],
                CustomerMetadataProperties=facts,  # unchanged: moto would drop them
            )

    def set_states(self, states: ModelStates) -> int:
        """Give the packages of a model the states that the coordinator decided.

        An approved or current version is Approved, a withdrawn one Rejected; the property
        ``flo-state`` says which of both. Packages of candidates stay as they are. Returns how many
        were changed. Raises as ``register`` does.
        """
        if not self._has_group(f"flo-{states.name}"):
            return 0  # nothing was registered
        changed = 0
        for package in self.packages(states.name):
            decision = states.last_on(package.study)
            if decision is None:
                continue
            state = states.state_of(package.study)
            wanted: PackageApproval = "Rejected" if state == "withdrawn" else "Approved"
            facts = self._facts(package.arn)["CustomerMetadataProperties"]
            if (package.approval, facts.get("flo-state")) == (wanted, state):
                continue
            with translate_errors(f"setting the state of {package.arn}"):
                self._sagemaker.update_model_package(
                    ModelPackageArn=package.arn,
                    ModelApprovalStatus=wanted,
                    ApprovalDescription=f"{decision.by}: {decision.why}"[:1024],
                    CustomerMetadataProperties=facts | {"flo-state": state},
                )
            changed += 1
        return changed

    def approval_of(self, arn: str) -> str:
        """Return PendingManualApproval, Approved or Rejected. Raises as ``decide`` does."""
        return self._described(arn).approval

    def fetch(self, arn: str, folder: Path, *coordinators: str) -> Path:
        """Write an approved package's card and tensors, once all of it has been verified.

        Raises:
            RefusedError: it is not approved. TrustError: it does not match the card, or another
            party signed it. No file is written in either case.
        """
        package = self._described(arn)
        if package.approval != "Approved":
            raise RefusedError(
                f"{arn} is {package.approval}, and only an approved package can be fetched",
                hint="someone with the right to approve it runs: flo model approve ARN",
            )
        bucket, _, key = package.place.removeprefix("s3://").partition("/")
        s3 = client("s3", self._region)
        card, tensors = _unpacked(S3Artifacts(s3, bucket, "").get(key, _MAX_PACKED))
        model = PublishedModel.of(card, tensors, *coordinators)
        if (model.study.digest, card.run) != (package.study, package.run):
            raise TrustError(
                f"the registry lists {arn} under another study or run than its signed card names"
            )
        card_path, tensors_path = paths_of(folder / f"{model.study.name}-{card.run}")
        folder.mkdir(parents=True, exist_ok=True)
        write_public(tensors_path, tensors)
        write_public(card_path, card.to_bytes())
        return card_path

    def _facts(self, arn: str) -> dict[str, Any]:
        with translate_errors(f"reading {arn}"):
            found: dict[str, Any] = self._sagemaker.describe_model_package(ModelPackageName=arn)
        if not {"flo-study", "flo-run"} <= set(found.get("CustomerMetadataProperties", {})):
            raise UsageError(f"{arn} is not a package that FLO registered")
        return found

    def _described(self, arn: str) -> RegisteredModel:
        found = self._facts(arn)
        facts = found["CustomerMetadataProperties"]
        return RegisteredModel(
            arn=arn,
            group=str(found["ModelPackageGroupName"]),
            study=str(facts["flo-study"]),
            run=str(facts["flo-run"]),
            approval=str(found.get("ModelApprovalStatus", "PendingManualApproval")),
            epsilon=str(facts.get("flo-epsilon", "")),
            created=f"{found['CreationTime']:%Y-%m-%d %H:%M}",
            place=str(found["InferenceSpecification"]["Containers"][0]["ModelDataUrl"]),
        )

    def _make_group(self, group: str) -> None:
        if not self._has_group(group):
            with translate_errors(f"creating model package group {group}"):
                self._sagemaker.create_model_package_group(ModelPackageGroupName=group)

    def _has_group(self, group: str) -> bool:
        from botocore.exceptions import ClientError

        with translate_errors(f"reading model package group {group}"):
            try:
                self._sagemaker.describe_model_package_group(ModelPackageGroupName=group)
            except ClientError as error:
                if code_of(error) not in ("ValidationException", "ResourceNotFound"):
                    raise
                return False
        return True


def _unpacked(packed: bytes) -> tuple[ModelCard, bytes]:
    """Return card and tensors, each within its limit. Raises TrustError for other entries."""
    limits = {".card.json": MAX_CARD_BYTES, ".safetensors": MAX_MODEL_BYTES}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r|gz") as tar:
            for member in tar:
                kind = next((end for end in limits if member.name.endswith(end)), None)
                file = tar.extractfile(member) if kind and member.isreg() else None
                if kind is None or file is None or kind in found or member.size > limits[kind]:
                    raise TrustError(
                        f"entry {member.name[:80]!r} of the package is unknown, repeated or too "
                        "large"
                    )
                found[kind] = file.read(limits[kind])
    except (tarfile.TarError, EOFError, OSError) as error:
        raise TrustError("the package is not a complete tar.gz archive") from error
    if set(found) != set(limits):
        raise TrustError("the package lacks a card or tensors")
    document = canonical.decode(found[".card.json"], limit=MAX_CARD_BYTES, what="the card")
    try:
        card = parse(ModelCard, document, "the card")
    except UsageError as error:
        raise TrustError(str(error)) from error
    return card, found[".safetensors"]
