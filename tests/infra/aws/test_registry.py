"""SageMaker's model registry: what is fetched is believed for its signature, and nothing else."""

from __future__ import annotations

import gzip
import io
import secrets
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from flo.errors import RefusedError, TrustError, UsageError
from flo.infra.aws.artifacts import prefix_of
from flo.infra.aws.registry import Registry
from flo.published.model_card import PublishedModel
from flo.published.model_states import ModelStates, ModelVersion, Said
from flo.server.home.aws_config import AwsConfig
from flo.server.home.coordinator_home import CoordinatorHome
from tests.commands import flo_process
from tests.flo.published_models import COORDINATOR, MALLORY, Made, made, signed_study
from tests.infra.aws.account import account, home_with
from tests.infra.aws.emulated import REGION, Aws

pytestmark = pytest.mark.slow

STUDY, _ = signed_study()
TIME = "2026-11-29T10:00:00.000+00:00"


@pytest.fixture
def config(aws: Aws) -> AwsConfig:
    return account(aws)


@pytest.fixture
def registry(aws: Aws) -> Registry:
    return Registry(REGION)


@pytest.fixture
def model() -> Made:
    return made()


def registered(registry: Registry, config: AwsConfig, model: Made, folder: Path) -> str:
    path = model.write(folder / secrets.token_hex(3))
    return registry.register(config, path, COORDINATOR.fingerprint)


def test_a_model_is_registered_approved_and_fetched_as_it_was(
    registry: Registry, config: AwsConfig, model: Made, tmp_path: Path
) -> None:
    arn = registered(registry, config, model, tmp_path)
    (package,) = [found for found in registry.packages(STUDY.name) if found.arn == arn]
    assert (package.approval, package.study) == ("PendingManualApproval", STUDY.digest)
    assert package.run == model.card.run
    registry.decide(arn, "Approved", "validated on our own patients")
    card = registry.fetch(arn, tmp_path / "models", COORDINATOR.fingerprint)
    fetched = PublishedModel.open(card, COORDINATOR.fingerprint)
    assert fetched.card == model.card
    assert card.with_name(card.name.replace(".card.json", ".safetensors")).read_bytes() == (
        model.tensors
    )


@pytest.mark.parametrize("approval", ["PendingManualApproval", "Rejected"])
def test_only_an_approved_package_is_fetched(
    registry: Registry, config: AwsConfig, model: Made, tmp_path: Path, approval: str
) -> None:
    arn = registered(registry, config, model, tmp_path)
    if approval == "Rejected":
        registry.decide(arn, "Rejected", "too few patients")
    with pytest.raises(RefusedError, match=f"is {approval}"):
        registry.fetch(arn, tmp_path / "models", COORDINATOR.fingerprint)
    assert not (tmp_path / "models").exists()


def test_a_model_of_another_coordinator_is_neither_registered_nor_fetched(
    registry: Registry, config: AwsConfig, model: Made, tmp_path: Path
) -> None:
    with pytest.raises(TrustError, match="another coordinator"):
        registry.register(config, model.write(tmp_path / "m"), MALLORY.fingerprint)
    arn = registered(registry, config, model, tmp_path)
    registry.decide(arn, "Approved", "yes")
    with pytest.raises(TrustError, match="another coordinator"):
        registry.fetch(arn, tmp_path / "models", MALLORY.fingerprint)
    assert not (tmp_path / "models").exists()


def tar(**files: bytes) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as packed:
        for name, data in files.items():
            member = tarfile.TarInfo(name.replace("_", "."))
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return gzip.compress(archive.getvalue())


def _flipped(model: Made) -> bytes:
    tensors = model.tensors[:-1] + bytes([model.tensors[-1] ^ 1])
    return tar(m_card_json=model.card.to_bytes(), m_safetensors=tensors)


def _stray(model: Made) -> bytes:
    return tar(m_card_json=model.card.to_bytes(), m_safetensors=model.tensors, evil_py=b"1")


def _twice(model: Made) -> bytes:
    return tar(m_card_json=model.card.to_bytes(), n_card_json=model.card.to_bytes())


def _missing(model: Made) -> bytes:
    return tar(m_card_json=model.card.to_bytes())


def _no_card(model: Made) -> bytes:
    return tar(m_card_json=b"{}", m_safetensors=model.tensors)


def _cut(model: Made) -> bytes:
    return tar(m_card_json=model.card.to_bytes(), m_safetensors=model.tensors)[:-40]


def _nonsense(model: Made) -> bytes:
    return b"nonsense"


@pytest.mark.parametrize("swap", [_flipped, _stray, _twice, _missing, _no_card, _cut, _nonsense])
def test_what_was_swapped_in_the_bucket_is_refused_and_nothing_is_written(
    aws: Aws,
    registry: Registry,
    config: AwsConfig,
    model: Made,
    tmp_path: Path,
    swap: Callable[[Made], bytes],
) -> None:
    arn = registered(registry, config, model, tmp_path)
    registry.decide(arn, "Approved", "yes")
    key = f"{prefix_of(STUDY.digest)}registry/{model.card.run}/model.tar.gz"
    aws.client("s3").put_object(Bucket=config.bucket, Key=key, Body=swap(model))
    with pytest.raises(TrustError):
        registry.fetch(arn, tmp_path / "models", COORDINATOR.fingerprint)
    assert not (tmp_path / "models").exists()


def test_packages_get_the_states_that_the_coordinator_decided(
    registry: Registry, config: AwsConfig, model: Made, tmp_path: Path
) -> None:
    """Approved and current ones can be fetched; a withdrawn one cannot, whoever approved it."""
    states, said = ModelStates(name=STUDY.name), Said("Ada", "wrong units", TIME)
    assert registry.set_states(states.model_copy(update={"name": "unregistered"})) == 0
    arn = registered(registry, config, model, tmp_path)
    assert registry.set_states(states) == 0
    assert registry.approval_of(arn) == "PendingManualApproval", "a candidate stays as it is"
    version = ModelVersion(version=1, study=STUDY.digest, card=model.card.digest)
    for after, approval, state in (
        (states := states.approved(version, said), "Approved", "approved"),
        (states := states.promoted(version, said), "Approved", "current"),
        (states := states.withdrawn(version, said), "Rejected", "withdrawn"),
    ):
        assert registry.set_states(after) >= 1
        assert registry.set_states(after) == 0, "nothing is left to change"
        found = registry._facts(arn)
        assert found["ModelApprovalStatus"] == approval
        assert found["ApprovalDescription"] == "Ada: wrong units"
        assert found["CustomerMetadataProperties"]["flo-state"] == state
        assert found["CustomerMetadataProperties"]["flo-run"] == model.card.run
    with pytest.raises(RefusedError, match="is Rejected"):
        registry.fetch(arn, tmp_path / "models", COORDINATOR.fingerprint)
    registry.decide(arn, "Approved", "by hand, at the registry")
    assert registry.set_states(states) == 1, "it is set back"
    assert registry.approval_of(arn) == "Rejected"


def test_an_arn_of_something_else_is_named() -> None:
    for arn in ("arn:aws:s3:::bucket", "heart", "arn:aws:sagemaker:eu-central-1:1:model/x"):
        with pytest.raises(UsageError, match="not the ARN of a model package"):
            Registry.of(arn)


def test_people_do_it_by_command(config: AwsConfig, tmp_path: Path) -> None:
    home = home_with(config, tmp_path / "coordinator")
    own = CoordinatorHome.open(home.directory).open_tls_identity()
    study, signature = signed_study("logistic", own)
    signed = made(signer=own, study=study.canonical_bytes.decode(), study_signature=signature)
    path = signed.write(tmp_path / "m")
    done = flo_process("model", "register", path, "--home", home.directory)
    assert done.returncode == 0, done.stderr
    arn = next(word for word in done.stdout.split() if word.startswith("arn:"))
    fetch = ("model", "fetch", arn, "--coordinator", own.fingerprint, "--out", tmp_path / "models")
    refused = flo_process(*fetch)
    assert refused.returncode == 3, refused.stderr
    assert flo_process("model", "approve", arn, "--why", "validated").returncode == 0
    assert flo_process(*fetch).returncode == 0
    shown = flo_process("model", "packages", STUDY.name, "--region", REGION)
    assert "Approved" in shown.stdout, shown.stderr
    assert flo_process("model", "approve", arn, "--why", "withdrawn", "--reject").returncode == 0
    assert flo_process(*fetch).returncode == 3
