"""The systems that FLO is compared with. FLO imports none of them; each has its own environment.

An environment is created by pip at its first use, under ``$XDG_CACHE_HOME/flo-bench`` (or
``~/.cache``). The systems run without masks, and without privacy unless their name has Opacus.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from flo.errors import FloError

FLOWER, NVFLARE, OPACUS = "flwr==1.42.0", "nvflare==2.9.0", "opacus==1.6.0"
_HERE = Path(__file__).parent
_START_SECONDS, _RUN_SECONDS = 60.0, 900.0


def environment(*requirements: str) -> Path:
    """Return the folder of commands of an environment with these packages and numpy."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "flo-bench"
    folder = cache / "-".join(requirements).replace("==", "-")
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin" / "pip"), "install", "--quiet", "numpy", *requirements])
        (folder / "ready").touch()
    return folder / "bin"


def flower_rounds(sites: int, megabytes: float, rounds: int) -> list[float]:
    """Return seconds of each round of stock Flower: SuperLink, SuperNodes, FedAvg, no TLS."""
    wanted = {"floats": _floats(megabytes), "rounds": rounds, "sites": sites}
    _, instants = _flower("flower_app", environment(FLOWER), sites, wanted, rounds + 1)
    return [after - before for before, after in pairwise(instants)]


def flower_with_opacus(data: Path, sites: int, inputs: int, rounds: int) -> float:
    """Return seconds from launch to end of ``rounds`` rounds, each one private step per site.

    ``data``: a folder with 1.npz, 2.npz, ... for each site: inputs (n, ``inputs``), labels (n,).
    """
    wanted: dict[str, int | str] = {"rounds": rounds, "sites": sites, "inputs": inputs}
    wanted["data"] = str(data)
    commands = environment(FLOWER, OPACUS)
    launched, (ended,) = _flower("flower_opacus_app", commands, sites, wanted, 1)
    return ended - launched


def _flower(
    app: str, commands: Path, sites: int, wanted: Mapping[str, int | str], count: int
) -> tuple[float, list[float]]:
    """Run an app. Return the time of its launch, and the first ``count`` times that it wrote."""
    with tempfile.TemporaryDirectory() as scratch, _Processes() as started:
        folder = Path(scratch)
        times, port = folder / "times.json", free_port()
        shutil.copytree(_HERE / app, folder / "app")
        (folder / "home").mkdir()
        config = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\n'
        (folder / "home" / "config.toml").write_text(f"{config}insecure = true\n")
        variables = {
            **os.environ,
            "FLWR_HOME": str(folder / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        }
        superlink = ["--insecure", "--port", str(port), "--disable-runtime-dependency-installation"]
        started.begin([str(commands / "flower-superlink"), *superlink], variables)
        wait_for_port(port)
        for site in range(1, sites + 1):
            node = ["--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(free_port())]
            node += ["--node-config", f"site={site}"]
            started.begin([str(commands / "flower-supernode"), *node], variables)
        settings = " ".join(
            f"{k}={json.dumps(v)}" for k, v in {**wanted, "times": str(times)}.items()
        )
        run = [str(commands / "flwr"), "run", str(folder / "app"), "here", "-c", settings]
        launched = time.time()
        _run(run, variables)
        return launched, _instants(times, count)


def nvflare_rounds(sites: int, megabytes: float, rounds: int) -> list[float]:
    """Return seconds of each round of NVFLARE in its proof-of-concept mode, FedAvg over numpy."""
    return _nvflare("nvflare_job", environment(NVFLARE), sites, _floats(megabytes), rounds)


def nvflare_with_opacus(data: Path, sites: int, inputs: int, rounds: int) -> float:
    """Return seconds of ``rounds`` rounds, each one private step per site, without the start.

    ``data``: as for ``flower_with_opacus``.
    """
    commands = environment(NVFLARE, OPACUS)
    return sum(_nvflare("nvflare_opacus_job", commands, sites, inputs, rounds, data))


def _nvflare(
    job: str, commands: Path, sites: int, numbers: int, rounds: int, *more: Path
) -> list[float]:
    """Run a job. Return seconds of each round."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(_HERE / job, folder / "job")
        variables = {
            **os.environ,
            "HOME": scratch,
            "NVFLARE_POC_WORKSPACE": str(folder / "poc"),
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        }
        arguments = [sites, numbers, rounds, folder / "times.json", *more]
        _run(
            [str(commands / "python"), str(folder / "job" / "job.py"), *map(str, arguments)],
            variables,
        )
        instants = _instants(folder / "times.json", rounds + 1)
        return [after - before for before, after in pairwise(instants)]


class _Processes:
    """Processes of a reference system; all are killed at the end of the block."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._all:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def begin(self, command: list[str], variables: dict[str, str]) -> None:
        self._all.append(
            subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )


def _instants(times: Path, count: int) -> list[float]:
    """Wait until a reference has written ``count`` times, and return the first ``count``."""
    end = time.monotonic() + _RUN_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            instants: list[float] = json.loads(times.read_text())
            if len(instants) >= count:
                return instants[:count]
        time.sleep(0.2)
    raise FloError(f"the reference did not finish within {_RUN_SECONDS:g} seconds")


def _floats(megabytes: float) -> int:
    return int(megabytes * 1e6 / 4)


def _run(command: list[str], variables: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise FloError(
            f"`{' '.join(command)[:200]}` failed with exit code {done.returncode}: {done.stderr}"
        )


def free_port() -> int:
    """Return a port that no program listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def wait_for_port(port: int) -> None:
    """Wait until a program listens on the port. Raises FloError after a minute."""
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise FloError(f"no server listens on port {port} after {_START_SECONDS:g} seconds")
