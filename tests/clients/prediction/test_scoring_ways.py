"""A model is not used where this installation does not score as the coordinator did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from flo.clients.prediction.predict import predict
from flo.clients.prediction.scoring_ways import (
    every_way,
    golden_cases,
    refuse_other_onnx,
    refuse_other_scores,
)
from flo.clients.quality import check, inputs, table
from flo.errors import DataError, TrustError, UsageError
from flo.published.model_card import PublishedModel
from flo.published.onnx import to_onnx
from flo.study import features
from flo.study.document import from_document
from tests.builders import csv_text, small_study
from tests.commands import flo
from tests.flo.published_models import COORDINATOR, STUDIES, made
from tests.flo.studies import imaging

MODEL = made("gated").open()
NETWORKS = {
    "mlp": small_study(schema_version=4, model={"kind": "mlp", "hidden": [7, 3]}),
    "cnn": from_document(imaging() | {"schema_version": 4}),
}


@pytest.fixture(params=["gated", "mlp", "cnn", "lstm", "attention", "steps"])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PublishedModel:
    if request.param == "gated":
        return MODEL
    study = NETWORKS.get(request.param) or STUDIES[request.param]
    newer = from_document(study.model_dump(mode="json") | {"schema_version": 4})
    monkeypatch.setitem(STUDIES, f"new-{request.param}", newer)
    return made(f"new-{request.param}").open()


@pytest.mark.slow
def test_an_unchanged_installation_scores_as_published_in_every_way(model: PublishedModel) -> None:
    refuse_other_scores(model)
    found = golden_cases(model, every_way(model, to_onnx(model)))
    assert list(found) == [
        *("read from a table", "one patient at a time", "as ONNX", "risks of these scores")
    ]
    for cases in found.values():
        assert [case for case in cases if not case.same] == []
    assert sum(len(cases) for cases in found.values()) >= 100


def without_row(monkeypatch: pytest.MonkeyPatch) -> None:
    real = table.read
    monkeypatch.setattr(check, "read", lambda *asked: _rolled(real(*asked)))


def _rolled(read: Any) -> Any:
    places = np.roll(np.arange(len(read.columns)), 1)
    return replace(read, columns=read.columns.iloc[places].reset_index(drop=True))


def other_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    real = features.scale
    monkeypatch.setattr(features, "scale", lambda *asked: real(*asked) * (1 + 1e-6))


def other_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    real = features.encode_category
    monkeypatch.setattr(inputs, "encode_category", lambda c, codes: real(c, (codes + 1) % 3))


def no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise DataError("made-up.csv cannot be read")

    monkeypatch.setattr(check, "read", fail)


@pytest.mark.parametrize("change", [without_row, other_scale, other_codes, no_reader])
def test_an_installation_that_reads_or_encodes_otherwise_is_refused(
    change: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A stale encoder, exchanged rows, another unit: before any patient is scored."""
    data, out = tmp_path / "patients.csv", tmp_path / "scores.csv"
    data.write_text(csv_text())
    predict(MODEL, data, out, "patient_id")
    out.unlink()
    change(monkeypatch)
    with pytest.raises(TrustError, match="golden cases"):
        predict(MODEL, data, out, "patient_id")
    assert not out.exists()


def test_other_weights_are_found_and_the_first_case_is_named() -> None:
    other = replace(MODEL, weights=MODEL.weights * (1 + 1e-6))
    with pytest.raises(TrustError, match="134 golden cases differ; the first, 'made-up patient 1'"):
        refuse_other_scores(other)


def test_another_calibration_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = MODEL.card.calibration
    assert curve is not None
    risk = tuple(0.9 * one for one in curve.risk)
    card = MODEL.card.model_copy(update={"calibration": curve.model_copy(update={"risk": risk})})
    with pytest.raises(TrustError, match="has risk"):
        refuse_other_scores(replace(MODEL, card=card))


def test_a_card_without_golden_cases_is_used_as_before() -> None:
    refuse_other_scores(made().open())
    refuse_other_scores(made("gated", golden=None).open())


@pytest.mark.slow
def test_an_onnx_file_of_another_model_is_refused(model: PublishedModel) -> None:
    exported = to_onnx(model)
    refuse_other_onnx(model, exported)
    other = to_onnx(replace(model, weights=model.weights[::-1].copy()))
    with pytest.raises(TrustError, match="golden cases differ"):
        refuse_other_onnx(model, other)
    with pytest.raises(UsageError, match="not an ONNX model"):
        refuse_other_onnx(model, exported[:100])
    document = onnx.load_from_string(exported)
    onnx.helper.set_model_props(document, {"inputs": "egg"})
    with pytest.raises(UsageError, match="has other inputs than"):
        refuse_other_onnx(model, document.SerializeToString())


@pytest.mark.slow
def test_the_command_says_which_ways_agree_and_which_cases_do_not(tmp_path: Path) -> None:
    card = made("gated").write(tmp_path)
    file = tmp_path / "model.onnx"
    file.write_bytes(to_onnx(replace(MODEL, weights=MODEL.weights + np.eye(6)[1])))
    asked = ("model", "check", card, "--coordinator", COORDINATOR.fingerprint)
    found = flo(*asked)
    assert found.returncode == 0, found.stderr
    assert "read from a table" in found.stdout
    found = flo(*asked, "--onnx", file)
    assert found.returncode != 0
    assert "as ONNX: made-up patient" in found.stdout
    assert "does not score as the coordinator did" in found.stderr
    old = made().write(tmp_path / "old")
    found = flo("model", "check", old, "--coordinator", COORDINATOR.fingerprint)
    assert "no golden cases" in found.stderr
