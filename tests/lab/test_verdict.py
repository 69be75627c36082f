"""The verdict's sentences follow from the figures, whoever gains or loses."""

from __future__ import annotations

from typing import Any

import pytest

from flo.lab.verdict import Gain, verdict

Gains = dict[str, Gain | None]


def result(**changes: Any) -> dict[str, Any]:
    site = {"brier_finished": 0.15, "brier_alone": 0.16}
    return {
        "sites": {"north": site, "south": site},
        "calibration": {"predicted": 0.40, "observed": 0.30, "brier": 0.2},
        "calibration_published": None,
        "calibration_finished": {"predicted": 0.303, "observed": 0.30, "brier": 0.15},
        "auc": 0.80,
        "auc_pooled": 0.81,
        **changes,
    }


BOTH: Gains = {"north": (0.01, 0.02, 0.03), "south": (-0.01, 0.0, 0.01)}


def test_gains_are_counted_and_nobody_is_said_to_lose() -> None:
    gain, nobody, *_ = verdict(result(), BOTH)
    assert "+0.010 AUC on average; at 1 of 2 hospitals the 95 % interval is above 0" in gain
    assert nobody == "By these estimates no hospital loses."


@pytest.mark.parametrize(
    ("gain", "said"),
    [((-0.02, -0.01, 0.0), "may lose"), ((-0.03, -0.02, -0.01), "would lose")],
)
def test_who_loses_is_named_and_chance_is_told_from_certainty(gain: Gain, said: str) -> None:
    _, loser, *_ = verdict(result(), {**BOTH, "south": gain})
    assert loser.startswith(f"south {said}: AUC {gain[1]:+.3f}")


def test_a_worse_brier_score_is_a_loss_even_if_the_ranks_are_better() -> None:
    sites = result()["sites"] | {"north": {"brier_finished": 0.17, "brier_alone": 0.16}}
    _, loser, *_ = verdict(result(sites=sites), BOTH)
    assert loser.startswith("north may lose")
    assert "Brier score +0.010" in loser


def test_a_hospital_without_patients_of_a_class_is_not_counted() -> None:
    gain, *_ = verdict(result(), {"north": (0.01, 0.02, 0.03), "south": None})
    assert "at 1 of 1 hospitals" in gain
    (nothing, *_) = verdict(result(), {"north": None, "south": None})
    assert "nothing to compare" in nothing


def test_risks_are_to_be_believed_only_near_what_was_observed() -> None:
    said = verdict(result(), BOTH)
    assert "The published model's risks are 1.33 times the observed ones: do not" in said[2]
    assert "The finished model's risks are 1.01 times the observed ones on average" in said[3]


def test_a_large_loss_to_noise_comes_with_a_way_out() -> None:
    assert len(verdict(result(), BOTH)) == 4
    assert "`flo study check`" in verdict(result(auc_pooled=0.83), BOTH)[-1]
