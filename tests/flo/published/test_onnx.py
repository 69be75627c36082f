"""A model exported to ONNX gives the scores that FLO gives, and says what it is."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from flo.errors import UsageError
from flo.privacy.releases.calibration import Calibration
from flo.published.model_card import PublishedModel
from flo.published.onnx import to_onnx
from flo.study.features import input_names
from flo.study.models import log_odds
from tests.flo.published_models import STUDIES, made


def scores_of(data: bytes, inputs: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    kind = np.float64 if "double" in session.get_inputs()[0].type else np.float32
    (found,) = session.run(["score"], {"inputs": inputs.astype(kind)})
    return np.asarray(found)[:, 0]


def inputs_for(model: PublishedModel, records: int) -> npt.NDArray[np.float64]:
    width = len(input_names(model.study.data))
    return np.random.default_rng(2).uniform(-1, 1, size=(records, width))


@pytest.mark.slow
@pytest.mark.parametrize("kind", STUDIES)
@pytest.mark.parametrize("records", [1, 7])
def test_the_scores_are_the_same(kind: str, records: int) -> None:
    model = made(kind).open()
    inputs = inputs_for(model, records)
    expected = 0.5 * (1 + np.tanh(log_odds(model.study, model.weights, inputs) / 2))
    np.testing.assert_allclose(scores_of(to_onnx(model), inputs), expected, atol=1e-5)


@pytest.mark.slow
def test_the_file_says_which_inputs_in_which_order_and_of_which_study() -> None:
    model = made("mlp").open()
    facts = {p.key: p.value for p in onnx.load_from_string(to_onnx(model)).metadata_props}
    assert facts["inputs"].splitlines() == input_names(model.study.data)
    assert facts["study"] == model.study.digest
    assert float(facts["epsilon"]) == model.card.epsilon
    assert Calibration.model_validate_json(facts["calibration"]) == model.card.calibration


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("onnx"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UsageError, match="onnxscript") as refused:
        to_onnx(made().open())
    assert "flo-federated[onnx]" in (refused.value.hint or "")
