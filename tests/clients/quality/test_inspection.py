"""``flo site inspect``: what the gate would say, for this hospital's own eyes."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from flo.cli import app
from flo.clients.home.site_home import SiteHome
from tests.builders import data_file, make_site, small_study


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    document = small_study().model_dump(mode="json", exclude_none=True)
    (tmp_path / "study.toml").write_text(tomli_w.dumps(document))
    return make_site(tmp_path)


def inspected(home: SiteHome, *options: str) -> tuple[int, dict[str, Any]]:
    folder = home.directory.parent
    study, told = str(folder / "study.toml"), str(folder / "told.json")
    words = ["site", "inspect", study, "--home", str(home.directory), "--json", told, *options]
    return CliRunner().invoke(app, words).exit_code, json.loads((folder / "told.json").read_text())


def spoil(home: SiteHome) -> None:
    file = data_file(home)
    first, rest = file.read_text().split("\n", 1)
    file.write_text(f"{first}\n{rest.replace(',a,', ',Erika Mustermann,')}")


def test_data_that_fit_end_in_0(home: SiteHome) -> None:
    code, told = inspected(home)
    assert (code, told["blocking"], told["records"]) == (0, [], 40)


def test_what_an_approval_would_refuse_ends_in_3_and_names_no_value(home: SiteHome) -> None:
    spoil(home)
    page = home.directory.parent / "look.html"
    code, told = inspected(home, "--html", str(page))
    assert code == 3
    assert {found["column"] for found in told["blocking"]} == {"ward"}
    for text in (json.dumps(told), page.read_text()):
        assert "Mustermann" not in text
    for path in home.directory.rglob("*"):
        assert not path.is_file() or b"Mustermann" not in path.read_bytes(), path


def test_the_day_of_the_records_and_which_event_counts_are_shown(
    home: SiteHome, tmp_path: Path
) -> None:
    columns = {name: {"field": name} for name in ("age", "ward", "ill")}
    columns["ill"] |= {"when": "after"}
    section = {"columns": columns, "as_of": date(2021, 1, 1), "cohort": 7}
    document = {"schema_version": 1, "studies": {small_study().name: section}}
    (home.directory / "mapping.toml").write_text(tomli_w.dumps(document))
    study, page = str(tmp_path / "study.toml"), tmp_path / "look.html"
    words = ["site", "inspect", study, "--home", str(home.directory), "--html", str(page)]
    said = CliRunner().invoke(app, words).output
    for text in (said, page.read_text()):
        assert "entries of cohort 7, on 2021-01-01" in " ".join(text.split())
        assert text.count("the first after the record") == 1
