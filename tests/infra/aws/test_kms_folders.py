"""Folders whose keys KMS seals: a coordinator and a site as people make them."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flo.artifacts import LocalArtifacts
from flo.clients.home import SiteHome
from flo.errors import NetworkError, TrustError, UsageError
from flo.identity import spoken, verify
from flo.infra.aws.kms import KmsSigner
from flo.infra.aws.sagemaker import audit_store
from flo.keystore import KeyStoreConfig
from flo.model_card import PublishedModel
from flo.server.audit_copies import AuditCopies
from flo.server.home import CoordinatorHome
from flo.settings import parse
from tests.builders import make_site
from tests.end_to_end.agents import agent
from tests.end_to_end.running import all_events, launch, wait_for
from tests.infra.aws.account import account, home_with
from tests.infra.aws.emulated import Aws
from tests.infra.aws.test_sealed_objects import backend_forgets
from tests.server.stage import RealCoordinator, flo, free_ports, served

HEAVY = (
    "boto3",
    "botocore",
    "sagemaker",
    "aws_encryption_sdk",
    "aws_cryptographic_material_providers",
)


@pytest.mark.slow
def test_a_coordinator_keeps_its_keys_in_kms(aws: Aws, tmp_path: Path) -> None:
    home, arn = tmp_path / "coordinator", aws.new_key()
    made = flo("coordinator", "init", "--home", home, "--keystore", arn)
    assert made.returncode == 0, made.stderr
    assert not (home / "keystore.key").exists()
    opened = CoordinatorHome.open(home)
    assert opened.identity().fingerprint == CoordinatorHome.open(home).identity().fingerprint
    assert b"PRIVATE KEY" not in (home / "identity.key").read_bytes()
    assert (
        flo("coordinator", "invite", "north", "--home", home, "--out", tmp_path / "i").returncode
        == 0
    )
    backend_forgets(aws, arn)
    refused = flo("coordinator", "invite", "south", "--home", home, "--out", tmp_path / "s")
    assert refused.returncode == 4
    assert "KMS does not open it" in refused.stderr


@pytest.mark.slow
def test_a_site_keeps_its_keys_and_replies_in_kms(aws: Aws, tmp_path: Path) -> None:
    document = {"kind": "kms", "key": aws.new_key()}
    site = make_site(tmp_path / "north", "north", keystore=document)
    assert not (site.directory / "keystore.key").exists()
    store = SiteHome.open(site.directory).keystore()
    kept = store.seal({"purpose": "kept-reply"}, b"masked")
    assert store.open({"purpose": "kept-reply"}, kept) == b"masked"


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"kind": "kms"}, "names the KMS key"),
        ({"kind": "file", "key": "arn:aws:kms:eu-central-1:123456789012:key/a"}, "names the KMS"),
        ({"kind": "kms", "key": "alias/flo"}, "key"),
        (
            {"kind": "kms", "key": "arn:aws:kms:eu-central-1:123456789012:key/a", "path": "/x"},
            "no `path`",
        ),
    ],
)
def test_a_key_store_that_is_half_said_is_refused(document: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parse(KeyStoreConfig, document, "keystore")


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys, json\nprint(json.dumps(sorted({HEAVY!r} & sys.modules.keys())))"
    script = script.replace(f"{HEAVY!r} &", f"set({HEAVY!r}) &")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import flo",
        "import flo.cli",
        "import flo.clients.agent, flo.clients.worker",
        "import flo.server.coordinator, flo.server.app",
        "import flo.cli.demo",
        "import flo.infra.aws.sagemaker, flo.infra.aws.kms, flo.infra.aws.s3",
    ],
)
def test_nothing_of_aws_is_loaded_unless_it_is_configured(code: str) -> None:
    assert loaded_by(code) == set()


# -- a coordinator whose identity is a key in KMS --------------------------------------------------


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
    made = flo(
        *("coordinator", "init", "--home", home, "--signing-key", arn),
        *("--port", str(port), "--private-port", str(private)),
    )
    assert made.returncode == 0, made.stderr
    opened = CoordinatorHome.open(home)
    signer = opened.identity()
    assert signer.fingerprint != opened.tls_identity().fingerprint
    assert spoken(signer.fingerprint) in made.stdout
    sites = [make_site(tmp_path / name, name) for name in ("north", "south")]
    with contextlib.ExitStack() as stack:
        coordinator = stack.enter_context(served(RealCoordinator(opened)))
        for site in sites:
            coordinator.admit(site)
            assert site.coordinator.fingerprints == [signer.fingerprint]
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
    exported = flo("audit", "export", "--home", home, "--out", tmp_path / "coordinator.audit.json")
    assert exported.returncode == 0, exported.stderr
    assert flo("audit", "verify", tmp_path / "coordinator.audit.json").returncode == 0
    refused = flo("coordinator", "replace-key", "--yes", "--home", home)
    assert refused.returncode == 3
    assert "is in KMS" in refused.stderr


# -- copies of the audit log -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_coordinator_copies_its_audit_log_to_where_nobody_removes_it(
    aws: Aws, tmp_path: Path
) -> None:
    locked = aws.new_bucket(f"flo-{secrets.token_hex(6)}", lock=True)
    config = account(aws).model_copy(update={"audit_bucket": locked, "audit_key": aws.new_key()})
    home = home_with(config, tmp_path / "coordinator")
    with served(RealCoordinator(home)):
        store = audit_store(config)
        assert store is not None
        end = time.monotonic() + 20
        while not (found := store.keys("audit/")) and time.monotonic() < end:
            time.sleep(0.1)
    (key,) = found
    copy = tmp_path / "copy.json"
    copy.write_bytes(store.get(key, 1 << 24))
    assert flo("audit", "verify", copy).returncode == 0
    with pytest.raises(TrustError):
        store.remove(key)
    head = aws.client("s3").head_object(Bucket=locked, Key=key)
    assert head["ObjectLockRetainUntilDate"].year >= head["LastModified"].year + 6


def test_a_store_that_does_not_answer_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, bytes] = {}
    answers = iter([False, True])

    class Store(LocalArtifacts):
        def __init__(self) -> None:
            """Nothing on a disk."""

        def put(self, key: str, data: bytes) -> None:
            if not next(answers):
                raise NetworkError("no answer")
            kept[key] = data

    copies = AuditCopies(Store(), lambda: b"the log", lambda: 7)
    copies.copy_if_due()
    assert not kept
    copies.copy_if_due()  # not due: a minute has not passed
    monkeypatch.setattr(copies, "_due", 0.0)
    copies.copy_if_due()
    assert list(kept.values()) == [b"the log"]
    assert next(iter(kept)).split("/")[-1].startswith("0000000007-")
    monkeypatch.setattr(copies, "_due", 0.0)
    copies.copy_if_due()  # it has not grown
    assert len(kept) == 1


@pytest.mark.slow
def test_a_coordinator_moves_into_kms_and_from_one_key_to_another(aws: Aws, tmp_path: Path) -> None:
    home = tmp_path / "coordinator"
    assert flo("coordinator", "init", "--home", home).returncode == 0
    before = CoordinatorHome.open(home).identity().fingerprint
    first, second = aws.new_key(), aws.new_key()
    for arn in (first, second):
        done = flo("coordinator", "rewrap", "--keystore", arn, "--home", home)
        assert done.returncode == 0, done.stderr
    backend_forgets(aws, first)  # revoked: it is not needed any more
    assert CoordinatorHome.open(home).identity().fingerprint == before
    assert not list(home.glob("*.rewrapped"))
