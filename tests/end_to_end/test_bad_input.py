"""What people mistype or are handed: a clear exit code, a way out, and nothing spent or kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.maintenance.invitations import invite
from tests.builders import csv_text, make_site, study_document
from tests.commands import flo, flo_process

Arguments = list[str | Path]


def _study(folder: Path, **mechanism: object) -> Path:
    document = study_document()
    document["mechanism"].update(mechanism)
    path = folder / "study.toml"
    path.write_text(tomli_w.dumps(document))
    return path


def _large_delta(folder: Path) -> Arguments:
    return ["study", "check", _study(folder, delta=1e-3)]


def _missing_study(folder: Path) -> Arguments:
    return ["study", "check", folder / "nowhere.toml"]


def _unknown_key(folder: Path) -> Arguments:
    return ["study", "check", _study(folder, sampling_seed=7)]


def _not_toml(folder: Path) -> Arguments:
    (folder / "study.toml").write_text("this is [not toml")
    return ["study", "check", folder / "study.toml"]


def _infinite_epsilon(folder: Path) -> Arguments:
    return ["study", "check", _study(folder, epsilon=float("inf"))]


def _site_init(folder: Path, *more: str) -> Arguments:
    (folder / "patients.csv").write_text(csv_text())
    return ["site", "init", "north", "--home", folder / "site", "--declared-size", "40",
            "--data", folder / "patients.csv", *more]  # fmt: skip


def _large_epsilon(folder: Path) -> Arguments:
    return _site_init(folder, "--epsilon", "1.5")


def _negative_epsilon(folder: Path) -> Arguments:
    return _site_init(folder, "--epsilon", "-1")


def _no_patients(folder: Path) -> Arguments:
    arguments = _site_init(folder)
    (folder / "patients.csv").unlink()
    return arguments


def _no_folder_to_write_in(folder: Path) -> Arguments:
    (folder / "patients.csv").write_text(csv_text())
    return ["study", "new", folder / "patients.csv", "--name", "heart", "--label", "ill",
            "--hospital", "north:40", "--number", "age:0:120:years", "--category", "ward:a,b,c",
            "--out", folder / "none" / "study.toml"]  # fmt: skip


def _bad_hospital_id(folder: Path) -> Arguments:
    return ["coordinator", "invite", "../north", "--home", folder / "coordinator"]


def _unknown_command(folder: Path) -> Arguments:
    return ["fly"]


def _unknown_option(folder: Path) -> Arguments:
    return ["study", "list", "--seed", "1"]


def _garbage_report(folder: Path) -> Arguments:
    (folder / "report.json").write_bytes(bytes(range(256)))
    return ["audit", "verify", folder / "report.json"]


def _empty_report(folder: Path) -> Arguments:
    (folder / "report.json").write_text("{}")
    return ["audit", "verify", folder / "report.json"]


def _garbage_extract(folder: Path) -> Arguments:
    (folder / "extract.json").write_text("[1, 2]")
    return ["audit", "report", folder / "extract.json", "--out", folder / "out"]


def _missing_report(folder: Path) -> Arguments:
    return ["audit", "verify", folder / "report.json"]


def _no_data(folder: Path) -> Arguments:
    return ["simulate", _study(folder)]


def _not_a_site(folder: Path) -> Arguments:
    return ["site", "budget", "--home", folder / "site"]


def _no_coordinator(folder: Path) -> Arguments:
    CoordinatorHome.create(folder / "home", CoordinatorConfig(port=1, private_port=2))
    return ["study", "list", "--home", folder / "home"]


CASES: dict[str, tuple[Callable[[Path], Arguments], int, str]] = {
    "delta too large": (_large_delta, 2, "delta"),
    "no such study": (_missing_study, 2, "does not exist"),
    "unknown key in a study": (_unknown_key, 2, "sampling_seed"),
    "study is no TOML": (_not_toml, 2, "not valid TOML"),
    "infinite epsilon": (_infinite_epsilon, 2, "epsilon"),
    "epsilon of one or more without consent": (_large_epsilon, 3, "does not allow that"),
    "negative epsilon": (_negative_epsilon, 2, "epsilon"),
    "hospital id that is a path": (_bad_hospital_id, 2, "is not a hospital id"),
    "unknown command": (_unknown_command, 2, "fly"),
    "unknown option": (_unknown_option, 2, "--seed"),
    "garbage report": (_garbage_report, 4, "report"),
    "empty report": (_empty_report, 4, "report"),
    "missing report": (_missing_report, 2, "no file at"),
    "garbage extract": (_garbage_extract, 4, "extract"),
    "simulation of a study without data": (_no_data, 2, "data"),
    "data file that is not there": (_no_patients, 2, "no data file"),
    "output in a folder that is not there": (_no_folder_to_write_in, 2, "check that this path"),
    "folder that is no site": (_not_a_site, 2, "is not a site's folder"),
    "coordinator that is not running": (_no_coordinator, 5, "no coordinator answers"),
}


@pytest.mark.parametrize(("make", "code", "said"), CASES.values(), ids=CASES.keys())
def test_bad_input_ends_in_its_exit_code_and_says_why(
    tmp_path: Path, make: Callable[[Path], Arguments], code: int, said: str
) -> None:
    arguments = make(tmp_path)
    before = _everything_in(tmp_path)
    done = flo(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert "bug in FLO" not in done.stderr
    assert _everything_in(tmp_path) == before


@pytest.mark.processes
@pytest.mark.processes
@pytest.mark.parametrize(
    "case",
    [
        "delta too large",
        "epsilon of one or more without consent",
        "garbage report",
        "coordinator that is not running",
    ],
)
def test_the_program_itself_ends_in_the_same_code_and_words(tmp_path: Path, case: str) -> None:
    """One case for each exit code, in a process of its own."""
    make, code, said = CASES[case]
    done = flo_process(*make(tmp_path))
    assert done.returncode == code, done.stdout + done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_an_expired_invitation_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    coordinator = CoordinatorHome.create(
        tmp_path / "coordinator", CoordinatorConfig(port=1, private_port=2)
    )
    document = {**json.loads(invite(coordinator, "north")), "expires": "2020-01-01T00:00:00+00:00"}
    invitation = tmp_path / "invitation.json"
    invitation.write_text(json.dumps(document))
    site = make_site(tmp_path / "north", "north").directory
    before = _everything_in(site)
    done = flo("site", "enrol", invitation, "--home", site)
    assert done.returncode == 2, done.stderr
    assert "expired on 2020-01-01" in done.stderr
    assert _everything_in(site) == before


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"hospital": "south"}, 2, id="other hospital"),
        pytest.param({"url": "http://127.0.0.1:1"}, 2, id="no TLS"),
        pytest.param({"ca": "nonsense"}, 4, id="broken CA"),
        pytest.param({"key": "nonsense"}, 4, id="broken key"),
        pytest.param({"expires": "soon"}, 2, id="broken date"),
        pytest.param({"expires": "2099-01-01T00:00:00"}, 2, id="date without zone"),
        pytest.param({"run": "rm -rf"}, 2, id="unknown field"),
        pytest.param({}, 5, id="nobody answers"),
    ],
)
def test_an_edited_invitation_is_refused_and_leaves_no_trace(
    tmp_path: Path, change: dict[str, str], code: int
) -> None:
    coordinator = CoordinatorHome.create(
        tmp_path / "coordinator", CoordinatorConfig(port=1, private_port=2)
    )
    invitation = tmp_path / "invitation.json"
    invitation.write_text(json.dumps({**json.loads(invite(coordinator, "north")), **change}))
    site = make_site(tmp_path / "north", "north").directory
    before = _everything_in(site)
    done = flo("site", "enrol", invitation, "--home", site)
    assert done.returncode == code, done.stderr
    assert "bug in FLO" not in done.stderr
    assert _everything_in(site) == before


def _everything_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
