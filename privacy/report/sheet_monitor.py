"""What one period of a monitor releases and costs, and when it raises an alarm, in plain words."""

from __future__ import annotations

from flo.privacy.accounting.plan import Plan
from flo.study.document import Study


def monitor_leaves(study: Study) -> dict[str, str]:
    """Say what is summed, about whom, and what follows from it."""
    monitor, part = study.monitor, Plan.of(study).purpose("monitor")
    assert monitor is not None
    known = {one.card: f"{one.title} (card {one.card[:16]})" for one in monitor.models}
    model = known.get(monitor.model, f"the model with the card {monitor.model[:16]}")
    return {
        "monitor": "1 noisy sum of 2 numbers about held-out patients: how many more had the "
        "outcome than the model states, and the variance that its risks give that; each patient's "
        f"vector is at most {part.mechanism.norm:.6g} long; noise of σ = "
        f"{part.mechanism.noise_multiplier:.4f} times that is added",
        "watched is": f"{model}, in period {monitor.period} of a series",
        "who is counted": _counted(monitor.period),
        "raises an alarm if": "the evidence of all periods together shows that outcomes are more "
        f"or less often than stated, by more than {monitor.tolerance:g} times the odds. If they "
        f"are not, an alarm comes once in {monitor.false_alarm_periods} periods or more, on "
        "average",
        "what it costs later": "a period uses patients who were in no earlier one, so each pays "
        "for one period of the series, whenever it ends; each period has an approval of its own",
    }


def _counted(period: int) -> str:
    if period == 1:
        return "patients who are first in this hospital's data with this approval, and no others"
    return (
        "patients who were first in this hospital's data since it last released for this series, "
        "and no others"
    )
