"""A Lambda function on this machine: its code in a process of its own, run by AWS's own client.

The process sees the function's code and Python's library, and nothing that is installed here. AWS's
Runtime Interface Client (``awslambdaric``) asks this process for events, by the Runtime API
(developer guide, "Using the Lambda runtime API for custom runtimes").
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from flo.errors import FloError, UsageError
from flo.infra.aws.serving.function_code import HANDLER

_CLIENT = ("awslambdaric", "runtime_client", "simplejson", "snapshot_restore_py")
_SECONDS = 30.0
_API = "/2018-06-01/runtime"


@dataclass(frozen=True)
class Used:
    """What the function's process used until it ended. ``cpu``: seconds."""

    cpu: float


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over the end of a function's process, which is killed while it waits."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class LocalFunction:
    """One process of a function. Use as a context manager.

    ``said``: what it wrote to standard output and error, once it ended.
    """

    def __init__(self, code: bytes) -> None:
        self._code = code
        self._events: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._answers: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.said = b""

    def __enter__(self) -> LocalFunction:
        self._stack = contextlib.ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        task, client = folder / "task", folder / "client"
        with zipfile.ZipFile(io.BytesIO(self._code)) as archive:
            archive.extractall(task)
        client.mkdir()
        for name in _CLIENT:
            place = _installed(name)
            (client / place.name).symlink_to(place)
        server = _Server(("127.0.0.1", 0), self._api())
        self._stack.callback(server.server_close)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self._stack.callback(server.shutdown)
        self._out = self._stack.enter_context((folder / "out").open("w+b"))
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-m", "awslambdaric", HANDLER],
            cwd=task,
            env={
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_address[1]}",
                "LAMBDA_TASK_ROOT": str(task),
                "PYTHONPATH": f"{task}:{client}",
                "PATH": os.environ.get("PATH", ""),
                "OMP_NUM_THREADS": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._out,
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        self._stack.close()

    def invoke(self, request: Mapping[str, Any]) -> Any:
        """Return the function's answer to one request, parsed. Raises as ``said_of``."""
        return json.loads(self.said_of(json.dumps(request).encode()))

    def said_of(self, payload: bytes) -> bytes:
        """Return the function's answer to one event.

        Raises:
            FloError: the function failed, or its process ended.
        """
        self._events.put((uuid.uuid4().hex, payload))
        for _ in range(int(_SECONDS / 0.1)):
            try:
                kind, body = self._answers.get(timeout=0.1)
            except queue.Empty:
                if self._has_ended():
                    break
                continue
            if kind == "response":
                return body
            raise FloError(f"the function failed: {body.decode(errors='replace')[:2000]}")
        self.end()
        raise FloError(
            f"the function does not answer: {self.said.decode(errors='replace')[-2000:]}"
        )

    def end(self) -> Used | None:
        """End the process; return what it used, None if it had ended."""
        if self._process.returncode is not None:
            return None
        os.kill(self._process.pid, signal.SIGKILL)  # Popen.kill would reap it
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._out.seek(0)
        self.said = self._out.read()
        return Used(used.ru_utime + used.ru_stime)

    def _has_ended(self) -> bool:
        """Return whether the process has ended; it stays for ``end`` to ask what it used."""
        seen = os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, self._process.pid, seen) is not None

    def _api(self) -> type[BaseHTTPRequestHandler]:
        events, answers = self._events, self._answers

        class Api(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16  # head and body in one packet

            def do_GET(self) -> None:
                request, payload = events.get()
                self.send_response(200)
                for name, value in _headers(request, len(payload)).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(payload)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answers.put((self.path.rpartition("/")[2], body))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing: a request has patients' values."""

        return Api


def _headers(request: str, size: int) -> dict[str, str]:
    """Return the headers of an event; the client crashes where one of them is missing."""
    return {
        "Content-Type": "application/json",
        "Content-Length": str(size),
        "Lambda-Runtime-Aws-Request-Id": request,
        "Lambda-Runtime-Deadline-Ms": "9999999999999",
        "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:here",
        "Lambda-Runtime-Trace-Id": "Root=1-00000000-000000000000000000000000;Sampled=0",
    }


def _installed(name: str) -> Path:
    """Return the folder or file of a module. Raises UsageError: it is not installed."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise UsageError(f"running a function here needs {name}", hint="pip install awslambdaric")
    place = Path(found.origin)
    return place.parent if place.name == "__init__.py" else place
