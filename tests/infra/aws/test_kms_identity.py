"""A coordinator whose identity is a key in KMS: what it signs is verified without AWS."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from flo.errors import TrustError
from flo.infra.aws.kms import KmsSigner
from flo.keys.identity import format_fingerprint, verify
from flo.published.model_card import PublishedModel
from flo.server.home.coordinator_home import CoordinatorHome
from tests.builders import make_site
from tests.commands import flo_process
from tests.end_to_end.agents import agent
from tests.end_to_end.running import all_events, launch, wait_for
from tests.infra.aws.emulated import Aws
from tests.ports import free_ports
from tests.server.real_coordinator import RealCoordinator, served


def signing_key(aws: Aws) -> str:
    return aws.new_key(KeySpec="ECC_NIST_P384", KeyUsage="SIGN_VERIFY")


@pytest.mark.slow
def test_what_kms_signs_is_verified_offline_as_any_signature(aws: Aws) -> None:
    signer = KmsSigner(signing_key(aws), aws.client("kms"))
    signature = signer.sign("study", b"a study")
    verify(signer.public, "study", b"a study", signature)
    for purpose, message in (("token", b"a study"), ("study", b"another study")):
        with pytest.raises(TrustError):
            verify(signer.public, purpose, message, signature)


@pytest.mark.slow
def test_a_key_that_cannot_sign_is_named(aws: Aws) -> None:
    wrong = aws.new_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")
    with pytest.raises(TrustError, match="cannot sign for a coordinator"):
        KmsSigner(wrong, aws.client("kms"))


@pytest.mark.slow
def test_a_study_is_carried_out_under_an_identity_in_kms(aws: Aws, tmp_path: Path) -> None:
    home, arn = tmp_path / "coordinator", signing_key(aws)
    port, private = free_ports(2)
    made = flo_process(
        *("coordinator", "init", "--home", home, "--signing-key", arn),
        *("--port", str(port), "--private-port", str(private)),
    )
    assert made.returncode == 0, made.stderr
    opened = CoordinatorHome.open(home)
    signer = opened.open_identity()
    assert signer.fingerprint != opened.open_tls_identity().fingerprint
    assert format_fingerprint(signer.fingerprint) in made.stdout
    sites = [make_site(tmp_path / name, name) for name in ("north", "south")]
    with contextlib.ExitStack() as stack:
        coordinator = stack.enter_context(served(RealCoordinator(opened)))
        for site in sites:
            coordinator.admit(site)
            assert site.read_coordinator().fingerprints == [signer.fingerprint]
            stack.enter_context(agent(site))
        digest = launch(coordinator, sites, "local noise", steps=3)
        summary = wait_for(
            lambda found: (
                found["status"] == "done"
                and "published" in [e["kind"] for e in all_events(opened, digest)]
            ),
            home,
            digest,
        )
    verify(signer.public, "study", summary["study"].encode(), summary["signature"])
    PublishedModel.open(Path(summary["result"]["model"]), signer.fingerprint)
    exported = flo_process(
        "audit", "export", "--home", home, "--out", tmp_path / "coordinator.audit.json"
    )
    assert exported.returncode == 0, exported.stderr
    assert flo_process("audit", "verify", tmp_path / "coordinator.audit.json").returncode == 0
    refused = flo_process("coordinator", "replace-key", "--yes", "--home", home)
    assert refused.returncode == 3
    assert "is in KMS" in refused.stderr
