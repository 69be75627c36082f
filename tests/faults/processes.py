"""Which processes run for a federation."""

from __future__ import annotations

import os
from pathlib import Path

TOKEN = "FLO_FAULT_BENCH"


def processes(folder: Path) -> dict[int, str]:
    """Process id -> name and command line of what runs for a federation: started by it, or naming
    it."""
    found = {}
    for place in Path("/proc").iterdir():
        if not place.name.isdigit() or int(place.name) == os.getpid():
            continue
        try:
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            name = (place / "comm").read_text().strip()
            ours = f"{TOKEN}={folder}".encode() in (place / "environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if command and (ours or str(folder) in command):
            found[int(place.name)] = f"{name}: {command.strip()}"
    return found
