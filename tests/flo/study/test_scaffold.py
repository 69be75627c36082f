"""``flo study new``: a valid first draft from a header and what a person declares."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from flo.errors import StudyError, UsageError
from flo.privacy.accounting.plan import Plan
from flo.study.columns import NumberColumn
from flo.study.document import SCHEMA_VERSION, Study, from_document
from flo.study.scaffold import Questions, scaffold
from flo.study.statistics import Catalogue, Regression, Survival, TableOne
from tests.builders import surveyed
from tests.commands import flo

HEADER = "patient_id,age,ward,ill\n"


def draft(folder: Path, *, data: bytes = HEADER.encode(), **changes: Any) -> Study:
    csv = folder / "patients.csv"
    csv.write_bytes(data)
    arguments: dict[str, Any] = {
        "csv": csv,
        "name": "tiny",
        "label": "ill",
        "hospitals": ["north:303", "south:40"],
        "numbers": ["age:0:110:years"],
        "categories": ["ward:a,b,c"],
        "may_be_missing": [],
        "id_column": "patient_id",
    }
    return from_document(tomllib.loads(scaffold(**{**arguments, **changes}).text))


def test_a_draft_is_a_valid_study_with_rounded_sizes(tmp_path: Path) -> None:
    study = draft(tmp_path)
    assert [(h.id, h.declared_size) for h in study.hospitals] == [("north", 300), ("south", 40)]
    assert [column.name for column in study.data.columns] == ["age", "ward"]
    assert study.data.label == "ill"
    assert study.mechanism.epsilon < 1


def test_a_draft_is_of_the_newest_schema_and_of_the_plainest_kind(tmp_path: Path) -> None:
    study = draft(tmp_path)
    assert study.schema_version == SCHEMA_VERSION
    assert study.model.kind == "logistic"
    assert study.mechanism.sampling == 1
    assert study.evaluation.subgroups == ()
    assert study.survey is None
    assert study.purposes == ("moments", "training", "evaluation"), "nothing is to be tuned"


@pytest.mark.parametrize(
    ("outcome", "kind", "trained"),
    [
        ("time:days:days:30,180,730:0.5", "time-to-event", (15, 0.35, 4.0)),
        ("count:visits:0,1,3,8,20", "count", (4, 0.08, 8.0)),
        ("number:mmHg:90,120,140,200", "number", (4, 0.08, 8.0)),
        ("classes:mild,severe,worst", "classes", (15, 0.35, 4.0)),
    ],
)
def test_a_draft_may_foresee_something_else_than_yes_or_no(
    tmp_path: Path, outcome: str, kind: str, trained: tuple[int, float, float]
) -> None:
    study = draft(tmp_path, data=b"patient_id,age,ward,days,ill\n", outcome=outcome)
    assert study.data.outcome is not None
    assert study.data.outcome.kind == kind
    asked = study.mechanism
    assert (asked.steps, asked.clip, asked.learning_rate) == trained
    assert study.data.outcome_columns == (("ill", "days") if kind == "time-to-event" else ("ill",))


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        ("count:visits", "'count:visits' is none of time:COLUMN"),
        ("count:visits:0,many,8", "is none of time:COLUMN"),
        ("classes:a,b", "two are yes or no"),
        ("classes:a,b,c:4", "is none of time:COLUMN"),
        ("time:days:days:30", "is none of time:COLUMN"),
        ("time:weeks:weeks:4,26:0.5", "has no column 'weeks' in its first line"),
    ],
)
def test_an_outcome_that_is_none_is_named(tmp_path: Path, outcome: str, why: str) -> None:
    with pytest.raises((UsageError, StudyError), match=why):
        draft(tmp_path, outcome=outcome)


def test_rounds_and_steps_of_a_draft_follow_its_size(tmp_path: Path) -> None:
    for size, rounds, step in (("3000", 4, 8.0), ("3300", 15, 4.0), ("30000", 15, 8.0)):
        asked = draft(tmp_path, hospitals=[f"north:{size}"]).mechanism
        assert (asked.algorithm, asked.steps, asked.learning_rate) == ("whitened", rounds, step)


def test_a_draft_with_very_many_inputs_is_trained_without_second_moments(tmp_path: Path) -> None:
    codes = ",".join(f"c{number}" for number in range(400))
    columns = ["ward", "drug", "clinic"]
    study = draft(
        tmp_path,
        data=f"patient_id,age,ill,{','.join(columns)}\n".encode(),
        categories=[f"{column}:{codes}" for column in columns],
    )
    assert study.mechanism.algorithm == "fedavgm"


def test_a_draft_can_be_surveyed_before_it_is_run(tmp_path: Path) -> None:
    survey = surveyed(draft(tmp_path), epsilon=0.1, columns=["age", "ward"])
    assert survey.purposes == ("survey",)


def test_delta_follows_the_largest_hospital(tmp_path: Path) -> None:
    assert draft(tmp_path, hospitals=["north:50000", "south:40"]).mechanism.delta == 2e-7


def test_columns_stand_in_the_order_of_the_file(tmp_path: Path) -> None:
    study = draft(tmp_path, data=b"ward,ill,age,patient_id\n")
    assert [column.name for column in study.data.columns] == ["ward", "age"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    draft(tmp_path, data=b"\xef\xbb\xbf" + HEADER.encode())


def test_what_nobody_declared_is_left_out_and_said(tmp_path: Path) -> None:
    csv = tmp_path / "wide.csv"
    more = [f"extra{i}" for i in range(500)]
    csv.write_text(",".join(["patient_id", "first_name", "age", "ward", "ill", *more]) + "\n")
    new = ("study", "new", csv, "--name", "tiny", "--label", "ill", "--hospital", "north:40")
    out = tmp_path / "study.toml"
    done = flo(*new, "--number", "age:0:110:years", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "not in the study: first_name, ward, extra0" in " ".join(done.stdout.split())
    assert "(502)" in done.stdout
    study = from_document(tomllib.loads(out.read_text()))
    assert [column.name for column in study.data.columns] == ["age"]


def test_a_declared_column_that_tells_who_a_patient_is_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="first_name"):
        draft(
            tmp_path,
            data=b"patient_id,age,first_name,ill\n",
            categories=["first_name:Anna,Ben"],
        )


def test_a_first_line_that_is_a_patient_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        draft(tmp_path, data=b"4711,Maria Muster,1961-04-03,1\n")
    assert not {"4711", "Maria", "1961-04-03"} & set(f"{refused.value}".split())


def test_cells_may_be_missing_where_it_is_said_and_nowhere_else(tmp_path: Path) -> None:
    age, ward = draft(tmp_path, may_be_missing=["ward"]).data.columns
    assert (age.missing, ward.missing) == ("refuse", "indicator")
    age, ward = draft(tmp_path, may_be_missing=["age"]).data.columns
    assert (age.missing, ward.missing) == ("indicator", "refuse")
    assert isinstance(age, NumberColumn)
    assert age.missing_value == 55, "the middle of the declared bounds, which no patient moves"


@pytest.mark.parametrize(("count", "noise"), [(1, "local"), (2, "local"), (3, "distributed")])
def test_noise_is_shared_where_others_can_hide_a_hospital(
    tmp_path: Path, count: int, noise: str
) -> None:
    study = draft(tmp_path, hospitals=[f"h{i}:200" for i in range(count)])
    assert study.mechanism.noise == noise


@pytest.mark.slow
def test_a_draft_is_checked_and_not_passed_while_nobody_wrote_why(tmp_path: Path) -> None:
    csv, out = tmp_path / "patients.csv", tmp_path / "study.toml"
    csv.write_text(HEADER)
    new = ("study", "new", csv, "--name", "tiny", "--label", "ill", "--hospital", "north:400")
    assert flo(*new, "--number", "age:0:110:years", "--out", out).returncode == 0
    done = flo("study", "check", out)
    assert done.returncode == 2
    assert "What it costs in privacy" in done.stdout
    assert "not written yet: purpose ('Write here" in done.stderr
    assert "legal_basis" in done.stderr
    text = out.read_text().replace("Write here,", "Told").replace("Write here", "Told")
    out.write_text(text)
    assert flo("study", "check", out).returncode == 0


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        pytest.param(
            {"label": "sick"},
            "no column 'sick' in its first line; it has patient_id",
            id="no label",
        ),
        pytest.param({"id_column": "mrn"}, "no column 'mrn'", id="no id column"),
        pytest.param({"numbers": ["bmi:0:80:kg"]}, "no column 'bmi'", id="no such column"),
        pytest.param({"may_be_missing": ["ill"]}, "'ill' is not a column of", id="no column"),
        pytest.param({"numbers": ["age:0:110"]}, "not COLUMN:MINIMUM", id="no unit"),
        pytest.param({"numbers": ["age:low:110:years"]}, "not COLUMN:MINIMUM", id="no number"),
        pytest.param({"numbers": ["age:110:0:years"]}, "minimum must be below", id="reversed"),
        pytest.param({"numbers": ["age:nan:110:years"]}, "minimum", id="NaN bound"),
        pytest.param({"numbers": ["age:0:110:years"] * 2}, "appears twice", id="declared twice"),
        pytest.param({"categories": ["ward"]}, "not COLUMN:CODE", id="no codes"),
        pytest.param({"categories": ["ward:a"]}, "codes", id="one code"),
        pytest.param({"hospitals": ["north"]}, "not HOSPITAL:SIZE", id="no size"),
        pytest.param({"hospitals": ["north:many"]}, "not HOSPITAL:SIZE", id="size no number"),
        pytest.param({"hospitals": ["north:-5"]}, "not HOSPITAL:SIZE", id="negative size"),
        pytest.param({"hospitals": ["north:5"]}, "declared_size", id="tiny size"),
        pytest.param(
            {"hospitals": ["../north:40"]},
            "hospitals '../north'.id: 1 to 63 lower",
            id="path traversal",
        ),
        pytest.param({"hospitals": ["a:40", "a:50"]}, "appears twice", id="same hospital"),
        pytest.param({"name": "A study"}, "name", id="bad name"),
        pytest.param({"data": b""}, "no header line", id="empty file"),
        pytest.param({"data": b"\xff\xfe"}, "cannot be read", id="header not UTF-8"),
    ],
)
def test_what_is_missing_or_malformed_is_named(
    tmp_path: Path, changes: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        draft(tmp_path, **changes)
    assert fragment in str(refusal.value)


def test_no_hospital_at_all_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        draft(tmp_path, hospitals=[])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.csv cannot be read"):
        draft(tmp_path, csv=tmp_path / "none.csv")


def test_a_line_with_a_patient_is_never_read(tmp_path: Path) -> None:
    draft(tmp_path, data=HEADER.encode() + b"\xff\xfe\x00 no text at all \x80")


def test_a_draft_has_retries_and_is_not_signed_before_somebody_wrote_what_it_is_for(
    tmp_path: Path,
) -> None:
    study = draft(tmp_path)
    assert study.mechanism.retry_allowance > 0 < study.evaluation.retry_allowance
    for field in ("purpose", "legal_basis"):
        written = {"purpose": "To test.", "legal_basis": "None."} | {field: getattr(study, field)}
        with pytest.raises(StudyError, match=f"not written yet: {field}"):
            study.model_copy(update=written).refuse_unfinished()


def test_a_study_that_is_there_already_is_not_written_over(tmp_path: Path) -> None:
    csv, out = tmp_path / "patients.csv", tmp_path / "study.toml"
    csv.write_text(HEADER)
    out.write_text("mine")
    declared = ("--name", "tiny", "--label", "ill", "--hospital", "north:40")
    columns = ("--number", "age:0:110:years", "--category", "ward:a,b,c")
    done = flo("study", "new", csv, *declared, *columns, "--out", out)
    assert (done.returncode, out.read_text()) == (2, "mine")
    assert "already exists" in done.stderr


# -- dropouts --------------------------------------------------------------------------------------


def hospitals(count: int) -> list[str]:
    return [f"site-{number}:400" for number in range(count)]


@pytest.mark.parametrize(("count", "survived"), [(4, 1), (9, 1), (10, 2), (50, 10)])
def test_sums_of_a_draft_survive_that_one_hospital_in_five_is_missing(
    tmp_path: Path, count: int, survived: int
) -> None:
    study = draft(tmp_path, hospitals=hospitals(count))
    assert study.tolerance is not None
    assert study.tolerance.dropouts == survived
    assert study.cohort_floor == count - survived


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_draft_of_few_hospitals_allows_for_retries_instead(tmp_path: Path, count: int) -> None:
    study = draft(tmp_path, hospitals=hospitals(count))
    assert study.tolerance is None
    assert (study.mechanism.retry_allowance, study.evaluation.retry_allowance) == (2, 1)


def test_the_noise_of_a_draft_covers_only_the_retries_that_can_still_be_needed(
    tmp_path: Path,
) -> None:
    """At equal ε it falls by √((T + 1)/(T + 2)) in training, and by √(1/2) in a single sum."""
    study = draft(tmp_path, hospitals=hospitals(4))
    document = study.model_dump(mode="json") | {"schema_version": 3}
    document["mechanism"]["retry_allowance"], document["evaluation"]["retry_allowance"] = 2, 1
    now, before = Plan.of(study), Plan.of(from_document(document))
    steps = study.mechanism.steps
    ratios = {"moments": 1 / 2, "training": (steps + 1) / (steps + 2), "evaluation": 1 / 2}
    for purpose, squared in ratios.items():
        one, other = now.purpose(purpose).mechanism, before.purpose(purpose).mechanism
        ratio = one.noise_multiplier / other.noise_multiplier
        assert ratio == pytest.approx(squared**0.5, rel=1e-4), purpose
    assert now.epsilon == pytest.approx(before.epsilon, rel=1e-3)


# -- statistics ------------------------------------------------------------------------------------


def test_a_draft_of_statistics_asks_for_a_table_and_says_nothing_of_training(
    tmp_path: Path,
) -> None:
    study = draft(tmp_path, questions=Questions(table=True))
    assert study.statistics is not None
    (table,) = study.statistics.parts
    assert isinstance(table, TableOne)
    assert (table.columns, table.by) == (("age", "ward"), "ill")
    assert not study.trains
    text = scaffold(
        *(tmp_path / "patients.csv", "tiny", "ill", ["north:303"], ["age:0:110:years"]),
        *(["ward:a,b,c"], [], "patient_id"),
        questions=Questions(table=True),
    ).text
    assert "[model]" not in text
    assert "learning_rate" not in text


def test_a_draft_of_a_curve_has_equal_intervals_over_the_times_bounds(tmp_path: Path) -> None:
    study = draft(tmp_path, questions=Questions(survival="age"))
    assert study.statistics is not None
    table, curve = study.statistics.parts
    assert isinstance(table, TableOne)
    assert table.columns == ("ward",)
    assert isinstance(curve, Survival)
    assert (curve.time, curve.event, len(curve.edges)) == ("age", "ill", 12)
    assert curve.edges[-1] == 110
    assert curve.edges[0] == pytest.approx(110 / 12)
    Plan.of(study)


def test_a_draft_may_ask_for_a_regression_and_a_catalogue(tmp_path: Path) -> None:
    study = draft(tmp_path, questions=Questions(regression=True, catalogue=True))
    assert study.statistics is not None
    _, regression, catalogue = study.statistics.parts
    assert isinstance(regression, Regression)
    assert (regression.outcome, regression.predictors) == ("ill", ("age", "ward"))
    assert isinstance(catalogue, Catalogue)
    assert catalogue.of(study.data) == ("age", "ward", "ill")
    assert study.statistics.retry_allowance == 1
    Plan.of(study)


@pytest.mark.parametrize("name", ["ward", "heart"])
def test_a_time_that_is_no_number_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"--survival '{name}' is not a number column"):
        draft(tmp_path, questions=Questions(survival=name))
