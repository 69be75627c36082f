"""A file without a header: its first patient stands where names should, and is not shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flo.cli import app
from flo.clients.home.site_home import SiteHome
from flo.clients.mapping.draft import draft
from flo.clients.quality.check import encode_checked
from flo.clients.sources.files import open_file
from flo.errors import DataError
from tests.builders import data_file, make_site, small_study

STUDY = small_study()
LOOKS = "first line looks like a patient's"
NOTHING = "neither the id_column 'patient_id' nor a column of the study"
FIRST_LINES = [
    ("Anna Müller,1951-02-03,a,Bern", "neither"),
    ("Anna Müller,51,a,0", LOOKS),
    ("Anna Müller,1951-02-03,anna@north.example,Bern", LOOKS),
    ("Anna Müller,030/1234567,never,756.1234.5678.97", LOOKS),
    ("Anna Müller,,Bern", LOOKS),
    ("Anna Müller,Bern,never", NOTHING),
]


@pytest.mark.parametrize(("line", "said"), FIRST_LINES)
def test_a_first_line_that_is_a_patients_is_never_quoted(
    line: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text(f"{line}\n{line.replace('Anna', 'Berta')}\n")
    with pytest.raises(DataError, match=said) as refusal:
        encode_checked(open_file(tmp_path / "x.csv", "patient_id"), STUDY.data, "patient_id")
    shown = f"{refusal.value} {refusal.value.hint}"
    assert not [cell for cell in line.split(",") if len(cell) > 1 and cell in shown]


@pytest.mark.parametrize("line", ["patient_id,1,2,3,age,ward,ill", "age,ward,ill,bmi,2019"])
def test_odd_names_in_a_header_are_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"{line}\n{'0,' * line.count(',')}0\n")
    with pytest.raises(DataError) as refusal:
        encode_checked(open_file(tmp_path / "x.csv", "patient_id"), STUDY.data, "patient_id")
    assert "first line" not in str(refusal.value)


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    found = make_site(tmp_path)
    data_file(found).write_text("Anna Müller,1951-02-03,0\nBerta Meier,1949-07-01,1\n")
    return found


def test_no_draft_and_no_list_of_fields_is_made_of_it(home: SiteHome) -> None:
    with pytest.raises(DataError, match=LOOKS):
        draft(home, STUDY, home.read_config().population(None))
    assert not (home.directory / "mapping.toml").exists()
    words = ["site", "map", "any", "--fields", "--home", str(home.directory)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code
    assert "Anna" not in done.output
