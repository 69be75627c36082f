"""From a hospital's columns to the model's inputs, with public numbers only.

Numbers are scaled by the study's bounds to [-1, 1]; a category of two codes becomes 0 or 1, one
of more codes an input per code; a missing number becomes the study's public constant, a missing
code zeros, and an indicator says so. Nothing is fitted on patients, so the encoding of one patient
never depends on another. Fewer inputs mean less noise, which grows with the root of their count.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flo.study import CategoryColumn, NumberColumn, Schema

Floats = npt.NDArray[np.float64]


def input_names(schema: Schema) -> list[str]:
    """Names of the model's inputs in order, such as ``chol``, ``chol=missing``, ``sex=male``."""
    names: list[str] = []
    for column in schema.columns:
        if isinstance(column, NumberColumn):
            names.append(column.name)
        elif len(column.codes) == 2:
            names.append(f"{column.name}={column.codes[1]}")
        else:
            names.extend(f"{column.name}={code}" for code in column.codes)
        if column.missing == "indicator":
            names.append(f"{column.name}=missing")
    return names


def encode_number(column: NumberColumn, values: Floats) -> Floats:
    """Shape (n,) with NaN for missing -> (n, 1) or, with an indicator, (n, 2)."""
    missing = np.isnan(values)
    filled = np.where(
        missing, 0.0 if column.missing_value is None else column.missing_value, values
    )
    scaled = 2 * (filled - column.minimum) / (column.maximum - column.minimum) - 1
    if column.missing == "indicator":
        return np.stack([scaled, missing.astype(np.float64)], axis=1)
    return scaled[:, None]


def encode_category(column: CategoryColumn, codes: npt.NDArray[np.int64]) -> Floats:
    """Shape (n,) of indices into the codebook, -1 for missing -> (n, inputs of this column)."""
    missing = codes < 0
    if len(column.codes) == 2:
        inputs = (codes == 1).astype(np.float64)[:, None]
    else:
        inputs = (codes[:, None] == np.arange(len(column.codes))[None]).astype(np.float64)
    if column.missing == "indicator":
        return np.hstack([inputs, missing[:, None].astype(np.float64)])
    return np.asarray(inputs, dtype=np.float64)
