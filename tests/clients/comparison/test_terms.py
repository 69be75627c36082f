"""Who gets the answers of which version."""

from __future__ import annotations

from collections import Counter

import pytest

from flo.clients.comparison.terms import ComparedVersion, Comparison, shown
from flo.documents.document import parse
from flo.errors import UsageError
from flo.keys.identity import Identity
from flo.published.model_states import ModelVersion

PATIENTS = [f"patient {number}" for number in range(20_000)]
A, B = "a" * 64, "b" * 64


def model(number: int) -> ModelVersion:
    return ModelVersion(version=number, study=f"{number:064x}", card=f"{number:064x}")


def comparison(*shares: int) -> Comparison:
    several = [
        ComparedVersion(model=model(number), share=share).model_dump(mode="json")
        for number, share in enumerate(shares, start=2)
    ]
    spoken = {"by": "north", "why": "a committee said so"}
    times = {"began": "2026-11-30T10:00:00.000+00:00", "time": "2026-11-30T10:00:00.000+00:00"}
    facts = {"name": "tiny", "id": "0" * 32, "baseline": model(1).model_dump(mode="json")}
    terms = {"versions": several, "follow_up_days": 30}
    return parse(Comparison, facts | terms | spoken | times, "the comparison")


def test_each_version_gets_its_share() -> None:
    counts = Counter(shown("id", one, {A: 10, B: 30}) for one in PATIENTS)
    for study, share in ((A, 0.1), (B, 0.3), (None, 0.6)):
        assert abs(counts[study] / len(PATIENTS) - share) < 0.015


def test_in_shadow_nobody_gets_it() -> None:
    assert {shown("id", one, {A: 0}) for one in PATIENTS[:500]} == {None}


def test_a_share_that_is_raised_moves_patients_to_that_version_only() -> None:
    for one in PATIENTS[:4000]:
        before, after = shown("id", one, {A: 10, B: 20}), shown("id", one, {A: 30, B: 20})
        if before == A:
            assert after == A
        if before == B:
            assert after in (A, B)


def test_another_comparison_draws_anew() -> None:
    both = [(shown("one", one, {A: 50}), shown("two", one, {A: 50})) for one in PATIENTS[:4000]]
    same = sum(first == second for first, second in both) / len(both)
    assert abs(same - 0.5) < 0.03


def test_a_comparison_has_its_limits() -> None:
    full = comparison(*[10] * 9)
    with pytest.raises(UsageError, match="9 versions are compared already"):
        full.with_version(model(20), 0)
    with pytest.raises(UsageError, match="would get 100 % of the patients, limit 90 %"):
        full.with_version(model(2), 20)
    assert full.with_version(model(2), 5).share_of(model(2).study) == 5
    with pytest.raises(UsageError, match="shares of more than 90 %"):
        comparison(50, 50)
    alone = comparison(10).without(model(2).study)
    assert alone is None


def test_only_this_hospital_signs_it() -> None:
    site, other = Identity.new(), Identity.new()
    signed = comparison(10).signed(site)
    signed.check(site.public)
    with pytest.raises(Exception, match="signature"):
        signed.check(other.public)
    with pytest.raises(Exception, match="signature"):
        signed.model_copy(update={"follow_up_days": 1}).check(site.public)
