"""What one period of a monitor releases and costs, and when it raises an alarm, in plain words."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
from scipy.special import ndtri

from flo.arrays import Floats
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases.monitor import OF_VARIANCE
from flo.scores.drift import Evidence, Period, follow
from flo.study.document import Study

# Share of patients with the outcome, and their mean p(1 - p) under a good model: SUPPORT2, NASS.
_OFTEN, _SELDOM = (0.25, 0.137), (0.04, 0.035)
_CHANGE = 1.5  # times the odds
_TRIES, _LONGEST = 50, 60  # series; periods


def monitor_leaves(study: Study) -> dict[str, str]:
    """Say what is summed, about whom, and what follows from it."""
    monitor, part = study.monitor, Plan.of(study).purpose("monitor")
    assert monitor is not None
    known = {
        one.card: f"{one.title} (card {one.card[:16]}), in period {monitor.period} of a series"
        for one in monitor.models
    }
    draft = (
        f"the model with the card {monitor.model[:16]}; the coordinator adds the earlier periods "
        "of its series when it signs the study"
    )
    return {
        "monitor": "1 noisy sum of 2 numbers about held-out patients: how many more had the "
        "outcome than the model states, and the variance that its risks give that; each patient's "
        f"vector is at most {part.mechanism.norm:.6g} long; noise of σ = "
        f"{part.mechanism.noise_multiplier:.4f} times that is added",
        "watched is": known.get(monitor.model, draft),
        "who is counted": "held-out patients who came into a hospital's data with its approval of "
        "the first period or later, each once; at a hospital whose first approval ever that was, "
        "everybody in its data. A patient may be in the data only once their outcome is final: an "
        "outcome that comes later is not counted, and would look like a change",
        "raises an alarm if": "the evidence of all periods together shows that outcomes are more "
        f"or less often than stated, by more than {monitor.tolerance:g} times the odds. If they "
        f"are not, an alarm comes once in {monitor.false_alarm_periods} periods or more, on "
        "average",
        "what it costs later": "a period uses patients who were in no earlier one, so each pays "
        "for one period of the series, whenever it ends; each period has an approval of its own",
    }


def monitor_chances(study: Study, held_out: float) -> str:
    """Say how soon a change would be found if so many held-out patients are counted a period."""
    monitor = study.monitor
    assert monitor is not None
    factor, said = _CHANGE * monitor.tolerance, list[str]()
    for outcome in (_OFTEN, _SELDOM):
        more, fewer = (
            _after(periods_until(study, round(held_out), one, *outcome))
            for one in (factor, 1 / factor)
        )
        said.append(f"after {more} if more often than stated, {fewer} if less often")
    return (
        f"if about {held_out:,.0f} held-out patients are counted in a period, odds {_CHANGE:g} "
        f"times beyond what is tolerated raise an alarm {said[0]}, where one patient in four has "
        f"the outcome; where one in twenty-five has it, {said[1]}"
    )


def _after(periods: float) -> str:
    if periods > _LONGEST / 2:
        return f"more than {_LONGEST // 2} periods (too late)"
    return f"about {max(1.0, periods):.0f} periods"


def periods_until(
    study: Study, held_out: int, factor: float, share: float, variance: float
) -> float:
    """Return how many periods an alarm takes if all odds are ``factor`` times the stated ones.

    ``share``: of patients who have the outcome. ``variance``: p(1 - p) of a patient, on average.
    The mean of ``_TRIES`` made-up series, each of which ends after ``_LONGEST`` periods.
    """
    monitor = study.monitor
    assert monitor is not None
    noise = combined_variance(study, Plan.of(study).purpose("monitor"), len(study.hospitals))
    expected, odds = variance * held_out, factor - 1
    more = expected * odds / (1 + odds * share)
    of_w, (of_s, other) = noise / OF_VARIANCE**2, _normal(2, _TRIES, _LONGEST)
    s, w = more + math.sqrt(expected + noise) * of_s, expected + math.sqrt(of_w) * other
    return float(
        np.mean(
            [
                _first(
                    follow(
                        [Period(*pair, noise, of_w) for pair in zip(*one, strict=True)],
                        monitor.tolerance,
                        monitor.false_alarm_periods,
                    )
                )
                for one in zip(s.tolist(), w.tolist(), strict=True)
            ]
        )
    )


def _normal(*shape: int) -> Floats:
    """Return public normal numbers, the same for everybody: of the digits of SHAKE-256."""
    digits = hashlib.shake_256(b"made-up periods of a monitor").digest(8 * math.prod(shape))
    uniform = (np.frombuffer(digits, "<u8").reshape(shape) + 0.5) / 2.0**64
    return np.asarray(ndtri(np.clip(uniform, 1e-16, 1 - 1e-16)))


def _first(series: Iterator[Evidence]) -> int:
    return next((number for number, one in enumerate(series, 1) if one.alarm), _LONGEST)
