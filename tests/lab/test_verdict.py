"""The verdict's sentences follow from the figures, whoever gains or loses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flo.lab.verdict import Gain, Mean
from flo.lab.verdict import verdict as verdict_of

Gains = dict[str, Gain | None]
Stated = dict[str, list[Mean] | None]
STATED: Stated = {"published": [Mean("", 0.40, 0.30)], "finished": [Mean("", 0.303, 0.30)]}


def verdict(
    found: dict[str, Any],
    gains: Gains,
    stated: Stated = STATED,
    measure: str = "AUC",
    unit: str = "",
    patients: int = 10_000,
) -> list[str]:
    return verdict_of(found, gains, stated, measure=measure, patients=patients, unit=unit)


def result(**changes: Any) -> dict[str, Any]:
    site = {"brier_finished": 0.15, "brier_alone": 0.16}
    return {
        "sites": {"north": site, "south": site},
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


def test_several_risks_are_believed_only_if_all_are() -> None:
    right = [Mean("mild", 0.097, 0.1), Mean("worst", 0.52, 0.5)]
    *_, said = verdict(result(), BOTH, {"finished": right})
    assert said == "The finished model's risks are 0.97 to 1.04 times the observed ones on average."
    wrong = [Mean("mild", 0.097, 0.1), Mean("worst", 0.62, 0.5)]
    *_, said = verdict(result(), BOTH, {"finished": wrong})
    assert said.endswith("0.97 to 1.24 times the observed ones: do not read them as risks (worst).")


def test_risks_of_rare_classes_are_not_called_wrong_by_chance() -> None:
    """Right ones of twelve classes, of which one in fifty patients has the rarest."""
    generator = np.random.default_rng(1)
    shares = np.array([0.02] * 4 + [0.115] * 8)
    called = 0
    for _ in range(400):
        observed = generator.multinomial(2000, shares) / 2000
        means = [
            Mean(str(n), share, seen)
            for n, (share, seen) in enumerate(zip(shares, observed, strict=True))
        ]
        *_, said = verdict(result(), BOTH, {"finished": means}, patients=2000)
        called += "do not read" in said
    assert called <= 40
    absent = [Mean("a", 0.3, 0.3), Mean("b", 0.0001, 0.0)]
    *_, said = verdict(result(), BOTH, {"finished": absent})
    assert said == "The finished model's risks are 1.00 times the observed ones on average."


def test_values_are_compared_in_their_unit() -> None:
    stated: Stated = {"published": None, "finished": [Mean("kg", -1.234, -1.1)]}
    *_, first, second = verdict(result(), BOTH, stated, unit="kg")
    assert first == "The published model expects no values: it only ranks patients."
    assert second == "The finished model expects -1.23 kg on average; -1.1 were observed."


def test_a_card_that_would_state_no_risks_is_said_to_only_rank() -> None:
    *_, said = verdict(result(), BOTH, {"published": None})
    assert said == "The published model states no risks: it only ranks patients."


def test_another_outcome_is_compared_by_its_own_measure_and_has_no_brier_score() -> None:
    sites: dict[str, dict[str, float]] = {"north": {}, "south": {}}
    said = verdict(
        result(sites=sites, auc_pooled=0.85),
        {"north": (0.01, 0.02, 0.03), "south": (-0.03, -0.02, -0.01)},
        measure="concordance",
    )
    assert "+0.000 concordance on average" in said[0]
    assert said[1] == "south would lose: concordance -0.020 (95 % interval -0.030 to -0.010)."
    assert "0.050 concordance worse" in said[-1]


def test_a_large_loss_to_noise_comes_with_a_way_out() -> None:
    assert len(verdict(result(), BOTH)) == 4
    assert "`flo study check`" in verdict(result(auc_pooled=0.83), BOTH)[-1]
