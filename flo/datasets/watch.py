"""Watch signals: ten people doing seven exercises, in windows, all at one place.

Ten people are ten units of privacy, however many windows they have. The data set is the example of
what a study cannot do at ε < 1.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pandas as pd

from flo.datasets.package_file import package_file
from flo.errors import TrustError

_WINDOW = 100  # samples at 50 Hz: two seconds
_FILE = "seglearn/data/watch_dataset.npy"
_DIGEST = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
_SIGNALS = ("ax", "ay", "az", "wx", "wy", "wz")  # acceleration (g), turning rate (rad/s)
_ROW = 6  # the exercise whose windows have label 1
CREDIT = (
    "Watch signals: D. Burns et al., Physiological Measurement 39 (2018), by way of seglearn. Ten "
    "people at one place (natural); a record is a window of two seconds, the label: rowing or not."
)


def load() -> dict[str, pd.DataFrame]:
    """Return the only place -> windows of all exercises (4,677 in all).

    Columns: ``patient_id``, ``rowing``, and the mean and spread of each signal over the window.

    Raises:
        UsageError: the package is not installed. TrustError: the file is not the pinned one.
    """
    data = package_file("seglearn", _FILE).read_bytes()
    if hashlib.sha256(data).hexdigest() != _DIGEST:
        # A pickle can run any code: open only the file that we inspected.
        raise TrustError(f"{_FILE} was changed", hint="install seglearn 1.2.5 again")
    known = np.load(io.BytesIO(data), allow_pickle=True).item()
    rows: list[list[object]] = []
    for signal, exercise, person in zip(known["X"], known["y"], known["subject"], strict=True):
        for begin in range(0, len(signal) - _WINDOW + 1, _WINDOW // 2):
            window = signal[begin : begin + _WINDOW]
            numbers = [*window.mean(axis=0).round(4), *window.std(axis=0).round(4)]
            row = [f"person-{person}", int(exercise == _ROW), *numbers]
            rows.append(row)
    names = [f"{what}_{signal}" for what in ("mean", "spread") for signal in _SIGNALS]
    return {"lab": pd.DataFrame(rows, columns=["patient_id", "rowing", *names])}
