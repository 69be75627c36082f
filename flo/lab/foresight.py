"""How precise a study's regressions will be, if its patients are like those of a table."""

from __future__ import annotations

from pathlib import Path

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

    ``like``: a table that one may see, with the study's columns, as a hospital would have it.
    Raises DataError, as a hospital's check does, or UsageError: too few have all values.
    """
    if isinstance(like, Path):
        source = open_file(like, id_column)
    else:
        table = pa.Table.from_pandas(like, preserve_index=False)
        source = DataFrameSource("like", id_column, table)
    encoded = encode_checked(source, study.data, id_column)
    patients = Snapshot.divided(encoded, set()).training
    try:
        return {
            block.part.name: foresee(study, block, patients) for block in regressions.layout(study)
        }
    except ValueError as error:
        raise UsageError(f"the table has too few patients: {error}") from error
