"""Where environments are made."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def environments() -> Iterator[Path]:
    """A folder on the disk: libraries are gigabytes, and links to this environment's."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)
