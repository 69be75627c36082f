"""Folders whose keys KMS seals: a coordinator and a site as people make them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import versions
from flo.clients.records.finished_model import FinishedModel
from flo.documents.document import parse
from flo.errors import FloError, UsageError
from flo.keys.keystore import KeyStoreConfig
from flo.server.home.coordinator_home import CoordinatorHome
from tests.builders import make_site, pretend_enrolled
from tests.clients.prediction.finished_site import finishing_site
from tests.clients.prediction.told import ONE, V1, Told, approved, promote
from tests.commands import flo_process
from tests.flo.published_models import COORDINATOR
from tests.infra.aws.emulated import Aws
from tests.infra.aws.test_sealed_objects import backend_forgets

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
    made = flo_process("coordinator", "init", "--home", home, "--keystore", arn)
    assert made.returncode == 0, made.stderr
    assert not (home / "keystore.key").exists()
    opened = CoordinatorHome.open(home)
    assert (
        opened.open_identity().fingerprint == CoordinatorHome.open(home).open_identity().fingerprint
    )
    assert b"PRIVATE KEY" not in (home / "identity.key").read_bytes()
    assert (
        flo_process(
            "coordinator", "invite", "north", "--home", home, "--out", tmp_path / "i"
        ).returncode
        == 0
    )
    backend_forgets(aws, arn)
    refused = flo_process("coordinator", "invite", "south", "--home", home, "--out", tmp_path / "s")
    assert refused.returncode == 4
    assert "KMS does not open it" in refused.stderr


@pytest.mark.slow
def test_a_site_keeps_its_keys_and_replies_in_kms(aws: Aws, tmp_path: Path) -> None:
    document = {"kind": "kms", "key": aws.new_key()}
    site = make_site(tmp_path / "north", "north", keystore=document)
    assert not (site.directory / "keystore.key").exists()
    store = SiteHome.open(site.directory).open_keystore()
    kept = store.seal({"purpose": "kept-reply"}, b"masked")
    assert store.open({"purpose": "kept-reply"}, kept) == b"masked"


@pytest.mark.slow
def test_a_finished_model_is_sealed_by_kms_and_lost_with_its_key(aws: Aws, tmp_path: Path) -> None:
    arn = aws.new_key()
    site = finishing_site(tmp_path, keystore={"kind": "kms", "key": arn})
    made = site.finish()
    assert FinishedModel.load(SiteHome.open(site.home.directory), made.name) == made
    backend_forgets(aws, arn)
    with pytest.raises(FloError, match="KMS does not open it"):
        FinishedModel.load(SiteHome.open(site.home.directory), made.name)


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"kind": "kms"}, "is needed for a key store of kind kms"),
        ({"kind": "file", "key": "arn:aws:kms:eu-central-1:123456789012:key/a"}, "and only there"),
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


@pytest.mark.processes
@pytest.mark.parametrize(
    "code",
    [
        "import flo",
        "import flo.cli",
        "import flo.clients.agent.agent, flo.clients.data_process.worker",
        "import flo.server.coordinator, flo.server.runs.app",
        "import flo.cli.demo",
        "import flo.infra.aws.sagemaker, flo.infra.aws.kms, flo.infra.aws.s3",
    ],
)
def test_nothing_of_aws_is_loaded_unless_it_is_configured(code: str) -> None:
    assert loaded_by(code) == set()


@pytest.mark.slow
def test_a_coordinator_moves_into_kms_and_from_one_key_to_another(aws: Aws, tmp_path: Path) -> None:
    home = tmp_path / "coordinator"
    assert flo_process("coordinator", "init", "--home", home).returncode == 0
    before = CoordinatorHome.open(home).open_identity().fingerprint
    first, second = aws.new_key(), aws.new_key()
    for arn in (first, second):
        done = flo_process("coordinator", "rewrap", "--keystore", arn, "--home", home)
        assert done.returncode == 0, done.stderr
    backend_forgets(aws, first)  # revoked: it is not needed any more
    assert CoordinatorHome.open(home).open_identity().fingerprint == before
    assert not list(home.glob("*.rewrapped"))


@pytest.mark.slow
def test_a_site_of_kms_signs_its_decisions_on_models(aws: Aws, tmp_path: Path) -> None:
    document = {"kind": "kms", "key": aws.new_key()}
    site = make_site(tmp_path / "north", "north", keystore=document)
    pretend_enrolled(site, COORDINATOR)
    told = Told(ONE)
    told.show(approved(V1))
    assert promote(site, told, "tiny:1") == V1
    assert versions.read(SiteHome.open(site.directory)).current("tiny") == V1
