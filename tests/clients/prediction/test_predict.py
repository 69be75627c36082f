"""Predictions of a published model: as in training, in the file's order, and nothing leaves."""

from __future__ import annotations

import csv
import math
import socket
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pytest

from flo.clients.prediction.cohort_reasons import cohort_reasons
from flo.clients.prediction.predict import predict
from flo.clients.prediction.reasons import of_patient
from flo.clients.quality.check import check_inputs, encode_checked
from flo.clients.sources.files import open_file
from flo.datasets import DATASETS
from flo.errors import DataError, FloError, UsageError
from flo.privacy.releases import model_noise
from flo.privacy.releases.calibration import Calibration
from flo.privacy.report.risks import in_words
from flo.published.explanation import contributions
from flo.published.model_card import PublishedModel
from flo.study.columns import CategoryColumn
from flo.study.features import input_names
from flo.study.models import log_odds
from tests.builders import csv_text
from tests.commands import flo
from tests.flo.published_models import made
from tests.flo.study.test_wording import worded
from tests.paths import ROOT

COUNT = 40
MODELS = {kind: made(kind).open() for kind in ("logistic", "mlp", "cnn")}
SECRET = "98765.4321"


def table_of(model: PublishedModel) -> dict[str, list[Any]]:
    """Patients of the model's study, with a missing ward among them."""
    generator = np.random.default_rng(7)
    columns: dict[str, list[Any]] = {"patient_id": [f"p{i:03d}" for i in range(COUNT)]}
    if model.study.model.kind == "cnn":
        (image,) = model.study.data.columns
        columns |= {
            name: generator.integers(0, 256, COUNT).astype(str).tolist()
            for name in image.pixels  # type: ignore[union-attr]
        }
    else:
        columns["age"] = [f"{value:.3f}" for value in generator.uniform(0, 100, COUNT)]
        columns["ward"] = [("a", "b", "c", "")[i % 4] for i in range(COUNT)]
    return columns | {"ill": [str(i % 2) for i in range(COUNT)]}


def written(folder: Path, columns: dict[str, list[Any]], kind: str = "csv") -> Path:
    path = folder / f"patients.{kind}"
    table = pd.DataFrame(columns, dtype=object)
    if kind == "csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    return path


def without(columns: dict[str, list[Any]], *names: str) -> dict[str, list[Any]]:
    return {name: cells for name, cells in columns.items() if name not in names}


def read(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def scores(path: Path) -> list[float]:
    header, rows = read(path)
    return [float(row[header.index("score")]) for row in rows]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "scores.csv"


LOGISTIC = MODELS["logistic"]
CALIBRATION = Calibration(
    log_odds=(-2.0, 0.0, 2.0),
    risk=(0.1, 0.4, 0.8),
    low=(0.05, 0.3, 0.55),
    high=(0.2, 0.5, 0.9),
    level=0.9,
)
GOOD = table_of(LOGISTIC)


# -- reasons ---------------------------------------------------------------------------------------


def explainable() -> PublishedModel:
    model = made("gated").open()
    noise = tuple(model_noise.packed(1e-4 * np.eye(6)).tolist())
    card = model.card.model_copy(
        update={"noise": noise, "average": (0.0, 0.5, 0.25, 0.15, 0.1)}
        | {"golden": None, "average_deviation": 0.0}
    )
    weights = np.array([2.0, 0.5, -0.5, -1.0, 0.25, 0.0])
    return PublishedModel(card, model.study, weights)


def test_each_patient_has_the_columns_that_raise_and_lower_their_risk(
    tmp_path: Path, out: Path
) -> None:
    data = written(tmp_path, GOOD | {"age": ["90"] * COUNT, "ward": ["c"] * COUNT})
    predict(explainable(), data, out, "patient_id", explain=True)
    header, rows = read(out)
    assert header[-2:] == ["raises", "lowers"], "the study names nothing that care can change"
    assert {tuple(row[-2:]) for row in rows} == {("age", "ward")}
    predict(explainable(), data, out, "patient_id")
    assert "raises" not in read(out)[0]


def test_each_patient_has_what_the_model_would_say_after_a_change(
    tmp_path: Path, out: Path
) -> None:
    model = replace(
        explainable(),
        study=worded({"about": "=age, years", "changeable_to": 40, "changeable_from": "above"}),
    )
    data = written(tmp_path, GOOD | {"age": ["100"] * COUNT, "ward": ["c"] * COUNT})
    predict(model, data, out, "patient_id", explain=True)
    header, rows = read(out)
    assert header[-3:] == ["raises", "lowers", "if_changed"]
    assert {row[-3] for row in rows} == {"'=age, years"}, "words of a study are no formulas"
    changed = written(tmp_path, GOOD | {"age": ["40"] * COUNT, "ward": ["c"] * COUNT})
    after = tmp_path / "after.csv"
    predict(model, changed, after, "patient_id")
    place = header.index("risk")
    risk, low, high = map(float, read(after)[1][0][place : place + 3])
    words = f"{100 * risk:.1f} % ({in_words(low, high)})"
    assert {row[-1] for row in rows} == {f"'=age, years at 40 years: {words}"}
    predict(model, changed, out, "patient_id", explain=True)
    assert {row[-1] for row in read(out)[1]} == {""}, "nobody is told to change nothing"


@pytest.mark.parametrize("name", ["row", "score", "flagged", "raises"])
def test_no_two_columns_of_the_scores_have_one_name(tmp_path: Path, out: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is the name of a column of the scores"):
        predict(LOGISTIC, written(tmp_path, GOOD), out, name)
    assert not out.exists()


def test_one_patient_is_explained_on_the_screen_alone(tmp_path: Path) -> None:
    model = replace(explainable(), study=worded({"changeable_to": 40, "changeable_from": "above"}))
    data = written(tmp_path, GOOD)
    found = of_patient(model, data, "patient_id", "p003")
    assert found.record == 4
    inputs = check_inputs(open_file(data, "patient_id"), model.study.data)[3:4]
    told = contributions(model, inputs)
    exact = dict(zip(told.columns, told.values[0], strict=True))
    assert {one.name: one.value for one in found.columns} == pytest.approx(exact)
    assert [abs(one.value) for one in found.columns] == sorted(
        (abs(value) for value in exact.values()), reverse=True
    )
    with pytest.raises(DataError, match="no patient of the id") as refused:
        of_patient(model, data, "patient_id", SECRET)
    assert SECRET not in f"{refused.value} {refused.value.hint}"


def test_a_cohort_is_explained_on_the_screen_and_in_no_result(tmp_path: Path, out: Path) -> None:
    data = written(tmp_path, GOOD)
    model = explainable()
    found, records = cohort_reasons(model, data, "patient_id")
    assert records == COUNT
    assert [one.column for one in found] == ["age", "ward"], "age moves these scores most"
    inputs = check_inputs(open_file(data, "patient_id"), model.study.data)
    told = contributions(model, inputs)
    surely = np.maximum(np.abs(told.values[:, 0]) - told.deviations[:, 0], 0)
    assert found[0].moves_by == pytest.approx(surely.mean())
    for one in found:
        assert 0 <= one.raises + one.lowers <= 1
    data.write_text(data.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match="no record"):
        cohort_reasons(model, data, "patient_id")


def test_real_patients_are_explained_as_an_independent_computation_says(tmp_path: Path) -> None:
    """On the screen only: the figures depend on single patients."""
    kept = ROOT / "tests" / "kept" / "v13"
    coordinator = (kept / "coordinator.txt").read_text().strip()
    data, told = tmp_path / "cleveland.csv", tmp_path / "told.json"
    DATASETS["heart-disease"]()["cleveland"].to_csv(data, index=False)
    done = flo(
        *("model", "explain", kept / "new.card.json", "--data", data, "--columns", "3"),
        *("--coordinator", coordinator, "--json", told),
    )
    assert done.returncode == 0, done.stderr
    assert "NOT PRIVATE" in done.stdout
    model = PublishedModel.open(kept / "new.card.json", coordinator)
    inputs = check_inputs(open_file(data, "patient_id"), model.study.data)
    assert model.card.average is not None
    assert model.card.average_deviation is not None
    assert model.noise is not None
    apart = inputs - np.array(model.card.average)
    names, exact = input_names(model.study.data), dict[str, float]()
    for column in model.study.data.columns:
        own = [place for place, name in enumerate(names) if name.split("=")[0] == column.name]
        weights, here = model.weights[own], apart[:, own]
        variance = np.einsum("ni,ij,nj->n", here, model.noise[own][:, own], here)
        if isinstance(column, CategoryColumn) and len(column.codes) > 2:
            centred = weights - weights.mean()
        else:
            centred = weights
        deviation = np.sqrt(variance + model.card.average_deviation**2 * (centred**2).sum())
        exact[column.name] = np.maximum(np.abs(here @ weights) - deviation, 0).mean()
    found, _ = cohort_reasons(model, data, "patient_id")
    for one in found:
        assert one.moves_by == pytest.approx(exact[one.column]), one.column
    assert f"{found[0].moves_by:.2f}" in done.stdout
    assert "moves_by" not in told.read_text()


def test_a_model_whose_noise_is_not_known_is_not_explained(tmp_path: Path, out: Path) -> None:
    with pytest.raises(UsageError, match="states no noise"):
        predict(LOGISTIC, written(tmp_path, GOOD), out, "patient_id", explain=True)
    assert not out.exists()


# -- the same as in training -----------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_patients_are_encoded_and_scored_as_in_training(
    tmp_path: Path, out: Path, model: PublishedModel
) -> None:
    data = written(tmp_path, table_of(model))
    table = open_file(data, "patient_id")
    trained = encode_checked(table, model.study.data, "patient_id").inputs
    np.testing.assert_array_equal(check_inputs(table, model.study.data), trained)
    assert predict(model, data, out, "patient_id").records == COUNT
    odds = log_odds(model.study, model.weights, trained)
    expected = [1 / (1 + math.exp(-value)) for value in odds]
    assert len(set(scores(out))) > COUNT / 2  # they are not all alike
    np.testing.assert_allclose(scores(out), expected, rtol=0, atol=5.1e-7)


def test_a_score_by_hand(tmp_path: Path, out: Path) -> None:
    weights = np.array([2.0, 1.0, 0.0, -1.0, 0.5, 0.25])  # age, three wards, ward missing, bias
    model = PublishedModel(LOGISTIC.card, LOGISTIC.study, weights)
    data = written(tmp_path, {"age": ["50", "100", "0"], "ward": ["a", "", "c"]})
    predict(model, data, out, "patient_id")
    np.testing.assert_allclose(  # log odds 1.25, 2.75 and -2.75
        scores(out), [0.777300, 0.939913, 0.060087], rtol=0, atol=5e-7
    )


def test_extreme_scores_are_zero_and_one_without_a_warning(tmp_path: Path, out: Path) -> None:
    model = PublishedModel(LOGISTIC.card, LOGISTIC.study, np.array([1e6, 0, 0, 0, 0, 0.0]))
    predict(model, written(tmp_path, {"age": ["0", "100"], "ward": ["a", "a"]}), out, "id")
    assert scores(out) == [0.0, 1.0]


# -- risks -----------------------------------------------------------------------------------------


def risks_of(path: Path) -> list[tuple[str, str, str]]:
    header, rows = read(path)
    first = header.index("risk")
    assert header[first : first + 3] == ["risk", "low", "high"]
    return [(row[first], row[first + 1], row[first + 2]) for row in rows]


def test_a_cards_calibration_gives_risks_with_a_band_and_leaves_the_scores(
    tmp_path: Path, out: Path
) -> None:
    data = written(tmp_path, {"age": ["0", "50", "100"], "ward": ["a", "a", "a"]})
    weights = np.array([2.0, 0.0, 0.0, 0.0, 0.0, 0.0])  # log odds -2, 0 and 2
    predict(PublishedModel(LOGISTIC.card, LOGISTIC.study, weights), data, out, "id")
    before = scores(out)
    card = LOGISTIC.card.model_copy(update={"calibration": CALIBRATION})
    done = predict(PublishedModel(card, LOGISTIC.study, weights), data, out, "id")
    assert scores(out) == before
    assert (done.records, done.with_risk) == (3, 2)
    assert risks_of(out) == [
        ("0.100000", "0.050000", "0.200000"),
        ("0.400000", "0.300000", "0.500000"),
        ("", "", ""),  # the band of .55 to .9 is too wide: only the rank is known
    ]


def test_without_a_calibration_there_are_scores_and_no_risks(tmp_path: Path, out: Path) -> None:
    card = LOGISTIC.card.model_copy(update={"calibration": None})
    done = predict(
        PublishedModel(card, LOGISTIC.study, LOGISTIC.weights),
        written(tmp_path, GOOD),
        out,
        "patient_id",
    )
    assert (done.records, done.with_risk) == (COUNT, 0)
    assert set(risks_of(out)) == {("", "", "")}


# -- what is in the file, and what is not ----------------------------------------------------------


def test_neither_label_nor_id_is_needed_and_unknown_columns_change_nothing(
    tmp_path: Path, out: Path
) -> None:
    predict(LOGISTIC, written(tmp_path, GOOD), out, "patient_id")
    expected = scores(out)
    extra = {"note": [SECRET] * COUNT, "Age": ["x"] * COUNT}
    for columns in (
        without(GOOD, "ill"),
        without(GOOD, "ill", "patient_id"),
        {**extra, **GOOD, "ill": ["neither"] * COUNT},
        dict(reversed(GOOD.items())),
    ):
        predict(LOGISTIC, written(tmp_path, columns), out, "patient_id")
        assert scores(out) == expected
        assert SECRET not in out.read_text()


def test_a_label_turned_round_moves_no_score(tmp_path: Path, out: Path) -> None:
    predict(LOGISTIC, written(tmp_path, GOOD), out, "patient_id")
    expected = out.read_bytes()
    turned = {**GOOD, "ill": ["1" if label == "0" else "0" for label in GOOD["ill"]]}
    predict(LOGISTIC, written(tmp_path, turned), out, "patient_id")
    assert out.read_bytes() == expected


def test_rows_come_in_the_files_order_with_their_ids(tmp_path: Path, out: Path) -> None:
    predict(LOGISTIC, written(tmp_path, GOOD), out, "patient_id")
    header, rows = read(out)
    assert header == ["row", "patient_id", "score", "risk", "low", "high"]
    assert [row[:2] for row in rows] == [[str(i + 1), f"p{i:03d}"] for i in range(COUNT)]
    turned = {name: cells[::-1] for name, cells in GOOD.items()}
    predict(LOGISTIC, written(tmp_path, turned), out, "patient_id")
    assert [row[1:] for row in read(out)[1]] == [row[1:] for row in rows[::-1]]


def test_without_an_id_column_none_is_written(tmp_path: Path, out: Path) -> None:
    predict(LOGISTIC, written(tmp_path, GOOD), out, "mrn")
    header, rows = read(out)
    assert header == ["row", "score", "risk", "low", "high"]
    assert {len(row) for row in rows} == {5}
    assert "p001" not in out.read_text()


def test_ids_are_kept_as_text_even_if_they_are_odd_repeated_or_missing(
    tmp_path: Path, out: Path
) -> None:
    ids = ["007", 'a,"b"', "7", "7", ""]
    table = {"mrn": ids, "age": ["50"] * 5, "ward": ["a"] * 5}
    predict(LOGISTIC, written(tmp_path, table), out, "mrn")
    assert [row[1] for row in read(out)[1]] == ids


FORMULAS = {
    "=cmd|' /C calc'!A0": "'=cmd|' /C calc'!A0",
    "@SUM(1)": "'@SUM(1)",
    "+1-2": "'+1-2",
    " =1": "'=1",
    "-12": "-12",
    "p\x1b[31mred": "p\ufffd[31mred",
    "p\u202ex": "p\ufffdx",
}


def test_an_id_is_no_formula_and_no_command_of_a_terminal(tmp_path: Path, out: Path) -> None:
    model = MODELS["logistic"]
    columns = table_of(model)
    columns["patient_id"][: len(FORMULAS)] = list(FORMULAS)
    predict(model, written(tmp_path, columns, "parquet"), out, "patient_id")
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [row["patient_id"] for row in rows[: len(FORMULAS)]]
    assert found == list(FORMULAS.values())
    assert rows[len(FORMULAS)]["patient_id"] == columns["patient_id"][len(FORMULAS)]


def test_a_missing_ward_has_its_own_input_and_a_missing_age_is_refused(
    tmp_path: Path, out: Path
) -> None:
    predict(LOGISTIC, written(tmp_path, {"age": ["50"] * 2, "ward": ["a", "NA"]}), out, "id")
    assert len(set(scores(out))) == 2
    out.unlink()
    with pytest.raises(
        DataError, match=r"'age': cells are missing, and the study allows none here.* \(row 2\)"
    ):
        predict(LOGISTIC, written(tmp_path, {"age": ["50", ""], "ward": ["a"] * 2}), out, "id")
    assert not out.exists()


def test_a_parquet_file_with_numbers_is_scored_as_the_csv(tmp_path: Path, out: Path) -> None:
    columns: dict[str, list[Any]] = {"age": [0, 50, 99], "ward": ["a", None, "c"]}
    predict(LOGISTIC, written(tmp_path, columns), out, "id")
    expected = out.read_bytes()
    out.unlink()
    assert predict(LOGISTIC, written(tmp_path, columns, "parquet"), out, "id").records == 3
    assert out.read_bytes() == expected


# -- nothing leaves --------------------------------------------------------------------------------


def test_predictions_are_readable_by_their_owner_only(tmp_path: Path, out: Path) -> None:
    out.write_text("of before")
    out.chmod(0o644)
    predict(LOGISTIC, written(tmp_path, GOOD), out, "patient_id")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in out.parent.iterdir()}
    assert found == {out.name: 0o600, f"{out.name}.record.json": 0o600}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_no_socket_is_opened(
    tmp_path: Path, out: Path, model: PublishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(AssertionError):
        socket.socket()
    assert predict(model, written(tmp_path, table_of(model)), out, "patient_id").records == COUNT


# -- refusals --------------------------------------------------------------------------------------


def link_to(data: Path) -> Path:
    link = data.parent / "link.csv"
    link.symlink_to(data)
    return link


@pytest.mark.parametrize(
    "same",
    [lambda data: data, lambda data: data.parent / "." / "x" / ".." / data.name, link_to],
    ids=["itself", "another way there", "a link to it"],
)
def test_the_data_are_never_overwritten(tmp_path: Path, same: Callable[[Path], Path]) -> None:
    data = written(tmp_path, GOOD)
    (tmp_path / "x").mkdir()
    before = data.read_bytes()
    with pytest.raises(UsageError, match="would overwrite the data"):
        predict(LOGISTIC, data, same(data), "patient_id")
    assert data.read_bytes() == before


BAD = [
    ("age", SECRET, r"'age': must lie within \[0, 100\] years, 1 record \(row 3\)"),
    ("age", f"-{SECRET}", r"'age': must lie within \[0, 100\] years, 1 record \(row 3\)"),
    ("age", f"{SECRET}x", r"'age': must be a number, 1 record \(row 3\)"),
    ("age", "inf", r"'age': must be finite, 1 record \(row 3\)"),
    (
        "ward",
        SECRET,
        r"'ward': must be a code of the study's codebook \(a, b, c\), 1 record \(row 3\)",
    ),
    (
        "ward",
        "A",
        r"'ward': must be a code of the study's codebook \(a, b, c\), 1 record \(row 3\)",
    ),
]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(("column", "value", "finding"), BAD)
def test_a_bad_value_is_refused_by_column_rule_and_row_and_nothing_is_written(
    tmp_path: Path, out: Path, column: str, value: str, finding: str, kind: str
) -> None:
    cells = list(GOOD[column])
    cells[2] = value
    data = written(tmp_path, {**GOOD, column: cells}, kind)
    with pytest.raises(DataError, match=finding) as refusal:
        predict(LOGISTIC, data, out, "patient_id")
    assert SECRET not in f"{refusal.value!r} {refusal.value.hint}"
    assert "no predictions were made" in str(refusal.value)
    assert list(out.parent.iterdir()) == []


def test_every_finding_is_shown(tmp_path: Path, out: Path) -> None:
    columns = {"age": ["-1", "50", "x"], "ward": ["a", "z", "z"]}
    with pytest.raises(DataError) as refusal:
        predict(LOGISTIC, written(tmp_path, columns), out, "id")
    for finding in ("within [0, 100] years, 1", "be a number, 1", "(a, b, c), 2 records (rows 2"):
        assert finding in str(refusal.value)


@pytest.mark.parametrize("lost", ["age", "ward"])
def test_a_lost_column_is_named(tmp_path: Path, out: Path, lost: str) -> None:
    with pytest.raises(DataError, match=f"'{lost}': is missing from the file"):
        predict(LOGISTIC, written(tmp_path, without(GOOD, lost)), out, "patient_id")
    assert list(out.parent.iterdir()) == []


def test_a_file_without_records_is_refused(tmp_path: Path, out: Path) -> None:
    data = tmp_path / "patients.csv"
    data.write_text("patient_id,age,ward\n")
    with pytest.raises(DataError, match="holds no records"):
        predict(LOGISTIC, data, out, "patient_id")
    data.write_bytes(b"")
    with pytest.raises(DataError, match=r"patients\.csv cannot be read"):
        predict(LOGISTIC, data, out, "patient_id")
    assert list(out.parent.iterdir()) == []


def test_a_file_without_records_is_not_blamed_on_a_column(tmp_path: Path, out: Path) -> None:
    data = tmp_path / "patients.csv"
    data.write_text("patient_id,age,ward\n")
    with pytest.raises(DataError) as refusal:
        predict(LOGISTIC, data, out, "patient_id")
    assert "column ''" not in str(refusal.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    data = tmp_path / "patients.csv"
    data.write_text(csv_text())
    with pytest.raises(FloError, match="nowhere"):
        predict(LOGISTIC, data, tmp_path / "nowhere" / "scores.csv", "patient_id")


def test_a_folder_given_for_a_file_leaves_no_scores_behind(tmp_path: Path, out: Path) -> None:
    data = written(tmp_path, GOOD)
    out.mkdir()
    with pytest.raises((FloError, OSError)):
        predict(LOGISTIC, data, out, "patient_id")
    assert [path.name for path in out.parent.iterdir()] == [out.name]
