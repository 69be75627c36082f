"""Signed statistics: all of them are as the coordinator signed them, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flo.documents import canonical
from flo.errors import MessageError, TrustError, UsageError
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import regressions, statistics
from flo.published.statistics_result import MAX_RESULT_BYTES, StatisticsResult, read_result
from flo.study.statistics import ROUNDS
from tests.builders import offered
from tests.flo.published_models import COORDINATOR, MALLORY
from tests.flo.study.test_statistics_terms import CURVE, ILL, TABLE, asked

OFFERED = offered(asked(TABLE, CURVE, ILL), [], COORDINATOR)
STUDY = OFFERED.study
PARTNERS = tuple(hospital.id for hospital in STUDY.hospitals)

ROUND = {"hospitals": PARTNERS, "values": [0.25] * regressions.length(STUDY)}


def result(signer: Any = COORDINATOR, **changes: Any) -> StatisticsResult:
    document: dict[str, Any] = {
        "study": STUDY.canonical_bytes.decode(),
        "study_signature": OFFERED.signature,
        "run": "run-1",
        "made": "2026-01-02T03:04:05+00:00",
        "hospitals": PARTNERS,
        "values": [0.5 * n for n in range(statistics.length(STUDY))],
        "rounds": [ROUND] * ROUNDS,
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
    rounds = found.released(STUDY)
    of_rounds = Plan.of(STUDY).purpose("regression")
    assert [one.variance for one in rounds] == [combined_variance(STUDY, of_rounds, 3)] * ROUNDS
    assert all((one.sums == 0.25).all() for one in rounds)
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
        {"rounds": [ROUND] * (ROUNDS - 1)},
        {"rounds": [*[ROUND] * (ROUNDS - 1), ROUND | {"values": [1.0]}]},
        {"rounds": [*[ROUND] * (ROUNDS - 1), ROUND | {"hospitals": ["north"]}]},
    ],
    ids=[
        *("fewer", "more", "below the floor", "twice", "stranger", "stranger's extract"),
        *("no tables", "a round less", "a short round", "a round below the floor"),
    ],
)
def test_what_its_study_does_not_allow_is_refused_also_if_it_is_signed(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(TrustError, match="contradict their study"):
        result(**changes).check(COORDINATOR.fingerprint)


def test_another_coordinators_result_is_refused() -> None:
    with pytest.raises(TrustError, match="another coordinator"):
        result(signer=MALLORY).check(COORDINATOR.fingerprint)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"values": [1e13]},
        {"rounds": [ROUND] * (ROUNDS + 1)},
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
