"""``flo simulate --engine ray``: a simulation in several processes by Flower's simulation runtime.

The coordinator's side runs in this process as a ServerApp. Hospitals answer in Ray's workers; any
worker can answer for any hospital. One private folder holds the workers' data: the study, and each
hospital's patients and generated keys. It is in memory where the machine has ``/dev/shm``. A killed
process does not remove it.

Flower and Ray pass objects between these processes by pickle, over ports that Ray opens on every
interface of this machine. A random token of this process protects them.

The only module of the simulation that uses Flower's types.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flo.clients.agent.run_keys import OwnKey
from flo.clients.data_process.trainer import Trainer, private_step
from flo.clients.records.snapshot import Snapshot
from flo.errors import FloError, UsageError
from flo.keys.claims import RunKey
from flo.keys.identity import Identity
from flo.lab.folds import Fold
from flo.lab.hospitals import RUN, SimulatedSites, SiteKeys, enrol, run_keys
from flo.lab.simulation import Memory
from flo.privacy.mechanisms.discrete_gaussian import Noise, SystemNoise
from flo.server.rounds.loop import run_study
from flo.server.rounds.state import RunState
from flo.storage.files import write_private
from flo.study.document import Study
from flo.study.loading import from_canonical

_RECORD, _BODY, _TYPE = "flo", "message", "query"
_POLL_SECONDS = 0.02
_STUDY, _SITES = "study.json", "sites.json"
MakeNoise = Callable[[], Noise]


def run_on_ray(
    study: Study, fold: Fold, make_noise: MakeNoise = SystemNoise
) -> tuple[RunState, list[float]]:
    """Run a study as ``flo.lab.simulation.run_once`` does.

    ``make_noise``: a callable that workers can import, for tests.

    Raises:
        UsageError: Ray is not installed. FloError: a hospital failed in its worker, or Ray itself.
    """
    if find_spec("ray") is None:
        raise UsageError(
            "the engine ray is not installed", hint="pip install 'flo-federated[simulation]'"
        )
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray reads it once
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    enrolled, identities = enrol(study)
    found: list[tuple[RunState, list[float]]] = []
    server, over = ServerApp(), threading.Event()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        store = Memory()
        exchange = _Exchange(grid, len(enrolled.hospitals), over)
        state, _ = run_study(enrolled, RUN, RunState.start(enrolled), exchange, store)
        found.append((state, store.seconds))

    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 # a new folder in it
    with tempfile.TemporaryDirectory(dir=memory) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in Flower and Ray
        _write(Path(folder), enrolled, fold, run_keys(enrolled, identities))
        logging.getLogger("flwr").setLevel(logging.CRITICAL)
        try:
            run_simulation(
                server,
                _client_app(folder, make_noise),
                num_supernodes=len(enrolled.hospitals),
                backend_config={
                    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                    "init_args": {"logging_level": logging.ERROR, "log_to_driver": False},
                },
            )
        except RuntimeError as error:
            cause = error.__cause__ or error
            raise FloError(f"the simulation runtime failed: {cause.__cause__ or cause}") from error
        finally:
            over.set()
    return found[0]


class _Exchange:
    """A run's messages through Flower's grid in memory."""

    def __init__(self, grid: Any, hospitals: int, over: threading.Event) -> None:
        """``over``: set once the runtime has ended, for any reason."""
        self._grid, self._nodes, self._over = grid, dict[str, int](), over
        while len(nodes := list(grid.get_node_ids())) < hospitals:
            self._wait()
        for node, name in self._answers(dict.fromkeys(nodes, b"")):
            self._nodes[name.decode()] = node

    def ask(
        self, heads: Mapping[str, bytes], body: memoryview, deadline_seconds: float
    ) -> Iterator[tuple[str, bytes]]:
        names = {self._nodes[name]: name for name in heads}
        bodies = {node: b"".join((heads[name], body)) for node, name in names.items()}
        for node, reply in self._answers(bodies):
            yield names[node], reply

    def connected(self) -> set[str]:
        return set(self._nodes)

    def reconnected(self) -> set[str]:
        return set()

    def _answers(self, bodies: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
        from flwr.app import Message

        messages = [Message(_record(body), node, _TYPE) for node, body in bodies.items()]
        waiting = set(self._grid.push_messages(messages))
        while waiting:
            for reply in self._grid.pull_messages(list(waiting)):
                waiting.discard(reply.metadata.reply_to_message_id)
                if reply.has_error():
                    raise FloError(f"a simulated hospital failed: {reply.error.reason}")
                yield reply.metadata.src_node_id, reply.content.config_records[_RECORD][_BODY]
            if waiting:
                self._wait()

    def _wait(self) -> None:
        if self._over.wait(_POLL_SECONDS):
            raise FloError("the simulation runtime ended before the study")


def _record(body: bytes) -> Any:
    from flwr.app import ConfigRecord, RecordDict

    return RecordDict({_RECORD: ConfigRecord({_BODY: body})})


# -- in Ray's workers ------------------------------------------------------------------------------


def _client_app(folder: str, make_noise: MakeNoise) -> Any:
    """Answer an empty message with the hospital's name, any other with the hospital's reply."""
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    client = ClientApp()

    @client.query()
    def query(message: Message, context: Context) -> Message:
        hospital = _study(folder).hospitals[int(context.node_config["partition-id"])].id
        body: Any = message.content.config_records[_RECORD][_BODY]
        reply = _site(folder, hospital, make_noise).answer(hospital, body) if body else None
        return Message(_record(hospital.encode() if reply is None else reply), reply_to=message)

    return client


@cache
def _study(folder: str) -> Study:
    return from_canonical((Path(folder) / _STUDY).read_bytes())


@cache
def _step(folder: str) -> Any:
    return private_step(_study(folder), "cpu")


@cache
def _site(folder: str, hospital: str, make_noise: MakeNoise) -> SimulatedSites:
    """Create the hospital in this worker, which caches it."""
    study, place = _study(folder), Path(folder)
    kept = json.loads((place / _SITES).read_bytes())[hospital]
    snapshot = Snapshot.read(place / f"{hospital}.npz", kept["snapshot"])
    trainer = Trainer(study, snapshot, noise=make_noise(), step=_step(folder))
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(kept["private"]))
    own = OwnKey(private, RunKey.model_validate(kept["public"]), {})
    keys = SiteKeys(Identity.read(kept["identity"].encode(), "a made-up key"), own)
    return SimulatedSites(study, {hospital: trainer}, {hospital: keys})


def _write(folder: Path, study: Study, fold: Fold, keys: dict[str, SiteKeys]) -> None:
    """Write the workers' data to a folder that only its owner may read."""
    write_private(folder / _STUDY, study.canonical_bytes)
    sites = {
        hospital: {
            "snapshot": fold.snapshots[hospital].write(folder / f"{hospital}.npz"),
            "identity": site.identity.pem().decode(),
            "private": site.own.private.private_bytes_raw().hex(),
            "public": site.own.public.model_dump(mode="json"),
        }
        for hospital, site in keys.items()
    }
    write_private(folder / _SITES, json.dumps(sites).encode())
