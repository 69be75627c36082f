"""A mapping, an approval on it and a report that tells of it, as the first version wrote them.

``tests/kept/v6`` is of a real run of the heart study in which two of four hospitals mapped their
fields: of Switzerland, which read a FHIR export, the mapping and the approval.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flo.clients.records.approval import Approval
from flo.clients.sources.mapping import Mapping, problems
from flo.documents.document import parse, read_toml
from flo.errors import MessageError, TrustError, UsageError
from flo.privacy.report.report import verify
from flo.protocol.decisions import read_approval
from tests.test_kept_files import changed_json

KEPT = Path(__file__).parent / "kept" / "v6"


def kept_approval() -> Approval:
    return parse(Approval, json.loads((KEPT / "approval.json").read_bytes()), "approval")


def test_a_kept_report_says_who_mapped_and_verifies() -> None:
    report = (KEPT / "report.json").read_bytes()
    assert json.loads(report)["schema_version"] == 5
    sites = {site["hospital"]: site for site in verify(report)["hospitals"]}
    mapped = {name for name, site in sites.items() if site["mapping"]}
    assert mapped == {"switzerland", "va-long-beach"}
    approved = read_approval(kept_approval().decision)
    assert sites["switzerland"]["mapping"] == approved.mapping


def test_a_report_that_hides_or_changes_a_mapping_is_refused(tmp_path: Path) -> None:
    report = (KEPT / "report.json").read_bytes()
    mapping = str(read_approval(kept_approval().decision).mapping)
    with pytest.raises(TrustError):
        verify(report.replace(mapping.encode(), b"0" * 64))
    (tmp_path / "report.json").write_bytes(report)
    with pytest.raises((TrustError, MessageError)):
        verify(changed_json(tmp_path / "report.json", schema_version=4))


def test_a_kept_mapping_is_one_for_its_study() -> None:
    mapping = parse(Mapping, read_toml(KEPT / "mapping.toml"), "mapping.toml")
    study = kept_approval().read_study()
    assert problems(mapping.studies[study.name], study.data) == []


def test_a_kept_mapping_has_the_commitment_it_had() -> None:
    kept = parse(Mapping, read_toml(KEPT / "mapping.toml"), "mapping.toml").studies
    found = kept[kept_approval().read_study().name].commitment(b"k" * 32)
    assert found == "5eda27637b430a42e5d8e1933c8973f295bcfc3b854c6811f791ca9dded98811"


@pytest.mark.parametrize("version", [0, 2, "1"], ids=repr)
def test_a_mapping_of_a_later_version_is_refused(version: object) -> None:
    document = read_toml(KEPT / "mapping.toml") | {"schema_version": version}
    with pytest.raises(UsageError, match="schema_version"):
        parse(Mapping, document, "mapping.toml")


def test_an_approval_on_a_mapping_says_so_by_its_version() -> None:
    decision = json.loads(kept_approval().decision)
    assert decision["schema_version"] == 4
    with pytest.raises(TrustError, match="schema_version 4, and only there"):
        read_approval(json.dumps(decision | {"schema_version": 3}))
    del decision["mapping"]
    with pytest.raises(TrustError, match="schema_version 4, and only there"):
        read_approval(json.dumps(decision))
