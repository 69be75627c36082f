"""As many patients as the study counts on, give or take a half; and patients, not stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from flo.clients.quality.check import inspect_table
from flo.clients.quality.sizes import Expected, unexpected_size
from flo.clients.sources.files import open_file
from flo.datasets import DATASETS
from flo.study.loading import load
from flo.study.schema import Schema
from tests.builders import small_study
from tests.paths import EXAMPLES

ONE = small_study().data
MANY = Schema.model_validate({**ONE.model_dump(), "records_per_patient": "many"})


def asked(patients: int, declared: int | None, schema: Schema = ONE, each: int = 1) -> str:
    ids = [f"p{n}" for n in range(patients) for _ in range(each)]
    found = unexpected_size(
        ids, "patient_id", schema, None if declared is None else Expected(declared)
    )
    assert [one.level for one in found] == ["to accept"] * len(found)
    return "".join(one.rule for one in found)


@pytest.mark.parametrize(
    ("patients", "declared", "words"),
    [
        (
            12,
            1400,
            "12 patients (12 records), and the study expects 1400 here: is the file complete",
        ),
        (699, 1400, "is the file complete"),
        (700, 1400, ""),
        (2800, 1400, ""),
        (2801, 1400, "or of their stays"),
        (12, None, ""),
    ],
)
def test_half_and_twice_are_asked_about(patients: int, declared: int | None, words: str) -> None:
    told = asked(patients, declared)
    assert words in told
    assert bool(told) is bool(words)


def test_patients_out_of_budget_do_not_count() -> None:
    """After some years a file has many more patients than a study uses."""
    ids = [f"{year}-{n}" for year in range(5) for n in range(40)]
    expected = Expected(40, lambda name: not name.startswith("4-"))
    assert unexpected_size(ids, "patient_id", ONE, expected) == []
    (asked,) = unexpected_size(ids[:170], "patient_id", ONE, expected)
    assert asked.rule.startswith("without those whose budget has no room, 10 patients")


def test_where_a_patient_may_have_many_records_nobody_has_two() -> None:
    assert "stays" in asked(120, 100, MANY)
    assert asked(110, 100, MANY) == ""
    assert asked(120, 100, MANY, each=2) == ""
    assert asked(120, 100, ONE) == ""


@pytest.mark.slow
def test_ids_of_stays_at_a_real_hospital(tmp_path: Path) -> None:
    """Five nodules a patient: with an id each, one patient would pay for one and give five."""
    study = load(EXAMPLES / "lidc" / "linear.toml")
    tables = DATASETS["lidc"]()
    for path in (tmp_path / f"{hospital}.csv" for hospital in tables):
        table = tables[path.stem]
        table.to_csv(path, index=False)
        expected = Expected(study.hospital(path.stem).declared_size)
        whole = inspect_table(
            open_file(path, "patient_id"), study.data, "patient_id", expected=expected
        )
        assert [f for f in whole.found if f.level != "note"] == []
        table["patient_id"] = [f"stay-{7 * n}" for n in range(len(table))]
        table.to_csv(tmp_path / "stays.csv", index=False)
        stays = inspect_table(
            open_file(tmp_path / "stays.csv", "patient_id"),
            study.data,
            "patient_id",
            expected=expected,
        )
        assert "number of patients" in {finding.kind for finding in stays.found}
