"""The program of the Lambda function: one record in, one answer out; no record is kept or logged.

AWS checks who may invoke it. The function's own version is the model's; ``model.json`` beside this
file is what ``flo model deploy`` compiled. Imports nothing but what it runs, since each cold start
pays for it.
"""

from __future__ import annotations

import json
from typing import Any

from flo.scoring.compiled import CompiledModel, opened
from flo.scoring.request import answer, answer_body, fault


def _model() -> CompiledModel:
    folder = __file__.rpartition("/")[0]
    with open(f"{folder}/model.json", encoding="utf-8") as file:  # noqa: PTH123 - no pathlib here
        document: dict[str, Any] = json.load(file)
    if document["network"] is None:
        return opened(document)
    with open(f"{folder}/model.onnx", "rb") as onnx:  # noqa: PTH123
        return opened(document, onnx.read())


MODEL = _model()


def handle(event: object, context: object) -> dict[str, Any]:
    """Answer one invocation: ``status`` as of HTTP, and what ``flo.scoring.request`` says.

    The event is the request, or ``{"body": "..."}`` with its text: Lambda's own parser takes the
    last of two equal keys, and the request's parser refuses them.

    Raises RuntimeError, which Lambda counts as an error of the function: its message has a type and
    a place, and no value.
    """
    try:
        if isinstance(event, dict) and set(event) == {"body"} and isinstance(event["body"], str):
            found = answer_body(MODEL, event["body"].encode())
        else:
            found = answer(MODEL, event)
    except Exception as error:  # noqa: BLE001 - whatever it is, its message is not logged
        why = fault(error)
    else:
        return {"status": found.status, **found.said}
    raise RuntimeError(why)
