"""A site whose models answer: two versions of a model, a record system's keys, and requests."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import versions
from flo.clients.prediction.versions import called, decide, folder_of, said
from flo.clients.serving import callers, worker
from flo.clients.serving.answer_ids import AnswerIds
from flo.clients.serving.answer_log import AnswerLog
from flo.clients.serving.answering import AnsweringModels, SiteAtWork
from flo.clients.serving.app import App, Serving
from flo.clients.serving.frames import answered
from flo.clients.serving.metrics import Served
from flo.clients.serving.pool import Pool
from flo.clients.serving.recorder import Recorder
from flo.clients.serving.replays import ReplayMemory
from flo.clients.serving.service import Answer
from flo.clients.serving.settings import ServeConfig, read_serve_config
from flo.published.model_states import ModelVersion
from tests.builders import make_site, pretend_enrolled
from tests.flo.published_models import COORDINATOR, Made, made

ISSUER, WARD = "https://ehr.example", "https://hospital.example/codes"
V1, V9 = made("logistic"), made("gated", run="run-2")
COLUMNS = f"""
[models.tiny.columns]
age = {{ field = "patient:age" }}
ward = {{ field = "observation:{WARD}|ward" }}
"""


@cache
def record_system_keys() -> dict[str, RSAKey | ECKey]:
    """Keys of the record system, made once."""
    rsa = RSAKey.generate_key(2048, {"kid": "r1"})
    return {"r1": rsa, "e1": ECKey.generate_key("P-384", {"kid": "e1"})}


@cache
def _certificate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made_ = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return made_.public_bytes(serialization.Encoding.PEM), private


def version_of(model: Made) -> ModelVersion:
    study = model.open().study
    return ModelVersion(version=study.version, study=study.digest, card=model.card.digest)


def put_into_use(home: SiteHome, model: Made) -> ModelVersion:
    """As ``flo model promote`` does after it has fetched a version."""
    version = version_of(model)
    model.write(folder_of(home, version))
    before = versions.read(home)
    own = called(before.own, "tiny")
    decide(home, before, own.put_into_use(version, said(home, "the committee said yes")))
    return version


def prepare(home: SiteHome, *, port: int = 8443, models: str = COLUMNS, workers: int = 2) -> None:
    """Write certificate, the record system's keys and ``serve.toml``."""
    certificate, key = _certificate()
    folder = home.directory
    (folder / "serve.pem").write_bytes(certificate)
    (folder / "serve.key").write_bytes(key)
    (folder / "serve.key").chmod(0o600)
    public = KeySet(list(record_system_keys().values())).as_dict(private=False)
    (folder / "ehr.jwks.json").write_text(json.dumps(public))
    (folder / "serve.toml").write_text(
        f"""schema_version = 1
port = {port}
url = "https://localhost:{port}"
certificate = "serve.pem"
key = "serve.key"
workers = {workers}
[[callers]]
name = "ehr"
issuer = "{ISSUER}"
keys = "ehr.jwks.json"
[models.tiny]
outcome = "death in hospital"
{models}"""
    )


def served_site(folder: Path, **more: Any) -> SiteHome:
    """A site with versions 1 and 9 of ``tiny``, of which 9 is in use."""
    home = make_site(folder)
    pretend_enrolled(home, COORDINATOR)
    put_into_use(home, V1)
    put_into_use(home, V9)
    prepare(home, **more)
    return home


# -- requests --------------------------------------------------------------------------------------


def token(
    url: str, *, key: str = "r1", headers: dict[str, Any] | None = None, **claims: Any
) -> str:
    """A token as CDS Hooks asks for; ``claims`` of None are left out."""
    now, own = int(time.time()), record_system_keys()[key]
    usual = {"iss": ISSUER, "aud": url, "iat": now, "exp": now + 60, "jti": str(uuid.uuid4())}
    told = {name: value for name, value in (usual | claims).items() if value is not None}
    algorithm = "RS384" if isinstance(own, RSAKey) else "ES384"
    header = {"alg": algorithm, "kid": key, "typ": "JWT"} | (headers or {})
    return jwt.encode(header, told, own, algorithms=[algorithm])


def bearer(url: str, **more: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {token(url, **more)}"}


def observed(value: str, patient: str = "p1", **more: Any) -> dict[str, Any]:
    resource = {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "subject": {"reference": f"Patient/{patient}"},
        "code": {"coding": [{"system": WARD, "code": "ward"}]},
        "effectiveDateTime": "2026-01-01",
        "valueString": value,
        **more,
    }
    return {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": resource}]}


def hook(ward: str = "b", born: str = "1950-02-03", **more: Any) -> dict[str, Any]:
    """A request in the form of the specification."""
    patient = {"resourceType": "Patient", "id": "p1", "birthDate": born}
    return {
        "hook": "patient-view",
        "hookInstance": str(uuid.uuid4()),
        "context": {"userId": "Practitioner/1", "patientId": "p1", "encounterId": "e9"},
        "prefetch": {"patient": patient, "ward": observed(ward)},
        **more,
    }


# -- in this process -------------------------------------------------------------------------------


@dataclass
class AtWork:
    """The application with a worker in a thread. ``clients``: for each kind of listener."""

    home: SiteHome
    config: ServeConfig
    serving: Serving
    clients: dict[str, httpx.AsyncClient] = field(default_factory=dict)

    async def ask(self, path: str, body: Any, **more: Any) -> httpx.Response:
        """POST as the record system does, with a token."""
        headers = bearer(f"{self.config.url}{path}", **more)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.clients["public"].post(path, content=data, headers=headers)

    async def get(self, path: str, **more: Any) -> httpx.Response:
        headers = bearer(f"{self.config.url}{path}", **more)
        return await self.clients["public"].get(path, headers=headers)

    def another_worker(self, number: int) -> socket.socket:
        """A worker in a thread; it ends when the pool closes its connection."""
        ours, theirs = socket.socketpair()

        def score() -> None:
            hello = answered(0, Answer(200, "scored", b'{"missing": []}'))
            with theirs:
                worker.serve_front(theirs, {}, hello)

        threading.Thread(target=score, daemon=True).start()
        return ours


@asynccontextmanager
async def at_work(home: SiteHome, **changes: Any) -> AsyncIterator[AtWork]:
    """The server of a site, without its processes, listeners and TLS."""
    config = read_serve_config(home.directory)
    site = SiteAtWork(home.directory, identity=home.open_identity())
    pool = Pool(lambda number: None)
    answers = AnswerLog(home.directory, site.open_identity())
    recorder = Recorder(answers, lambda **head: site.record("answers-anchored", None, **head))
    models = AnsweringModels(site, config, pool)
    allow = callers.read_keys(config.callers, home.directory)
    memory = ReplayMemory(home.directory / "answers" / "used-tokens")
    ids = AnswerIds(site.open_patients_key())
    now = datetime.now(UTC).isoformat(timespec="seconds")
    serving = Serving(models, pool, recorder, allow, memory, config.url, 0.0, now, Served(), ids)
    serving = replace(serving, **changes)
    work = AtWork(home, config, serving)
    recorder.start()
    await pool.connect(0, work.another_worker(0))
    await models.begin()
    counting = asyncio.create_task(models.watching.keep_counting())
    kinds: tuple[Literal["public", "local", "metrics"], ...] = ("public", "local", "metrics")
    for kind in kinds:
        transport = httpx.ASGITransport(App(serving, kind))
        work.clients[kind] = httpx.AsyncClient(transport=transport, base_url=config.url)
    try:
        yield work
    finally:
        for client in work.clients.values():
            await client.aclose()
        counting.cancel()
        pool.close()
        await asyncio.sleep(0)  # transports close in the next turn
        await asyncio.to_thread(models.comparing.close)
        await asyncio.to_thread(models.watching.close)
        await asyncio.to_thread(recorder.stop)
        memory.close()


# -- real processes --------------------------------------------------------------------------------


@contextmanager
def serving_process(home: SiteHome) -> Iterator[Any]:
    """``flo model serve`` in processes of its own."""
    import subprocess

    from tests.forked import Forked

    with (home.directory / "screen.txt").open("wb") as screen:
        process = Forked("flo.cli", "model", "serve", "--home", str(home.directory), log=screen)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
