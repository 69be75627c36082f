"""A Lambda function from the start of its process to its first answer, against a bare import.

Both are CPU of one process. The function is the one that ``flo model deploy`` makes, run by AWS's
own runtime client (``flo.infra.aws.serving.local_function``).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from flo.bench import BenchRow, row
from flo.bench.served_site import made
from flo.infra.aws.serving.function_code import function_code
from flo.infra.aws.serving.local_function import LocalFunction
from flo.published.compile import compiled
from flo.published.model_card import PublishedModel
from flo.published.onnx import places_of, to_onnx


def rows(tries: int) -> Iterator[BenchRow]:
    """Yield milliseconds of CPU, of a linear model and of a network; medians of ``tries``."""
    for name, images, bare in (
        ("logistic", False, "numpy"),
        ("CNN 28x28", True, "numpy, onnxruntime"),
    ):
        code, request = _function(images=images)
        pairs = [(_first_answer(code, request), _bare(bare)) for _ in range(tries)]
        ours, theirs = (median(one) for one in zip(*pairs, strict=True))
        what = f"Lambda: process start to first answer, {name}"
        yield row("serve", what, ours, theirs, how=f"python -c 'import {bare}'", unit="ms CPU")


def _function(*, images: bool) -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        site = made(Path(folder) / "site", images=images, port=8443, workers=1)
        card = next((site.home.directory / "models").rglob("*.card.json"))
        model = PublishedModel.open(card, *site.home.read_coordinator().fingerprints)
        onnx = to_onnx(model) if images else b""
        places = places_of(onnx, model.study) if images else None
        return function_code(compiled(model, places=places), onnx), site.record().encode()


def _first_answer(code: bytes, request: bytes) -> float:
    with LocalFunction(code) as function:
        said = json.loads(function.said_of(request))
        assert said["status"] == 200, said
        used = function.end()
    assert used is not None
    return 1000 * used.cpu


def _bare(modules: str) -> float:
    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = cpu()
    subprocess.run(
        [sys.executable, "-c", f"import {modules}"], env={"OMP_NUM_THREADS": "1"}, check=True
    )
    return 1000 * (cpu() - before)
