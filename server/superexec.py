"""Flower's SuperExec, the process that launches ServerApps: here, and in a job elsewhere.

It and the ServerApps it launches form one process group; who started it ends that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from flo.memory import KEEPING

PROGRAM = "flower-superexec"  # beside the interpreter
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
}


def start_superexec(
    url: str, ca: Path, secret: Path, *, home: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start ``flower-superexec`` against the private listener, as on SageMaker.

    It and the ServerApps it launches form one process group; end it with ``os.killpg``.
    """
    scripts = Path(sys.executable).parent
    with (home / "superexec.log").open("ab") as log:
        return subprocess.Popen(
            [
                str(scripts / PROGRAM),
                *("--runtime-api-address", url.removeprefix("https://")),
                *("--root-certificates", str(ca)),
                *("--superexec-auth-secret-file", str(secret)),
                *("--parent-pid", str(os.getpid())),
            ],
            env={
                **os.environ,
                **QUIET,
                **KEEPING,
                **environment,
                "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}",
                "FLWR_HOME": str(home / "flower"),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
