"""``python -m tests.proofs.rotterdam_files FOLDER``: the tables of examples/paper/rotterdam.toml.

They are in a package that FLO does not need, which ``make proofs`` installs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.proofs.statistics_sets import rotterdam


def write(folder: Path) -> list[Path]:
    """Write ``folder/HOSPITAL.csv`` for each of the four simulated hospitals."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for hospital, table in rotterdam().table.groupby("hospital"):
        path = folder / f"{hospital}.csv"
        table.drop(columns="hospital").to_csv(path, index=False)
        found.append(path)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
