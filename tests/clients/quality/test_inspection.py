"""``flo site inspect``: what the gate would say, for this hospital's own eyes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from flo.cli import app
from flo.clients.home import SiteHome
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
    assert (code, told["in_the_way"], told["records"]) == (0, [], 40)


def test_what_an_approval_would_refuse_ends_in_3_and_names_no_value(home: SiteHome) -> None:
    spoil(home)
    page = home.directory.parent / "look.html"
    code, told = inspected(home, "--html", str(page))
    assert code == 3
    assert {found["column"] for found in told["in_the_way"]} == {"ward"}
    for text in (json.dumps(told), page.read_text()):
        assert "Mustermann" not in text
    for path in home.directory.rglob("*"):
        assert not path.is_file() or b"Mustermann" not in path.read_bytes(), path
