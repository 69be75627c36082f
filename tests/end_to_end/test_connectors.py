"""Four hospitals, four systems, one model: CSV, SQL, a FHIR export, an OMOP database."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from flo.clients.home.site_home import SiteHome
from flo.clients.mapping.mapping_file import FILE, mapping_of
from flo.clients.sources.mapping import StudyMapping
from flo.datasets import heart
from flo.datasets import sample_sources as samples
from flo.privacy.report.report import verify
from flo.study.document import from_document
from flo.study.loading import load
from tests.clients.sources.hospital import mapping
from tests.commands import flo
from tests.end_to_end.agents import agent
from tests.end_to_end.running import wait_for
from tests.paths import EXAMPLES
from tests.server.real_coordinator import RealCoordinator, new_home, served

STUDY = load(EXAMPLES / "heart" / "study.toml")
KINDS = {"cleveland": "csv", "hungary": "sql", "switzerland": "fhir", "va-long-beach": "omop"}
TABLES = heart.load()


def told(*arguments: str | Path) -> Any:
    done = flo(*arguments, "--json", "-")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def described(hospital: str, folder: Path) -> Path:
    """What ``flo site init --data`` is given."""
    kind, table = KINDS[hospital], TABLES[hospital]
    if kind == "csv":
        table.to_csv(folder / "patients.csv", index=False)
        return folder / "patients.csv"
    path = samples.FORMS[kind](table, folder, hospital)
    source = (
        {"kind": kind, "folder": path.name} if kind == "fhir" else {"kind": kind, "address": "DB"}
    )
    if kind == "sql":
        source["table"] = "patients"
    (folder / "source.toml").write_text(tomli_w.dumps({"source": source}))
    return folder / "source.toml"


def made(hospital: str, folder: Path) -> SiteHome:
    folder.mkdir()
    ids = {"fhir": "id", "omop": "person_source_value"}
    told(
        *(
            "site",
            "init",
            hospital,
            "--home",
            folder / "site",
            "--data",
            described(hospital, folder),
        ),
        *("--declared-size", str(STUDY.hospital(hospital).declared_size)),
        *("--id-column", ids.get(KINDS[hospital], "patient_id")),
    )
    return SiteHome.open(folder / "site")


def mapped(home: SiteHome, study: Path) -> None:
    """As people do it: a draft, then the lines that it left open."""
    hospital = home.read_config().hospital
    drafted = told("site", "map", study, "--home", home.directory)
    assert drafted["columns"]["age"] in ("patient:age", "person:age")
    assert "trestbps" in drafted["open"]
    wanted = mapping(KINDS[hospital], TABLES[hospital])
    assert wanted is not None
    document = {"schema_version": 1, "studies": {STUDY.name: wanted.model_dump(exclude_none=True)}}
    (home.directory / FILE).write_text(tomli_w.dumps(document))


@pytest.mark.slow
def test_each_reads_its_own_system_and_the_report_says_who_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study.toml"
    document = STUDY.model_dump(mode="json", exclude_none=True)
    document["mechanism"]["steps"] = 3
    study.write_text(tomli_w.dumps(document))
    databases = {h: f"sqlite:///{tmp_path / h}" for h in KINDS}
    ends = {"hungary": "hungary.sqlite", "va-long-beach": "va-long-beach-omop.sqlite"}
    with (
        served(RealCoordinator(new_home(tmp_path / "coordinator"))) as coordinator,
        contextlib.ExitStack() as stack,
    ):
        homes = []
        for hospital, kind in KINDS.items():
            monkeypatch.setenv("DB", f"{databases[hospital]}/{ends.get(hospital, '')}")
            home = made(hospital, tmp_path / hospital)
            if kind in ("fhir", "omop"):
                mapped(home, study)
            seen = told("site", "inspect", study, "--home", home.directory)
            assert (seen["records"], seen["blocking"]) == (len(TABLES[hospital]), [])
            coordinator.admit(home)
            homes.append(home)
        told("study", "launch", study, "--home", coordinator.home.directory, "--detach")
        keys = [
            f"{home.read_config().hospital}={home.open_identity().fingerprint}" for home in homes
        ]
        for home in homes:
            hospital = home.read_config().hospital
            monkeypatch.setenv("DB", f"{databases[hospital]}/{ends.get(hospital, '')}")
            told("site", "confirm", *keys, "--home", home.directory)
            told("site", "review", STUDY.name, "--home", home.directory)
            told("site", "approve", STUDY.name, "--yes", "--home", home.directory)
            stack.enter_context(agent(home))
        ended = done(coordinator, STUDY.name)
        digest = ended["digest"]
        told(
            "study",
            "extracts",
            STUDY.name,
            "--home",
            coordinator.home.directory,
            "--out",
            tmp_path / "x",
        )
    extracts = sorted((tmp_path / "x").glob("*.json"))
    told("audit", "report", *extracts, "--out", tmp_path / "report")
    facts = verify((tmp_path / "report" / "report.json").read_bytes())
    found = {site["hospital"]: site["mapping"] for site in facts["hospitals"]}
    for home in homes:
        kept = mapping_of(home, from_document(document))
        assert found[home.read_config().hospital] == (commitment(home, kept) if kept else None)
    assert [bool(found[h]) for h in KINDS] == [False, False, True, True]
    assert digest == facts["study"]["digest"]


def commitment(home: SiteHome, mapping: StudyMapping) -> str:
    return mapping.commitment(home.open_patients_key())


def done(coordinator: RealCoordinator, name: str) -> Any:
    from flo.cli.coordinator.operator import Operator

    with Operator(coordinator.home.directory) as operator:
        (one,) = operator.call("GET", "studies")
    return wait_for(lambda now: now["status"] == "done", coordinator.home.directory, one["digest"])
