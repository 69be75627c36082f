"""Signed statistics: all of them are as the coordinator signed them, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.documents import canonical
from flo.errors import MessageError, TrustError, UsageError
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import regressions, statistics
from flo.privacy.releases.fisher_scoring import Released, next_coefficients
from flo.published.statistics_result import MAX_RESULT_BYTES, StatisticsResult, read_result
from flo.statistics.reading import read
from flo.statistics.regression import RegressionRead
from flo.study.statistics import ROUNDS
from tests.builders import offered
from tests.flo.published_models import COORDINATOR, MALLORY
from tests.flo.study.test_statistics_terms import CURVE, ILL, TABLE, asked

OFFERED = offered(asked(TABLE, CURVE, ILL), [], COORDINATOR)
STUDY = OFFERED.study
PARTNERS = tuple(hospital.id for hospital in STUDY.hospitals)


def rounds(count: int) -> list[dict[str, Any]]:
    """Rounds that each ask what follows from those before."""
    variance = combined_variance(STUDY, Plan.of(STUDY).purpose("regression"), 3)
    draw, found = np.random.default_rng(3), list[Released]()
    for _ in range(count):
        sums = draw.normal(0, 0.25, regressions.length(STUDY))
        found.append(Released(sums, next_coefficients(STUDY, found), variance))
    return [
        {"hospitals": PARTNERS, "values": one.sums.tolist(), "asked": one.asked.tolist()}
        for one in found
    ]


ALL_ROUNDS = rounds(ROUNDS)
LAST = ALL_ROUNDS[-1]


def result(signer: Any = COORDINATOR, **changes: Any) -> StatisticsResult:
    document: dict[str, Any] = {
        "study": STUDY.canonical_bytes.decode(),
        "study_signature": OFFERED.signature,
        "run": "run-1",
        "made": "2026-01-02T03:04:05+00:00",
        "hospitals": PARTNERS,
        "values": [0.5 * n for n in range(statistics.length(STUDY))],
        "rounds": ALL_ROUNDS,
        "report": "ab" * 32,
        "without_extract": ["west"],
        "coordinator": signer.public.hex(),
    }
    return StatisticsResult.model_validate(document | changes).signed(signer)


def test_a_result_comes_back_with_its_study_and_the_noise_that_follows(tmp_path: Path) -> None:
    path = tmp_path / "tiny-run-1.statistics.json"
    path.write_bytes(result().to_bytes())
    found = read_result(path)
    assert found.check(COORDINATOR.fingerprint) == STUDY
    assert found.noisy() == pytest.approx([0.5 * n for n in range(len(found.values))])
    part = Plan.of(STUDY).purpose("statistics")
    assert found.variance(STUDY) == combined_variance(STUDY, part, 3)
    released = found.released(STUDY)
    of_rounds = Plan.of(STUDY).purpose("regression")
    assert [one.variance for one in released] == [combined_variance(STUDY, of_rounds, 3)] * ROUNDS
    assert [one.sums.tolist() for one in released] == [one["values"] for one in ALL_ROUNDS]
    facts = dict(found.facts(STUDY))
    assert facts["without extract"] == "west"
    assert "ε = 0.5000" in facts["privacy"]


GOOD = json.loads(result().to_bytes())


@pytest.mark.parametrize("name", sorted(set(GOOD) - {"schema_version"}))
def test_a_field_that_was_changed_after_signing_is_refused(name: str) -> None:
    value = GOOD[name]
    if name == "values":
        changed: Any = [value[0] + 1, *value[1:]]
    elif name == "rounds":
        changed = [*value[:-1], value[-1] | {"values": [2.0, *value[-1]["values"][1:]]}]
    elif isinstance(value, list):
        changed = value[:-1] if len(value) > 1 else ["north"]
    elif name == "study":
        changed = value.replace('"version":1', '"version":2')
    else:
        changed = value[:-1] + ("a" if value[-1] != "a" else "b")
    found = StatisticsResult.model_validate(GOOD | {name: changed})
    with pytest.raises(TrustError):
        found.check(COORDINATOR.fingerprint)


@pytest.mark.parametrize(
    "changes",
    [
        {"values": [1.0] * (statistics.length(STUDY) - 1)},
        {"values": [1.0] * (statistics.length(STUDY) + 1)},
        {"hospitals": PARTNERS[:1]},
        {"hospitals": [*PARTNERS[:2], PARTNERS[0]]},
        {"hospitals": [*PARTNERS[:2], "stranger"]},
        {"without_extract": ["stranger"]},
        {"values": [], "hospitals": []},
        {"values": [], "hospitals": [], "rounds": []},
        {"rounds": [*ALL_ROUNDS[:-1], LAST | {"values": [1.0]}]},
        {"rounds": [*ALL_ROUNDS[:-1], LAST | {"asked": LAST["asked"][1:]}]},
        {"rounds": [*ALL_ROUNDS[:-1], LAST | {"asked": [9.0, *LAST["asked"][1:]]}]},
        {"rounds": [*ALL_ROUNDS[1:]]},
        {"rounds": [*ALL_ROUNDS[:-1], LAST | {"hospitals": ["north"]}]},
    ],
    ids=[
        *("fewer", "more", "below the floor", "twice", "stranger", "stranger's extract"),
        *("no tables", "nothing", "a short round", "fewer asked", "another was asked"),
        *("not the first round", "a round below the floor"),
    ],
)
def test_what_its_study_does_not_allow_is_refused_also_if_it_is_signed(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(TrustError, match="contradict the study"):
        result(**changes).check(COORDINATOR.fingerprint)


def test_a_run_that_was_cut_short_has_fewer_rounds() -> None:
    for count in (0, 1, ROUNDS - 1):
        found = result(rounds=ALL_ROUNDS[:count])
        assert found.check(COORDINATOR.fingerprint) == STUDY
        parts = read(STUDY, found.noisy(), found.variance(STUDY), found.released(STUDY))
        unknown = [one.unknown for one in parts if isinstance(one, RegressionRead)]
        (why,) = unknown
        assert why == "cut-short" or count == ROUNDS - 1


def test_hospitals_that_were_in_some_rounds_only_are_named() -> None:
    fewer = LAST | {"hospitals": PARTNERS[:2]}
    facts = dict(result(rounds=[*ALL_ROUNDS[:-1], fewer]).facts(STUDY))
    assert facts["hospitals"] == ", ".join(PARTNERS)
    assert facts["hospitals, regressions' round 6"] == ", ".join(PARTNERS[:2])
    assert "hospitals, regressions' round 6" not in dict(result().facts(STUDY))


def test_the_longest_result_that_a_study_allows_can_be_read(tmp_path: Path) -> None:
    names = [f"n{n}" for n in range(50)]
    columns = [
        {"kind": "number", "name": name, "unit": "1", "minimum": 0, "maximum": 1} for name in names
    ]
    part = ILL | {"predictors": names}
    data = {"record": "patient", "label": "ill", "columns": columns}
    parts = [part | {"name": f"ill-{n}"} for n in range(2)]
    table = {"kind": "table", "name": "wide", "columns": names, "by": "ill", "bins": 195}
    given = offered(asked(table, *parts, data=data), [], COORDINATOR)
    assert statistics.length(given.study) > 19_000
    assert ROUNDS * regressions.length(given.study) > 16_000
    digits = -0.12345678901234567
    one = {"hospitals": PARTNERS, "values": [digits] * regressions.length(given.study)}
    path = tmp_path / "long.statistics.json"
    found = result(
        study=given.study.canonical_bytes.decode(),
        study_signature=given.signature,
        values=[digits] * statistics.length(given.study),
        rounds=[one | {"asked": [digits] * 102}] * ROUNDS,
    )
    path.write_bytes(found.to_bytes())
    assert read_result(path) == found


def test_another_coordinators_result_is_refused() -> None:
    with pytest.raises(TrustError, match="another coordinator"):
        result(signer=MALLORY).check(COORDINATOR.fingerprint)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"values": [1e13]},
        {"rounds": [LAST] * (ROUNDS + 1)},
        {"values": ["x"]},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_result_of_another_form_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "x.statistics.json"
    path.write_bytes(canonical.encode(GOOD | change))
    with pytest.raises(UsageError, match=next(iter(change))):
        read_result(path)


def test_a_result_that_is_too_large_or_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.statistics.json"
    for data in (bytes(MAX_RESULT_BYTES + 1), b"{", b"\x80\x04K\x01."):
        path.write_bytes(data)
        with pytest.raises((MessageError, UsageError)):
            read_result(path)
