"""The program of the Lambda function: one record in, one answer out; no record is kept or logged.

AWS checks who may invoke it. The function's own version is the model's; ``model.json`` beside this
file is what ``flo model deploy`` compiled. Imports nothing but what it runs, since each cold start
pays for it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from flo.scoring.compiled import CompiledModel
from flo.scoring.request import Answer, answer


def _loaded() -> CompiledModel:
    folder = __file__.rpartition("/")[0]
    with open(f"{folder}/model.json", encoding="utf-8") as file:  # noqa: PTH123 - no pathlib here
        document: dict[str, Any] = json.load(file)
    if document["network"] is None:
        return CompiledModel(document)
    from flo.scoring.network import network

    with open(f"{folder}/model.onnx", "rb") as onnx:  # noqa: PTH123
        return CompiledModel(document, network(onnx.read(), document["network"]))


MODEL = _loaded()


def handle(event: object, context: object) -> dict[str, Any]:
    """Answer one invocation: ``status`` as of HTTP, and what ``flo.scoring.request`` says."""
    try:
        found = answer(MODEL, event)
    except Exception as error:  # noqa: BLE001 - Lambda would log its text, which may have a value
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        line = f"{place.tb_frame.f_code.co_name}:{place.tb_lineno}" if place else "?"
        sys.stderr.write(f"FLO could not answer: {type(error).__name__} at {line}\n")
        found = Answer(500, {"error": "this is a bug in FLO; the log says where"})
    return {"status": found.status, **found.said}
