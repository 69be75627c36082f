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
from flo.scoring.request import answer, guarded


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
    found = guarded(lambda: answer(MODEL, event), _tell)
    return {"status": found.status, **found.said}


def _tell(what: str) -> None:
    sys.stderr.write(f"{what}\n")
