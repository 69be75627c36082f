"""Use of a published model on patients of this hospital: offline; no data leave it.

The columns of the signed study define how a patient becomes the model's inputs, with the same code
as in training. Predictions are about patients, so only the file's owner can read them.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from scipy.special import expit

from flo.clients.prediction.finish import FinishedAtHome
from flo.clients.quality.check import check_inputs
from flo.clients.sources.cells import as_ids
from flo.clients.sources.error_wrapper import ErrorBoundary
from flo.clients.sources.files import open_file
from flo.documents.text import in_a_sheet
from flo.errors import UsageError
from flo.published.model_card import PublishedModel
from flo.storage.files import write_private


def predict(model: PublishedModel | FinishedAtHome, data: Path, out: Path, id_column: str) -> int:
    """Write ``row``, the id column if the file has one, and ``score`` for each record of a file.

    ``row``: 1 for the first record. ``score``: 0 to 1, higher where label 1 is likelier. A
    published model's ranks patients and is not calibrated; a finished one's is a risk, calibrated
    on this hospital's patients. Ids are escaped for spreadsheets; ``row`` identifies the record.
    Return the number of records.

    Raises:
        DataError: the file does not fit the study's columns. UsageError: ``out`` is ``data``, or
        cannot be a file.
    """
    if out.resolve() == data.resolve():
        raise UsageError(f"--out {out} would overwrite the data", hint="choose another file")
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"--out {out} must be a file in an existing folder")
    source = ErrorBoundary(open_file(data, id_column))
    inputs = check_inputs(source, model.study.data)
    scores = expit(model.log_odds(inputs))
    ids = [cell for batch in source.ids() for cell in as_ids(batch).to_pylist()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", *([in_a_sheet(id_column)] if ids else []), "score"])
    for number, score in enumerate(scores, start=1):
        own = [in_a_sheet(ids[number - 1] or "")] if ids else []
        writer.writerow([number, *own, f"{score:.6f}"])
    write_private(out, text.getvalue().encode())
    return len(scores)
