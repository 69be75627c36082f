"""Tables of real patients that ship inside packages, one table for each hospital.

``DATASETS`` maps a study name to its loader. Each loader is a module here, which describes the
patients, the omitted columns and the reasons. Only the packages' data files are read; none of their
code runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from flo.datasets import fars, heart, lidc, support2, watch
from flo.errors import UsageError

DATASETS: dict[str, Callable[[], dict[str, pd.DataFrame]]] = {
    "heart-disease": heart.load,
    "support2": support2.load,
    "support2-paper": support2.load_followed,
    "support2-survival": support2.load_survival,
    "support2-stay": support2.load_stay,
    "support2-function": support2.load_function,
    "fars": fars.load,
    "lidc": lidc.load,
    "watch": watch.load,
}
CREDITS = {
    "heart-disease": heart.CREDIT,
    "support2": support2.CREDIT,
    "support2-paper": support2.CREDIT,
    "support2-survival": support2.CREDIT,
    "support2-stay": support2.CREDIT,
    "support2-function": support2.CREDIT,
    "fars": fars.CREDIT,
    "lidc": lidc.CREDIT,
    "watch": watch.CREDIT,
}


def write(name: str, directory: Path) -> list[Path]:
    """Write a data set as ``directory/HOSPITAL.csv``. Raises UsageError for an unknown name."""
    if name not in DATASETS:
        raise UsageError(f"no data set {name!r}", hint=f"known: {', '.join(DATASETS)}")
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for hospital, table in DATASETS[name]().items():
        path = directory / f"{hospital}.csv"
        table.to_csv(path, index=False)
        paths.append(path)
    return paths
