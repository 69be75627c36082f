"""The efficiency index: its rules, by hand and by what a geometric mean promises; and one real
measurement."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from flo.bench import index as measuring
from flo.bench.index_rules import (
    INPUTS,
    REFERENCE,
    Index,
    Measured,
    first_of,
    index_of,
    read_measured,
)
from flo.cli.bench import _evidence, index
from flo.errors import TrustError, UsageError
from tests.builders import make_site


def deployment(name: str, **values: Any) -> Measured:
    usual: dict[str, tuple[float, ...]] = dict.fromkeys(INPUTS, (1.0,))
    return Measured(name=name, machine="m", when="2026-12-01", flo="0", values=usual | values)


def at_random(name: str, draw: random.Random) -> Measured:
    return deployment(
        name, **{one: tuple(draw.uniform(0.5, 2) for _ in range(5)) for one in INPUTS}
    )


def test_half_of_one_cost_is_the_sixth_root_of_two() -> None:
    found = index_of(deployment("a", round=(0.5,)), deployment("reference"))
    assert found.index == pytest.approx(2 ** (1 / len(INPUTS)))
    assert found.scores == pytest.approx(dict.fromkeys(INPUTS, 1.0) | {"round": 2.0})
    assert (found.low, found.high) == pytest.approx((found.index, found.index))
    assert found.wins == 1.0, "nothing is worse, so no weighting loses"


def test_twice_one_cost_and_half_another_is_no_gain_and_wins_half_the_weightings() -> None:
    found = index_of(deployment("a", round=(2.0,), gate=(0.5,)), deployment("reference"))
    assert found.index == pytest.approx(1)
    assert found.wins == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_the_order_of_deployments_does_not_depend_on_the_reference() -> None:
    draw = random.Random(4)
    several = [at_random(f"d{number}", draw) for number in range(12)]
    orders = set()
    for _ in range(20):
        reference = at_random("reference", draw)
        found = [index_of(one, reference) for one in several]
        orders.add(tuple(one.name for one in sorted(found, key=lambda one: one.index)))
    assert len(orders) == 1


@pytest.mark.slow
def test_an_arithmetic_mean_would_depend_on_it() -> None:
    """So that the test above can fail."""
    draw = random.Random(4)
    several = [at_random(f"d{number}", draw) for number in range(12)]
    orders = set()
    for _ in range(20):
        reference = at_random("reference", draw)
        found = [index_of(one, reference) for one in several]
        means = sorted(found, key=lambda one: sum(one.scores.values()))
        orders.add(tuple(one.name for one in means))
    assert len(orders) > 1


@pytest.mark.slow
def test_the_interval_holds_the_truth_nine_times_in_ten() -> None:
    """Or more: repetitions of both vary by a tenth around known costs; five of each, as are
    measured. Medians of five that are drawn again vary more than medians of five."""
    draw = random.Random(9)
    held = 0
    for _ in range(200):
        pair = [
            deployment(
                "d",
                **{name: tuple(draw.lognormvariate(0, 0.1) for _ in range(5)) for name in INPUTS},
            )
            for _ in range(2)
        ]
        found = index_of(pair[0], pair[1], seed=draw.randrange(1 << 30))
        held += found.low <= 1 <= found.high
    assert held / 200 >= 0.88


def test_the_first_of_several_by_all_weightings() -> None:
    cheap = deployment("cheap", month=(0.2,))
    quick = deployment("quick", round=(0.2,))
    shares = first_of([cheap, quick, deployment("neither")])
    assert shares["neither"] == 0
    assert shares["cheap"] == pytest.approx(0.5, abs=0.02)
    assert sum(shares.values()) == pytest.approx(1)


def test_the_kept_reference_is_one_against_itself() -> None:
    reference = read_measured(REFERENCE)
    found = index_of(reference, reference)
    assert found.index == pytest.approx(1)
    assert found.low < 1 < found.high, "it was measured more than once"
    assert set(reference.values) == set(INPUTS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"values": {"round": [1.0]}}, "missing answer, gate, month, step, waiting"),
        ({"values": dict.fromkeys([*INPUTS, "power"], (1.0,))}, "unknown power"),
        ({"values": dict.fromkeys(INPUTS, (0.0,))}, r"values\.answer"),
        ({"values": dict.fromkeys(INPUTS, ())}, r"values\.answer"),
        ({"schema_version": 2}, "schema_version"),
        ({"more": 1}, "more"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    document = json.loads(REFERENCE.read_text()) | change
    path = tmp_path / "d.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=said):
        read_measured(path)


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    for text in ("", "[" * 100_000, "not json"):
        path = tmp_path / "d.json"
        path.write_text(text)
        with pytest.raises(UsageError, match=r"d\.json"):
            read_measured(path)
    with pytest.raises(UsageError, match="is not a measured deployment"):
        read_measured(tmp_path / "none.json")


def test_an_installation_whose_evidence_fails_has_no_index(tmp_path: Path) -> None:
    site = make_site(tmp_path / "north")
    assert "nothing fails" in _evidence(site.directory)
    assert "duties are shown" in _evidence(site.directory)
    policy = site.directory / "policy.toml"
    policy.write_text(policy.read_text() + "\nminimum_hospitals = 1\n")
    with pytest.raises(TrustError, match=r"no index: 1 verifications of .* fail"):
        _evidence(site.directory)


@pytest.mark.slow
def test_one_real_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every input once, with fewer rounds and seconds than the command takes."""
    for name, value in (("_RUNS", 1), ("_ROUNDS", 2), ("_STEPS", 2), ("_ANSWERS", 500)):
        monkeypatch.setattr(measuring, name, value)
    monkeypatch.setattr(measuring, "_RECORDS", 2000)
    for name, seconds in (("_SETTLE_SECONDS", 6.0), ("_WAIT_SECONDS", 3.0)):
        monkeypatch.setattr(measuring, name, seconds)
    out = tmp_path / "here.json"
    found = index(72.0, None, [REFERENCE], out)
    again = read_measured(out)
    assert again.values["month"] == (72.0,)
    assert all(len(one) == 1 and one[0] > 0 for one in again.values.values())
    recomputed: Index = index_of(again, read_measured(REFERENCE))
    assert found.index == pytest.approx(recomputed.index)
    assert math.prod(found.scores.values()) == pytest.approx(found.index ** len(INPUTS))
    screen = capsys.readouterr().out
    assert "of all weightings" in screen
    assert "evidence: not looked at" in screen
    assert list(itertools.islice(found.first, 1)) == ["this deployment"]
