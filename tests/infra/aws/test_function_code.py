"""The code of a Lambda function, run by AWS's own client without what is installed here."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import pytest

from flo.errors import FloError, UsageError
from flo.infra.aws.serving import function_code as built
from flo.infra.aws.serving.function_code import function_code
from flo.infra.aws.serving.local_function import LocalFunction
from flo.published.compile import compiled
from flo.published.onnx import places_of, to_onnx
from flo.scoring.compiled import CompiledModel
from flo.scoring.network import network
from flo.scoring.request import answer
from flo.study.columns import ImageColumn
from tests.flo.published_models import made

MODEL = made("gated").open()
DOCUMENT = compiled(MODEL)
PATIENT: dict[str, Any] = {"record": {"age": 50, "ward": "a"}}


def test_the_same_model_gives_the_same_bytes_and_little_of_them() -> None:
    code = function_code(DOCUMENT)
    assert code == function_code(DOCUMENT)
    assert len(code) < 100_000
    with zipfile.ZipFile(io.BytesIO(code)) as archive:
        modules = {name for name in archive.namelist() if name.endswith(".py")}
    assert modules == {f"flo/{name}" for name in built._MODULES} | {"flo_handler.py"}


@pytest.mark.processes
def test_it_answers_what_the_compiled_model_answers() -> None:
    own = CompiledModel(DOCUMENT)
    asked: list[dict[str, Any]] = [
        PATIENT,
        {"record": {"age": "Jane Doe", "ward": "a"}},
        {"record": {"age": 50}},
        {"row": {"age": 50}},
        {"record": PATIENT["record"], "explain": True},
        {},
    ]
    with LocalFunction(function_code(DOCUMENT)) as function:
        for request in asked:
            expected = answer(own, request)
            assert function.invoke(request) == {"status": expected.status, **expected.said}
        with pytest.raises(FloError, match="Unable to unmarshal input"):  # by AWS's client
            function.said_of(b'{"record": {"age": NaN, "ward": "a"}}')
        assert json.loads(function.said_of(b'["Jane Doe"]'))["status"] == 400
        for text, status in (
            (json.dumps(PATIENT), 200),
            ('{"record": {"age": 20, "ward": "a", "age": 90}}', 400),  # Lambda would take the last
        ):
            assert function.invoke({"body": text})["status"] == status
        function.end()
    assert b"Jane" not in function.said


@pytest.mark.processes
def test_a_fault_is_logged_by_its_place_and_without_a_value() -> None:
    broken = {**DOCUMENT, "weights": ["Jane Doe", *DOCUMENT["weights"][1:]]}
    with LocalFunction(function_code(broken)) as function:
        with pytest.raises(FloError, match="FLO could not answer: TypeError at score:") as failed:
            function.invoke(PATIENT)  # Lambda counts it as an error of the function
        function.end()
    assert "Jane" not in str(failed.value)
    assert b"FLO could not answer: TypeError at score:" in function.said
    assert b"Jane" not in function.said


@pytest.mark.processes
def test_a_function_whose_process_ends_is_an_error_and_no_answer() -> None:
    with (
        LocalFunction(function_code({**DOCUMENT, "curve": {"another": 1}})) as function,
        pytest.raises(FloError, match=r"does not answer|failed"),
    ):
        function.invoke(PATIENT)


@pytest.mark.slow  # torch's exporter, and 40 MB of libraries
def test_a_network_answers_with_the_libraries_that_it_brings() -> None:
    model = made("cnn").open()
    onnx = to_onnx(model)
    places = places_of(onnx, model.study)
    document = compiled(model, places=places)
    code = function_code(document, onnx)
    assert len(code) < built.MOST_UNPACKED
    (image,) = model.study.data.columns
    assert isinstance(image, ImageColumn)
    request = {"record": {image.name: [0.0] * len(image.pixels)}}
    own = CompiledModel(document, network(onnx, places))
    with LocalFunction(code) as function:
        found = function.invoke(request)
    assert found == {"status": 200, **answer(own, request).said}


@pytest.mark.slow  # NumPy in the archive
def test_a_linear_model_of_an_images_features_brings_numpy() -> None:
    columns = [
        {"kind": "image", "name": "scan", "channels": 1, "height": 8, "width": 8, "about": None}
        | {"minimum": 0.0, "maximum": 255.0, "missing": "refuse", "scattering": 1}
    ]
    document = {**DOCUMENT, "columns": columns, "weights": [0.01] * 80 + [0.5], "curve": None}
    request = {"record": {"scan": [float(n) for n in range(64)]}}
    with LocalFunction(function_code(document)) as function:
        found = function.invoke(request)
    assert found == {"status": 200, **answer(CompiledModel(document), request).said}


def test_what_lambda_would_refuse_is_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built, "MOST_UNPACKED", 1 << 10)
    with pytest.raises(UsageError, match="Lambda allows"):
        function_code(DOCUMENT)
