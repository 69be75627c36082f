"""The serving container, a real process with only what its image installs: what it loads, what it
answers, and what it refuses to load."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from flo.documents import canonical
from flo.errors import EXIT_TRUST, EXIT_USAGE
from flo.infra.aws.serving.contract import digest_of
from flo.published.compile import compiled
from flo.scoring.compiled import CompiledModel
from flo.scoring.request import answer
from tests.flo.published_models import COORDINATOR, MALLORY, made
from tests.infra.aws.serving import container, image_folder, wait_until_it_answers

pytestmark = pytest.mark.processes
MODEL = made("gated")
DOCUMENT = compiled(MODEL.open())
PATIENT = {"record": {"age": 50, "ward": "a"}}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("image") / "site-packages")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return tmp_path


def compiled_model(root: Path, document: Any = DOCUMENT) -> str:
    """What ``flo model deploy`` unpacks there; returns FLO_MODEL."""
    data = canonical.encode(document)
    (root / "model" / "model.json").write_bytes(data)
    return digest_of(data, b"")


def expected() -> dict[str, Any]:
    return answer(CompiledModel(DOCUMENT), PATIENT).said


def ask(url: str, body: bytes, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{url}/invocations", content=body, headers={**JSON, **headers}, trust_env=False
    )


@pytest.mark.parametrize("kind", ["compiled", "package"])
def test_it_answers_with_what_was_deployed_and_with_a_package(
    root: Path, image: Path, kind: str
) -> None:
    environment = {"FLO_COORDINATORS": COORDINATOR.fingerprint}
    if kind == "compiled":
        environment = {"FLO_MODEL": compiled_model(root)}
    else:
        MODEL.write(root / "model")
    with container(root, image, **environment) as (process, url):
        wait_until_it_answers(process, url, root)
        found = ask(url, json.dumps(PATIENT).encode())
        assert (found.status_code, found.json()) == (200, expected())


@pytest.mark.slow
def test_a_full_machine_answers_503_at_once_and_goes_on_answering(root: Path, image: Path) -> None:
    """Requests that wait for their turn count as open, so that the record system can go on to the
    function; without a limit so small, all of the same requests are answered."""
    model, body = compiled_model(root), json.dumps(PATIENT).encode()
    for at_once, refused in (("4", True), ("512", False)):
        with container(root, image, FLO_MODEL=model, FLO_AT_ONCE=at_once) as (process, url):
            wait_until_it_answers(process, url, root)

            async def several(url: str = url) -> Counter[int]:
                limits = httpx.Limits(max_connections=64)
                async with httpx.AsyncClient(limits=limits, timeout=120, trust_env=False) as client:
                    asked = (
                        client.post(f"{url}/invocations", content=body, headers=JSON)
                        for _ in range(640)
                    )
                    return Counter(one.status_code for one in await asyncio.gather(*asked))

            found = asyncio.run(several())
            assert set(found) == ({200, 503} if refused else {200})
            assert ask(url, body).json() == expected()


@pytest.mark.parametrize("at_once", ["0", "-1", "10001", "many", "1e3", "9" * 40])
def test_a_limit_that_is_none_is_refused_by_name(root: Path, image: Path, at_once: str) -> None:
    started = container(root, image, FLO_MODEL=compiled_model(root), FLO_AT_ONCE=at_once)
    with started as (process, _):
        assert process.wait(30) == EXIT_USAGE
    assert "not 1 to 10000" in (root / "log").read_text()


def test_what_it_does_not_answer(root: Path, image: Path) -> None:
    with container(root, image, FLO_MODEL=compiled_model(root)) as (process, url):
        wait_until_it_answers(process, url, root)
        patient = json.dumps(PATIENT).encode()
        assert ask(url, patient, **{"content-type": "text/csv"}).status_code == 415
        assert ask(url, b'{"record": {"age": "Jane Doe"}}').status_code == 422
        assert ask(url, b"[" * 10_000).status_code == 413
        assert ask(url, b'{"record": [' + b"[]," * 5_000 + b"[]]}").status_code == 413
        assert ask(url, b'{"record": {"age": NaN, "ward": "a"}}').status_code == 400
        assert ask(url, bytes((4 << 20) + 1)).status_code == 413
        for path in ("/", "/invocations", "/ping/", "/docs", "/../etc/passwd"):
            assert httpx.get(f"{url}{path}", trust_env=False).status_code == 404
        assert ask(url, patient).status_code == 200, "and it is there still"
    assert "Jane" not in (root / "log").read_text()


def test_requests_under_way_are_answered_before_it_ends(root: Path, image: Path) -> None:
    with container(root, image, FLO_MODEL=compiled_model(root)) as (process, url):
        wait_until_it_answers(process, url, root)
        patient = json.dumps(PATIENT).encode()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, url, patient) for _ in range(100)]
            concurrent.futures.wait(asked[:20])
            process.send_signal(signal.SIGTERM)
            statuses = {one.result().status_code for one in asked if one.exception() is None}
        assert statuses <= {200, 503}
        assert process.wait(25) in (0, -signal.SIGTERM)


def _other_model(root: Path) -> dict[str, str]:
    wanted = compiled_model(root)
    compiled_model(root, {**DOCUMENT, "weights": [0.0] * len(DOCUMENT["weights"])})
    return {"FLO_MODEL": wanted}


def _no_digest(root: Path) -> dict[str, str]:
    compiled_model(root)
    return {}


def _another_coordinator(root: Path) -> dict[str, str]:
    made("gated", signer=MALLORY).write(root / "model")
    return {"FLO_COORDINATORS": COORDINATOR.fingerprint}


def _nobody_trusted(root: Path) -> dict[str, str]:
    MODEL.write(root / "model")
    return {}


def _network(root: Path) -> dict[str, str]:
    made("mlp").write(root / "model")
    return {"FLO_COORDINATORS": COORDINATOR.fingerprint}


def _nothing(root: Path) -> dict[str, str]:
    return {"FLO_COORDINATORS": COORDINATOR.fingerprint}


def _two(root: Path) -> dict[str, str]:
    MODEL.write(root / "model")
    MODEL.write(root / "model", stem="again-run-2")
    return {"FLO_COORDINATORS": COORDINATOR.fingerprint}


@pytest.mark.parametrize(
    ("prepare", "code", "said"),
    [
        (_other_model, EXIT_TRUST, "another one than FLO_MODEL"),
        (_no_digest, EXIT_TRUST, "another one than FLO_MODEL"),
        (_another_coordinator, EXIT_TRUST, "another coordinator"),
        (_nobody_trusted, EXIT_USAGE, "does not name who may have signed"),
        (_network, EXIT_USAGE, "is a network, whose package has no ONNX"),
        (_nothing, EXIT_USAGE, "0 cards and no model.json"),
        (_two, EXIT_USAGE, "2 cards and no model.json"),
    ],
)
def test_what_it_does_not_load(root: Path, image: Path, prepare: Any, code: int, said: str) -> None:
    with container(root, image, **prepare(root)) as (process, _):
        assert process.wait(30) == code
    assert said in (root / "log").read_text()


def test_it_is_started_as_sagemaker_starts_it(root: Path, image: Path) -> None:
    with container(root, image, argument="train") as (process, _):
        assert process.wait(30) == EXIT_USAGE
    assert "`serve`" in (root / "log").read_text()
