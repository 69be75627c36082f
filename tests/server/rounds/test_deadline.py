"""How long a round is waited for: never longer than agreed, shorter once rounds are fast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from flo.server.rounds.deadline import AdaptiveDeadline
from tests.server.in_memory_run import stage


def learned(deadline: float, *seconds: float) -> float:
    patience = AdaptiveDeadline(deadline)
    for one in seconds:
        patience.observe("training", one)
    return patience.timeout("training")


def test_until_five_rounds_were_complete_the_studys_deadline_counts() -> None:
    assert learned(60) == 60
    assert learned(60, 0.1, 0.1, 0.1, 0.1) == 60


@pytest.mark.parametrize(
    ("deadline", "slowest", "expected"),
    [(600, 2.0, 20), (600, 0.2, 10), (600, 100, 600), (5, 0.2, 5)],
    ids=["ten times", "ten seconds at least", "never more", "never more than a short one"],
)
def test_then_ten_times_the_slowest_counts_within_bounds(
    deadline: float, slowest: float, expected: float
) -> None:
    assert learned(deadline, 0.1, 0.1, slowest, 0.1, 0.1) == pytest.approx(expected)


def test_what_is_long_ago_is_forgotten() -> None:
    assert learned(600, 50, *[0.1] * 20) == 10


def test_one_phase_tells_nothing_of_another() -> None:
    patience = AdaptiveDeadline(60)
    for _ in range(5):
        patience.observe("training", 0.1)
    assert (patience.timeout("training"), patience.timeout("evaluation")) == (10, 60)


def test_a_run_asks_with_the_patience_that_it_has_learned() -> None:
    run = stage("masking off", steps=9)
    asked: list[float] = []
    ask = run.ask

    def asking(
        heads: Mapping[str, bytes], body: memoryview, deadline_seconds: float
    ) -> Iterator[tuple[str, bytes]]:
        asked.append(deadline_seconds)
        return ask(heads, body, deadline_seconds)

    run.ask = asking  # type: ignore[method-assign]
    object.__setattr__(run.study.limits, "deadline_seconds", 60.0)
    assert run.run().phase == "done"
    assert asked[0] == 60
    assert asked[-3] == 10
