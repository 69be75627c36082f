"""``flo simulate --engine ray``: a simulation in many processes by Flower's simulation runtime.

The coordinator's side runs in this process as a ServerApp. Hospitals are divided into blocks; a
message asks for the releases of one block, which any of Ray's workers can make. Their sum is made
in the clear, as with ``--fast``.

Ray starts on this machine, unless ``RAY_ADDRESS`` names a cluster. Its object store holds the
patients while the simulation runs, in memory; a cluster may be set up to write it to disks.

Flower and Ray pass objects between these processes by pickle, over ports that Ray opens on every
interface. A token protects them: a random one of this process, or ``RAY_AUTH_TOKEN`` of a cluster.

The only module of the simulation that uses Flower's types.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from flo.clients.data_process.trainer import Trainer, private_step
from flo.errors import FloError, UsageError
from flo.lab.folds import Fold
from flo.lab.hospitals import enrol
from flo.lab.in_the_clear import Sums, rounds_in_the_clear, sums
from flo.privacy.mechanisms.discrete_gaussian import Noise, SystemNoise
from flo.server.rounds.state import RunState
from flo.study.document import Study
from flo.study.parameters import Vector
from flo.study.terms import Purpose

_RECORD, _TYPE = "flo", "query"
_POLL_SECONDS = 0.02
_BLOCKS_A_WORKER = 2  # so that no worker waits long for the slowest
MakeNoise = Callable[[], Noise]


def run_on_ray(
    study: Study, fold: Fold, make_noise: MakeNoise = SystemNoise
) -> tuple[RunState, list[float]]:
    """Run a study as ``flo.lab.simulation.run_once`` does.

    ``make_noise``: a callable that workers can import, for tests.

    Raises:
        UsageError: the study has frozen layers, or Ray is not installed.
        FloError: a hospital failed in its worker, or Ray itself.
    """
    if study.frozen_file:
        raise UsageError(
            "the engine ray does not carry frozen layers to its workers", hint="--engine loop does"
        )
    if find_spec("ray") is None:
        raise UsageError(
            "the engine ray is not installed", hint="pip install 'flo-federated[simulation]'"
        )
    os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads both when it is imported
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    enrolled, _ = enrol(study)
    found: list[tuple[RunState, list[float]]] = []
    server, over = ServerApp(), threading.Event()
    hospitals = tuple(sorted(fold.snapshots))

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        asked = partial(_ask, grid, blocks, over)
        found.append(rounds_in_the_clear(enrolled, hospitals, asked))

    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in Flower and Ray
        try:
            workers = _connect(ray)
            blocks = _divided(hospitals, _BLOCKS_A_WORKER * workers)
            kept = [
                ray.put((enrolled, {name: fold.snapshots[name] for name in block}, len(hospitals)))
                for block in blocks
            ]
            run_simulation(
                server,
                _client_app(kept, make_noise),
                num_supernodes=len(blocks),
                backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            )
        except (RuntimeError, ConnectionError, ValueError, OSError) as error:
            cause = error.__cause__ or error
            raise FloError(f"the simulation runtime failed: {cause.__cause__ or cause}") from error
        finally:
            over.set()
            ray.shutdown()
    return found[0]


def _connect(ray: Any) -> int:
    """Start Ray, or connect to a cluster; return how many workers it has room for."""
    address = os.environ.get("RAY_ADDRESS") or "local"
    in_memory = {"automatic_object_spilling_enabled": False}  # no patient on the disk
    ray.init(
        address=address,
        _system_config=in_memory if address == "local" else None,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}},
    )
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _divided(hospitals: tuple[str, ...], parts: int) -> list[tuple[str, ...]]:
    """Return blocks of hospitals that differ in number by one at most; none is empty."""
    return [hospitals[number::parts] for number in range(min(parts, len(hospitals)))]


def _ask(
    grid: Any,
    blocks: list[tuple[str, ...]],
    over: threading.Event,
    purpose: Purpose,
    weights: Vector,
) -> Sums:
    """Yield the sums of all blocks. ``over``: set once the runtime has ended, for any reason."""
    from flwr.app import Message

    while len(nodes := list(grid.get_node_ids())) < len(blocks):
        _wait(over)
    body = {"purpose": purpose, "weights": weights.tobytes(), "type": weights.dtype.str}
    waiting = set(grid.push_messages([Message(_record(body), node, _TYPE) for node in nodes]))
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            waiting.discard(reply.metadata.reply_to_message_id)
            if reply.has_error():
                raise FloError(f"a simulated hospital failed: {reply.error.reason}")
            told: Mapping[str, Any] = reply.content.config_records[_RECORD]
            block = blocks[told["block"]]
            summed = np.frombuffer(told["values"], told["type"]).reshape(told["rows"], -1)
            each = [block] if len(summed) == 1 else [(name,) for name in block]
            yield from zip(each, summed.copy(), strict=True)
        if waiting:
            _wait(over)


def _wait(over: threading.Event) -> None:
    if over.wait(_POLL_SECONDS):
        raise FloError("the simulation runtime ended before the study")


def _record(body: Mapping[str, Any]) -> Any:
    from flwr.app import ConfigRecord, RecordDict

    return RecordDict({_RECORD: ConfigRecord(dict(body))})


# -- in Ray's workers ------------------------------------------------------------------------------


def _client_app(kept: list[Any], make_noise: MakeNoise) -> Any:
    """Answer a message for a block with the sums of its hospitals' releases.

    ``kept``: references to each block's study, snapshots and cohort size in Ray's object store.
    """
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    client = ClientApp()

    @client.query()
    def query(message: Message, context: Context) -> Message:
        block = int(context.node_config["partition-id"])
        told: Mapping[str, Any] = message.content.config_records[_RECORD]
        weights = np.frombuffer(told["weights"], told["type"]).copy()
        study, trainers, hospitals = _block(kept[block], make_noise)
        values = np.stack(
            [one for _, one in sums(study, trainers, hospitals, told["purpose"], weights)]
        )
        body = {"block": block, "rows": len(values), "values": values.tobytes()}
        return Message(_record(body | {"type": values.dtype.str}), reply_to=message)

    return client


@cache
def _block(reference: Any, make_noise: MakeNoise) -> tuple[Study, dict[str, Trainer], int]:
    """Create a block's hospitals in this worker, which caches them."""
    import ray

    study, snapshots, hospitals = ray.get(reference)
    step = private_step(study, "cpu")
    trainers = {
        name: Trainer(study, snapshot, noise=make_noise(), step=step)
        for name, snapshot in snapshots.items()
    }
    return study, trainers, hospitals
