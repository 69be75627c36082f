"""Risks in words: bands rounded outwards, and only the rank where a band says too little."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.privacy.releases.calibration import Calibration
from flo.privacy.report.risks import RANK_ONLY, in_words, plot, rows
from flo.scoring.curve import is_too_wide

CURVE = Calibration(
    log_odds=(-4.0, -2.0, 0.0, 2.0, 4.0),
    risk=(0.01, 0.1, 0.4, 0.8, 0.9),
    low=(0.005, 0.05, 0.2, 0.55, 0.8),
    high=(0.02, 0.2, 0.55, 0.9, 0.95),
    level=0.9,
)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.14, 0.27, "14 to 27 %"),
        (0.1401, 0.2699, "14 to 27 %"),
        (0.139, 0.2701, "13 to 28 %"),
        (0.012, 0.0349, "1.2 to 3.5 %"),
        (0.05, 0.1, "5 to 10 %"),
        (0.6, 0.9, "60 to 90 %"),
        (0.6, 0.91, RANK_ONLY),
        (0.0001, 0.0004, "0 to 0.1 %"),
        (0.995, 0.9999, "99 to 100 %"),
    ],
)
def test_a_band_in_words(low: float, high: float, words: str) -> None:
    assert in_words(low, high) == words


@given(st.floats(1e-6, 1 - 1e-6), st.floats(1e-6, 1 - 1e-6))
def test_the_words_hold_all_of_a_band_that_is_narrow_enough(one: float, other: float) -> None:
    low, high = sorted((one, other))
    words = in_words(low, high)
    if is_too_wide(low, high):
        assert words == RANK_ONLY
        return
    first, last = words.removesuffix(" %").split(" to ")
    assert float(first) <= 100 * low + 1e-6
    assert float(last) >= 100 * high - 1e-6


def test_rows_and_plot_show_the_curve_where_patients_may_be() -> None:
    shown = rows(CURVE)
    assert [score for score, _ in shown] == sorted(score for score, _ in shown)
    assert {words for _, words in shown} >= {"5 to 20 %", RANK_ONLY}
    drawn = plot(CURVE)
    assert [line.label for line in drawn.lines] == ["95 %", "risk", "5 %"]
    assert [tick.label for tick in drawn.across] == ["0.05", "0.2", "0.5", "0.8", "0.95"]
