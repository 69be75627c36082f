"""How precise a study's regressions will be, if its patients are like those of a table."""

from __future__ import annotations

import csv
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow as pa

from flo.clients.quality.check import encode_checked
from flo.clients.records.snapshot import Snapshot
from flo.clients.sources.files import DataFrameSource, open_file
from flo.errors import UsageError
from flo.privacy.releases import regressions
from flo.statistics.precision import Precision, foresee
from flo.study.document import Study


def foresee_all(
    study: Study, like: Path | pd.DataFrame, id_column: str = "patient_id"
) -> dict[str, Precision]:
    """Return the precision of each regression by its name.

    ``like``: a table that one may see, with the study's columns, as a hospital would have it; other
    columns are left out.
    Raises DataError, as a hospital's check does, or UsageError: too few have all values.
    """
    used = {id_column, study.data.label, *(column.name for column in study.data.columns)}
    if isinstance(like, Path):
        with TemporaryDirectory() as folder:
            kept = _only(like, used, Path(folder))
            encoded = encode_checked(open_file(kept, id_column), study.data, id_column)
    else:
        mine = like[[name for name in like.columns if name in used]]
        table = pa.Table.from_pandas(mine, preserve_index=False)
        encoded = encode_checked(DataFrameSource("like", id_column, table), study.data, id_column)
    patients = Snapshot.divided(encoded, set()).training
    try:
        return {
            block.part.name: foresee(study, block, patients) for block in regressions.layout(study)
        }
    except ValueError as error:
        raise UsageError(f"the table has too few patients: {error}") from error


def _only(path: Path, names: set[str], folder: Path) -> Path:
    """Copy these columns of a CSV file; another kind of file is as it is."""
    if path.suffix != ".csv":
        return path
    copy = folder / path.name
    try:
        with (
            path.open(encoding="utf-8-sig", newline="") as read,
            copy.open("w", newline="") as file,
        ):
            rows = csv.reader(read)
            header = next(rows, [])
            places = [place for place, name in enumerate(header) if name in names]
            write = csv.writer(file)
            write.writerow([header[place] for place in places])
            write.writerows([row[place] for place in places] for row in rows if row)
    except (OSError, UnicodeDecodeError, csv.Error, IndexError) as error:
        raise UsageError(f"{path} cannot be read: {type(error).__name__}") from error
    return copy
