"""The evidence pack: signed, honest about what is not shown, and tied to tests that exist."""

from __future__ import annotations

import ast
import json
import re
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509.oid import NameOID

from flo.audit.chain import Receipt
from flo.clients.approvals.approve import approve
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.clients.records.approval import approved_digests
from flo.documents import canonical
from flo.errors import FloError, MessageError, TrustError, UsageError
from flo.infra.evidence import facts
from flo.infra.evidence.pack import FILL_IN, make, render, verify
from flo.infra.evidence.requirements import ROWS
from flo.keys.identity import Identity
from flo.keys.keystore import KeyStoreConfig
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.http.tokens import issue
from tests.builders import SilentApi, small_study
from tests.clients.approving_site import COORDINATOR, Site, enrolled_site
from tests.paths import ROOT


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return enrolled_site(tmp_path)


@pytest.fixture
def approved(site: Site) -> Site:
    api, patients = cast(CoordinatorApi, SilentApi()), site.home.read_config().population("main")
    approve(site.home, api, site.offer(), patients)
    site.home.record("agent-started", confinement=["seccomp", "landlock"])
    return site


def body_of(home: SiteHome | CoordinatorHome) -> dict[str, Any]:
    return verify(make(home.directory))


def row(body: dict[str, Any], reference: str) -> dict[str, Any]:
    (found,) = (row for row in body["rows"] if row["reference"] == reference)
    return cast(dict[str, Any], found)


def test_every_named_test_exists() -> None:
    for requirement in ROWS:
        for named in requirement.tests:
            path, name = named.split("::")
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert name in functions, f"{requirement.reference}: {named}"


def test_every_row_has_a_test_or_says_that_flo_does_nothing() -> None:
    for requirement in ROWS:
        says_nothing = (
            requirement.mechanism.startswith("none") or "not part" in requirement.mechanism
        )
        assert bool(requirement.tests) != says_nothing, requirement.reference


def test_the_articles_asked_for_are_there() -> None:
    references = " ".join(requirement.reference for requirement in ROWS)
    for wanted in ("164.312(a)", "164.312(b)", "164.312(c)", "164.312(d)", "164.312(e)"):
        assert wanted in references
    for article in ("5(1)(a)", "5(1)(f)", "5(2)", "17", "25", "30", "32(1)(a)", "33", "35"):
        assert f"Art. {article}" in references


def test_a_new_site_shows_little_and_says_not_shown_for_the_rest(site: Site) -> None:
    body = body_of(site.home)
    for reference in (
        "HIPAA 164.312(a)(2)(ii)",
        "GDPR Art. 17",
        "GDPR Art. 30",
        "GDPR Art. 5(1)(b)",
    ):
        assert row(body, reference)["evidence"] == ["not shown"]
        assert not row(body, reference)["shown"]
    assert row(body, "HIPAA 164.312(a)(2)(iv)")["shown"]


def test_what_happened_here_is_shown_by_its_audit_entries(approved: Site) -> None:
    body = body_of(approved.home)
    with closing(approved.home.open_audit_log()) as log:
        (entry,) = [entry.number for entry in log.entries() if entry.kind == "approved"]
    assert re.search(
        rf"audit entries .*\b{entry}\b", " ".join(row(body, "GDPR Art. 5(2)")["evidence"])
    )
    assert "seccomp, landlock" in " ".join(row(body, "GDPR Art. 5(1)(f)")["evidence"])


def test_no_row_claims_certification(approved: Site) -> None:
    text = make(approved.home.directory).decode().casefold()
    for word in ("certified", "compliant", "complies", "guarantees compliance"):
        assert word not in text
    assert "no certificate and no legal advice" in text


def test_a_key_in_the_clear_is_not_shown_as_sealed(approved: Site) -> None:
    path = approved.home.directory / "identity.key"
    path.write_bytes(approved.home.open_identity().pem())
    assert not row(body_of(approved.home), "GDPR Art. 32(1)(a)")["shown"]


def test_frozen_patients_of_an_ended_study_are_no_storage_limitation(approved: Site) -> None:
    assert not row(body_of(approved.home), "GDPR Art. 5(1)(e)")["shown"]
    with closing(approved.home.open_ledger()) as ledger:
        ledger.settle(2, "ended")
    assert not row(body_of(approved.home), "GDPR Art. 5(1)(e)")["shown"]
    for path in (approved.home.directory / "snapshots").iterdir():
        path.unlink()
    assert row(body_of(approved.home), "GDPR Art. 5(1)(e)")["shown"]


def test_an_edited_policy_and_approval_are_problems_and_prove_nothing(approved: Site) -> None:
    policy = approved.home.directory / "policy.toml"
    policy.write_text(policy.read_text() + "\nminimum_hospitals = 1\n")
    (path,) = approved.approved()
    path.write_bytes(path.read_bytes().replace(b'"main"', b'"evil"'))
    body = body_of(approved.home)
    assert len(body["problems"]) == 2
    assert not row(body, "HIPAA 164.312(b)")["shown"]
    assert not row(body, "HIPAA 164.312(c)(1)")["shown"]


def test_the_record_names_purposes_categories_and_recipients(approved: Site) -> None:
    (record,) = body_of(approved.home)["record_of_processing"]
    assert record["purposes"] == "Test the machinery."
    assert record["legal basis"] == "None needed: made-up patients."
    assert "ill, age, ward" in record["categories of data"]
    assert "north, south, west" in record["recipients"]
    assert "2099-12-31" in record["time limits for erasure"]
    assert record["controller and contacts"] == record["transfers to third countries"] == FILL_IN


def test_the_annex_bounds_the_risk_in_numbers(approved: Site) -> None:
    (annex,) = body_of(approved.home)["impact_assessment"]
    assert "finds at most 2.5%" in annex["c) risk: that someone took part is found out"]
    assert "ε = 0.9000" in annex["c) risk: that someone took part is found out"]
    assert annex["b) necessity and proportionality"] == FILL_IN


def test_a_coordinators_pack_shows_its_tokens(tmp_path: Path) -> None:
    home = CoordinatorHome.create(tmp_path / "c", CoordinatorConfig())
    assert not row(body_of(home), "HIPAA 164.312(a)(2)(iii)")["shown"]
    _, token = issue(home.open_identity(), "Vera", "viewer", 60)
    with home.recording() as store:
        store.add_event(None, "token-issued", id=token.id, name="Vera", role="viewer")
    body = body_of(home)
    assert (body["side"], row(body, "HIPAA 164.312(a)(2)(iii)")["shown"]) == ("coordinator", True)


def test_a_coordinators_seals_are_shown_with_the_one_of_saved_states_once_it_is_made(
    tmp_path: Path,
) -> None:
    home = CoordinatorHome.create(tmp_path / "c", CoordinatorConfig())
    shown = row(body_of(home), "GDPR Art. 32(1)(a)")["evidence"][0]
    assert shown.startswith("identity.key, ca.key: ")
    home.open_checkpoint_key()
    shown = row(body_of(home), "GDPR Art. 32(1)(a)")["evidence"][0]
    assert shown.startswith("identity.key, ca.key, checkpoint.key: ")
    home.checkpoint_key_path.write_bytes(b"flo-sealed-1\n" + bytes(40))
    assert not row(body_of(home), "GDPR Art. 32(1)(a)")["shown"]


def test_an_edited_pack_does_not_verify(approved: Site) -> None:
    document = json.loads(make(approved.home.directory))
    document["body"]["rows"][1]["shown"] = True
    with pytest.raises(TrustError, match="evidence does not match"):
        verify(canonical.encode(document))
    other = make(approved.home.directory)
    for position in range(0, len(other), len(other) // 40):
        changed = bytearray(other)
        changed[position] ^= 1
        with pytest.raises(FloError):
            verify(bytes(changed))


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"body": 1}', b'{"body": {"evidence": "x"}}']
)
def test_what_is_no_pack_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        verify(data)


def test_what_is_no_installation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a site's folder nor a coordinator's"):
        make(tmp_path)


def test_the_page_loads_nothing_and_shows_what_is_missing(approved: Site) -> None:
    page = render(make(approved.home.directory))
    assert "<script" not in page
    assert "http:" not in page
    assert "src=" not in page
    assert page.count("not shown") >= 3
    assert "HIPAA 164.312(e)(1)" in page


def test_no_patient_is_in_the_pack(approved: Site) -> None:
    assert "north0" not in make(approved.home.directory).decode()


# -- what is claimed was looked at -----------------------------------------------------------------


def certificate(home: SiteHome, *, days: float = 100, ours: bool = True) -> None:
    """This site's certificate, of the authority that it knows or of another, as old as asked."""
    authority, own = Identity.new(), Identity.new()
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]), datetime.now(UTC)

    def made(signer: Identity, subject: Identity, end: float) -> bytes:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
        builder = builder.public_key(subject.key.public_key()).serial_number(7)
        builder = builder.not_valid_before(now - timedelta(days=500))
        signed = builder.not_valid_after(now + timedelta(days=end)).sign(signer.key, SHA384())
        return signed.public_bytes(serialization.Encoding.PEM)

    (home.directory / "ca.pem").write_bytes(made(authority, authority, 900))
    signer = authority if ours else own
    (home.directory / "certificate.pem").write_bytes(made(signer, own, days))


@pytest.mark.parametrize(
    ("days", "ours", "shown"), [(100, True, True), (-1, True, False), (100, False, False)]
)
def test_a_certificate_counts_if_it_is_valid_now_and_of_our_authority(
    approved: Site, days: float, ours: bool, shown: bool
) -> None:
    certificate(approved.home, days=days, ours=ours)
    assert row(body_of(approved.home), "HIPAA 164.312(e)(1)")["shown"] == shown


def test_a_receipt_that_one_gives_oneself_is_nobodys(approved: Site) -> None:
    with closing(approved.home.open_audit_log()) as log:
        for signer, seen in ((Identity.new(), False), (COORDINATOR, True)):
            growth = log.growth({signer.fingerprint})
            assert growth is not None
            log.keep_receipt(Receipt.given(signer, growth.head), signer.fingerprint)
            said = " ".join(row(body_of(approved.home), "HIPAA 164.312(b)")["evidence"])
            assert ("the other side countersigned" in said) == seen


def test_a_study_that_the_coordinator_did_not_sign_is_a_problem(tmp_path: Path) -> None:
    home = CoordinatorHome.create(tmp_path / "c", CoordinatorConfig())
    with closing(home.open_store()) as store:
        store.add_study(small_study(), "00")
    body = body_of(home)
    assert any("its signature does not match" in problem for problem in body["problems"])
    assert not row(body, "HIPAA 164.312(c)(1)")["shown"]


@pytest.mark.parametrize("folder", ["snapshots", "replies"])
def test_what_is_left_of_an_ended_study_is_looked_for(approved: Site, folder: str) -> None:
    with closing(approved.home.open_ledger()) as ledger:
        ledger.settle(2, "ended")
    for path in (approved.home.directory / "snapshots").iterdir():
        path.unlink()
    assert row(body_of(approved.home), "GDPR Art. 5(1)(e)")["shown"]
    (digest,) = approved_digests(approved.home)
    (approved.home.directory / folder / f".{digest[:32]}-left.new").write_bytes(b"x")
    assert not row(body_of(approved.home), "GDPR Art. 5(1)(e)")["shown"]


def test_a_seal_that_does_not_open_is_no_seal(approved: Site) -> None:
    path = approved.home.directory / "split.key"
    path.write_bytes(b"flo-sealed-1\n" + path.read_bytes()[-40:])
    assert not row(body_of(approved.home), "GDPR Art. 32(1)(a)")["shown"]


def test_a_pack_without_a_field_is_refused_before_it_is_shown(approved: Site) -> None:
    identity, document = approved.home.open_identity(), json.loads(make(approved.home.directory))
    for gone in ("rows", "log", "owner", "record_of_processing"):
        body = {name: value for name, value in document["body"].items() if name != gone}
        signature = identity.sign("evidence", canonical.encode(body))
        with pytest.raises(MessageError, match=f"{gone}: Field required"):
            render(canonical.encode({"body": body, "signature": signature}))


@pytest.mark.parametrize(
    ("keystore", "said"),
    [
        ({}, "in the same folder"),
        ({"path": "/mnt/token/key"}, "a key file elsewhere"),
        ({"kind": "passphrase"}, "opened by a passphrase"),
        ({"kind": "kms", "key": f"arn:aws:kms:eu-central-1:123456789012:key/{'0' * 8}"}, "in KMS"),
    ],
)
def test_what_opens_the_keys_is_said_as_it_is(keystore: dict[str, str], said: str) -> None:
    assert said in facts._described(KeyStoreConfig.model_validate(keystore))
