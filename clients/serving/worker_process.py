"""Entry point of a worker, confined before it loads any other code.

    python -I -m flo.clients.serving.worker_process CONTROL FORBIDDEN READABLE...

``CONTROL``: descriptor of its socket to the supervisor. It inherits no other descriptor but its
standard ones, and no environment but what Python needs, so that whoever takes it over finds no
secret, no log and no socket in it.
"""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

from flo.clients.data_process.confinement import confine
from flo.clients.data_process.helpers import end_with_parent


def main() -> None:
    """Confine this process, then answer fronts until the supervisor ends."""
    end_with_parent()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)  # the supervisor ends workers, after the front
    control, forbidden, *readable = sys.argv[1:]
    layers = confine(map(Path, readable), Path(forbidden), gpu=False)
    missing = [name for name, holds in layers.items() if not holds]

    from flo.clients.serving.worker import run

    run(socket.socket(fileno=int(control)), missing)


if __name__ == "__main__":
    main()
