"""A folder as a simulation takes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import HOSPITALS, csv_text


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for hospital in HOSPITALS:
        (tmp_path / f"{hospital}.csv").write_text(csv_text(60, prefix=hospital))
    return tmp_path
