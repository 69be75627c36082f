"""SuperExec's program, which launches ServerApps: it loads all code once, and forks for each run.

    1. It loads Flower's ServerApp and FLO's, in one thread, and opens no connection yet.
    2. It asks the Runtime API for a task (``AcquireTask``), with Flower's signature of its secret.
       The coordinator answers when there is one, or after a short hold.
    3. It forks a process that carries out the task's run.
    4. It ends when the process that started it has ended, or when its secret is refused.

Flower's own ``flower-superexec`` starts a new interpreter for each run, which needs two seconds of
a core to load the same code again (``docs/decisions/0045-superexec-forks.md``).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.logger import mirror_output_to_queue
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.runtime import run_serverapp

from flo.server.flower.superexec import SERVERAPP

_REFUSED = 3  # exit code: the Runtime API refused the secret
_PAUSE_SECONDS = 0.1
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


@dataclass(frozen=True)
class Runtime:
    """``address``: of the Runtime API, without ``https://``; ``ca``: PEM."""

    address: str
    ca: bytes

    def client(self, secret: bytes) -> RuntimeHttpClient:
        """Return a client whose calls for tasks are signed with the secret."""
        return RuntimeHttpClient.from_server_address(
            self.address,
            False,
            self.ca,
            [
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(
                    master_secret=secret, protected_methods=frozenset({_ACQUIRE})
                ),
            ],
        )


def main() -> None:
    """Launch runs until the parent has ended. Arguments: address of the Runtime API, file of the
    authorities, file of the secret, id of the parent's process, module of the ServerApp."""
    address, ca, secret, parent, module = sys.argv[1:]
    importlib.import_module(module)
    runtime = Runtime(address, Path(ca).read_bytes())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes leave of ended runs
    gc.freeze()  # runs share what is loaded now
    client = runtime.client(Path(secret).read_bytes())
    while os.getppid() == int(parent):
        token = _acquired(client)
        if token and os.fork() == 0:
            _carry_out(client, runtime, token)
        time.sleep(_PAUSE_SECONDS)


def _acquired(client: RuntimeHttpClient) -> str:
    """Ask for a task; return its token, "" if there is none or the coordinator does not answer."""
    wanted = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
    try:
        return client.AcquireTask(wanted).token
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            sys.exit(_REFUSED)
    except (httpx.HTTPError, ValueError):  # not there, or half an answer: ask again
        time.sleep(_PAUSE_SECONDS)
    return ""


def _carry_out(parents: RuntimeHttpClient, runtime: Runtime, token: str) -> None:
    """Carry out a task's run in this process, and end it. ``parents``: the parent's client."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        Path("/proc/self/comm").write_text(SERVERAPP)
        parents.close()
        with Path(os.devnull).open("r+b", buffering=0) as nothing:
            for stream in (0, 1, 2):
                os.dup2(nothing.fileno(), stream)
        said: Queue[str | None] = Queue()
        mirror_output_to_queue(said)  # Flower keeps it with the run
        with contextlib.suppress(SystemExit):  # run_serverapp ends so, also after an error
            run_serverapp(runtime.address, said, token, False, runtime.ca, os.getppid())
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
