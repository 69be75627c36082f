"""What FLO 0.2 wrote about trust is read: logs, policy, approval, consent, evidence, report.

``tests/kept/v3`` is one site of a real four-hospital run of the heart study with its whole folder,
and the logs of both sides. Git keeps no modes, so a copy gets the key store's back.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flo.audit.chain import verify as verify_logs
from flo.clients.home.policy import Policy
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.erasure import Erasure
from flo.clients.patients.opt_outs import OptOuts, opted_out
from flo.clients.records import approval
from flo.clients.records.approval import approval_path, approved_digests
from flo.clients.records.members import Members
from flo.documents import canonical
from flo.errors import FloError, MessageError, TrustError, UsageError
from flo.infra.evidence import pack
from flo.privacy.report.report import build
from flo.privacy.report.report import verify as verify_report
from flo.published.model_card import PublishedModel

KEPT = Path(__file__).parent / "kept" / "v3"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(KEPT, tmp_path / "kept"))
    (copy / "site" / "keystore.key").chmod(0o600)
    return copy


@pytest.fixture
def home(kept: Path) -> SiteHome:
    return SiteHome.open(kept / "site")


def test_the_logs_of_both_sides_verify_together(kept: Path) -> None:
    names = ("site.audit.json", "coordinator.audit.json")
    site, coordinator = verify_logs([(kept / name).read_bytes() for name in names])
    assert (site.owner, coordinator.owner) == ("cleveland", "coordinator")
    assert "coordinator" in {seen.by for seen in site.countersigned}
    assert "cleveland" in {seen.by for seen in coordinator.countersigned}


def test_the_sites_own_log_goes_on(kept: Path, home: SiteHome) -> None:
    home.record("reviewed", "a" * 64)
    with closing(home.open_audit_log()) as log:
        (found,) = verify_logs([log.export("cleveland")])
    before = json.loads((kept / "site.audit.json").read_bytes())["entries"]
    assert found.entries > len(before)


def test_the_policy_is_in_force_and_the_approval_holds(home: SiteHome) -> None:
    assert home.read_policy() == Policy()
    (digest,) = approved_digests(home)
    approved = approval.load(home, digest)
    decision = approved.read_decision()
    assert (decision.schema_version, decision.population, decision.people) == (3, "main", ())
    assert decision.policy == Policy().digest
    assert Members.load(home, digest, approved.snapshot) is not None


def test_who_opted_out_stays_out_and_the_erasure_is_signed(home: SiteHome) -> None:
    assert len(OptOuts.load(home).patients) == 2  # and one id that was mistyped
    assert opted_out(home, {"uci-0001", "uci-0002"}) == {"uci-0001"}
    documents = [json.loads(path.read_bytes()) for path in (home.directory / "erasures").iterdir()]
    made = [Erasure.model_validate(document["body"]) for document in documents]
    assert sorted(len(found.contributions) for found in made) == [0, 1]


def test_report_extract_evidence_and_model_verify(kept: Path, home: SiteHome) -> None:
    report = (kept / "report.json").read_bytes()
    facts = verify_report(report)
    assert json.loads(report)["schema_version"] == 3
    assert all("seccomp" in site["confinement"] for site in facts["hospitals"])
    build([(kept / "extract.json").read_bytes()])
    evidence = (kept / "evidence.json").read_bytes()
    assert pack.verify(evidence)["owner"] == "cleveland"
    assert "Art. 17" in pack.render(evidence)
    PublishedModel.open(kept / "model.card.json", *home.read_coordinator().fingerprints)


LATER: list[tuple[str, str, Callable[[Path], Any]]] = [
    (
        "site.audit.json",
        "schema_version",
        lambda kept: verify_logs([_read(kept, "site.audit.json")]),
    ),
    ("evidence.json", "schema_version", lambda kept: pack.verify(_read(kept, "evidence.json"))),
    ("report.json", "schema", lambda kept: verify_report(_read(kept, "report.json"))),
    ("extract.json", "schema", lambda kept: build([_read(kept, "extract.json")])),
    (
        "site/policy.signed.json",
        "schema_version",
        lambda kept: SiteHome(kept / "site").read_policy(),
    ),
    (
        "site/coordinator.json",
        "schema_version",
        lambda kept: SiteHome(kept / "site").read_coordinator(),
    ),
]


def _read(kept: Path, name: str) -> bytes:
    return (kept / name).read_bytes()


@pytest.mark.parametrize(("name", "says", "read"), LATER, ids=[row[0] for row in LATER])
def test_what_a_later_version_wrote_is_refused_by_its_number(
    kept: Path, name: str, says: str, read: Callable[[Path], Any]
) -> None:
    read(kept)
    document = json.loads((kept / name).read_bytes())
    document.get("body", document)["schema_version"] = 9
    (kept / name).write_bytes(canonical.encode(document))
    with pytest.raises((UsageError, MessageError, TrustError), match=says):
        read(kept)


def test_an_approval_of_a_later_version_is_refused(home: SiteHome) -> None:
    (digest,) = approved_digests(home)
    path = approval_path(home, digest)
    document = json.loads(path.read_bytes())
    path.write_bytes(canonical.encode(document | {"schema_version": 9}))
    with pytest.raises(FloError, match="schema_version"):
        approval.load(home, digest)
