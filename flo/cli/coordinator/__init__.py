"""`flo coordinator`: commands of a consortium's coordinator."""

from __future__ import annotations

from flo.cli.coordinator import backup, console, setup

PARTS = (setup.app, console.app, backup.app)
"""In the order of ``flo coordinator --help``."""
