"""The site's own policy: what it forbids is refused by name, and it wins over every approval."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.clients.approvals.yearly_budget import yearly_limit
from flo.clients.home.policy import Hours, Policy, refuse_violations
from flo.clients.home.policy_file import sign, write_toml
from flo.errors import BudgetError, PolicyError
from flo.keys.identity import Identity
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.study.document import Study, from_document
from flo.study.packs import Pack
from tests.builders import small_study
from tests.clients.approved_site import Site as AskedSite
from tests.clients.approved_site import approved_site
from tests.clients.approving_site import Site, enrolled_site
from tests.flo.studies import PACK, imaging
from tests.flo.study.test_statistics_terms import TABLE
from tests.flo.study.test_statistics_terms import asked as asked_statistics
from tests.privacy.ledgers import facts, study_of

STUDY = small_study()
LARGE, SAMPLED = STUDY.with_mechanism(epsilon=1.0), STUDY.with_mechanism(sampling=0.5)
STATISTICS = asked_statistics(TABLE, mechanism={"noise": "local", "masking": "off", "delta": 1e-6})
PACKED, SEEN = small_study(model=PACK), from_document(imaging())
assert isinstance(PACKED.model, Pack)
ENCODED = from_document(
    imaging("logistic", encoder={"name": "tiny", "file": "0" * 64, "features": 6})
    | {"schema_version": 4}
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return enrolled_site(tmp_path)


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[AskedSite]:
    yield from approved_site(tmp_path)


def refuse_this_year(site: Site, policy: Policy, study: Study, days_later: int = 0) -> None:
    """The yearly limit alone, as it will be in some days."""
    now = datetime.now(UTC) + timedelta(days=days_later)
    with closing(site.home.open_ledger()) as ledger:
        balance = ledger.balance()
        delta = balance.lives["main"].delta
        limit = yearly_limit(policy, study, delta, if_broken=False, now=now)
        for sub_ledger in SUB_LEDGERS:
            for one in balance.generations("main") or (None,):
                if limit and not limit.has_room(balance, "main", sub_ledger, one):
                    raise limit.refuse(balance, "main", sub_ledger, one)


# -- what a study may be --------------------------------------------------------------------------

# rule, a value that forbids the study, one that just allows it, the study, what the refusal says
BROKEN: list[tuple[str, Any, Any, Study, str]] = [
    ("consent_to_epsilon_of_one_or_more", False, True, LARGE, "= false: the study takes ε = 1"),
    ("largest_study_epsilon", 0.89, 0.9, STUDY, "= 0.89: the study takes ε = 0.9"),
    ("largest_epsilon_a_year", 0.89, 0.9, STUDY, "= 0.89 in the site's policy"),
    ("models", ["mlp", "cnn"], ["logistic"], STUDY, "= mlp, cnn: the study trains logistic"),
    ("packs", ["0" * 64], [PACKED.model.digest], PACKED, "which is not installed here"),
    ("encoders", ["1" * 64], ["0" * 64], ENCODED, "by the encoder tiny, 0{64}, which is not allo"),
    ("trust_models", ["distributed"], ["local"], STUDY, "= distributed: the study uses local"),
    ("masking_required", True, False, STUDY, "= true: the coordinator would see the sum"),
    ("sampling_allowed", False, True, SAMPLED, "= false: the study samples patients with pro"),
    ("surveys_allowed", False, True, STATISTICS, "= false"),
    ("minimum_hospitals", 4, 3, STUDY, "= 4: the study names 3"),
    ("minimum_cohort", 3, 2, STUDY, "= 3: a round of the study may have 2"),
    ("minimum_declared_size", 41, 40, STUDY, "= 41: west declares 40"),
    ("purposes", ["cancer", "heart"], ["cancer", "the MACHINERY"], STUDY, "= cancer, heart: the"),
    ("partners", ["south"], ["west", "south"], STUDY, ": the study names west, which is not"),
    ("forbidden_columns", ["weight", "AGE"], ["weight"], STUDY, ": the study uses age"),
    ("forbidden_columns", ["Ill"], ["il"], STUDY, ": the study uses ill"),
    ("forbidden_columns", [" ILL"], ["i ll"], STUDY, ": the study uses ill"),
    ("forbidden_columns", ["px"], ["px_72"], SEEN, ": the study uses px"),
    ("forbidden_columns", ["PX_63"], ["p"], SEEN, ": the study uses px_63"),
]
NOT_ABOUT_A_STUDY = {
    "schema_version",
    "gate_required",  # test_fetched_models: which models are used
    "hours",  # below: when releases are made
    "approvers",  # test_people: who says yes
    "people",
    "confinement",  # test_confinement: what locks the data process in
}


def test_every_rule_about_a_study_stands_in_the_table() -> None:
    assert {row[0] for row in BROKEN} == set(Policy.model_fields) - NOT_ABOUT_A_STUDY


@pytest.mark.parametrize(("rule", "forbids", "allows", "study", "says"), BROKEN)
def test_a_broken_rule_is_named(
    site: Site, rule: str, forbids: Any, allows: Any, study: Study, says: str
) -> None:
    site.allow(**{rule: forbids})
    a_year = rule == "largest_epsilon_a_year"
    error = BudgetError if a_year else PolicyError
    site.refuses(site.offer(study), error, f"{rule}.*{says}", heads=a_year)


@pytest.mark.parametrize(("rule", "forbids", "allows", "study", "says"), BROKEN)
def test_a_rule_that_is_just_kept_allows_the_study(
    site: Site, rule: str, forbids: Any, allows: Any, study: Study, says: str
) -> None:
    policy = Policy.model_validate({rule: allows})
    refuse_violations(policy, study, "north", study.largest_epsilon, ())
    refuse_this_year(site, policy, study)


def test_all_broken_rules_are_named_at_once(site: Site) -> None:
    rows = [row for row in BROKEN if row[3] is STUDY and row[0] != "largest_epsilon_a_year"]
    rules = {rule: forbids for rule, forbids, *_ in rows}
    site.allow(**rules)
    with pytest.raises(PolicyError) as refused:
        site.approve(site.offer(STUDY))
    lines = str(refused.value).splitlines()[1:]
    assert len(rules) == 10
    assert {rule for rule in rules for line in lines if line.startswith(f"  {rule}")} == set(rules)
    assert site.kinds() == ["birth"]


def test_a_study_charged_as_if_broken_is_measured_by_that_epsilon(site: Site) -> None:
    shared = study_of(0.5, noise="distributed", masking="on")
    site.allow(largest_study_epsilon=0.5)
    site.refuses(site.offer(shared), PolicyError, "largest_study_epsilon", if_broken=True)


# -- after an approval ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rules",
    [
        {"largest_study_epsilon": 0.89},
        {"partners": ["south"]},
        {"forbidden_columns": ["age"]},
        {"minimum_cohort": 3},
    ],
    ids=lambda rules: next(iter(rules)),
)
def test_a_policy_tightened_after_the_approval_stops_the_study_at_the_next_message(
    asked: AskedSite, rules: dict[str, Any]
) -> None:
    asked.ask()
    before, request = asked.charged(), asked.request(round=2)
    put_in_force(asked.home.directory, asked.home.open_identity(), **rules)
    reply = asked.say(request).header
    assert (reply.kind, reply.code) == ("refused", "not-approved")
    assert (asked.charged(), asked.releaser.calls) == (before, 1)
    put_in_force(asked.home.directory, asked.home.open_identity())
    assert asked.ask(round=2).header.kind == "release"


def test_a_study_that_the_policy_stopped_can_still_be_ended(asked: AskedSite) -> None:
    asked.ask()
    end = asked.request(kind="finish", round=0)
    put_in_force(asked.home.directory, asked.home.open_identity(), minimum_hospitals=9)
    write_toml(asked.home.directory / "policy.toml", Policy(minimum_hospitals=1))
    assert asked.say(end).header.kind == "settled"


def put_in_force(home: Path, key: Identity, **rules: Any) -> None:
    write_toml(home / "policy.toml", Policy.model_validate(rules))
    sign(home, key)


# -- hours ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "end", "open_at", "closed_at"),
    [
        ("09:00", "17:00", ["09:00", "16:59"], ["08:59", "17:00", "00:00"]),
        ("22:00", "06:00", ["22:00", "23:59", "00:00", "05:59"], ["21:59", "06:00", "12:00"]),
        ("00:00", "23:59", ["00:00", "23:58"], ["23:59"]),
        ("23:59", "00:00", ["23:59"], ["00:00", "23:58"]),
    ],
    ids=["by day", "over midnight", "all day but a minute", "the last minute"],
)
def test_hours_open_at_their_begin_and_close_at_their_end(
    begin: str, end: str, open_at: list[str], closed_at: list[str]
) -> None:
    hours = Hours(begin=begin, end=end)
    assert [at for at in open_at if not hours.contain(time.fromisoformat(at))] == []
    assert [at for at in closed_at if hours.contain(time.fromisoformat(at))] == []


MINUTES = st.integers(0, 24 * 60 - 1)


@given(MINUTES, MINUTES, MINUTES)
def test_a_clock_that_runs_from_begin_to_end_passes_the_hours_and_no_other_minute(
    begin: int, end: int, now: int
) -> None:
    hours = Hours(begin=_clock(begin), end=_clock(end))
    passed = (now - begin) % (24 * 60) < (end - begin) % (24 * 60)
    assert hours.contain(time(now // 60, now % 60)) == passed


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def hours_around_now(shift_minutes: int) -> dict[str, str]:
    """Two hours of local time; their middle is so many minutes from now."""
    middle = datetime.now().astimezone() + timedelta(minutes=shift_minutes)
    begin, end = middle - timedelta(hours=1), middle + timedelta(hours=1)
    return {"begin": f"{begin:%H:%M}", "end": f"{end:%H:%M}"}


def test_outside_the_hours_the_site_is_not_ready_and_inside_it_answers(asked: AskedSite) -> None:
    request = asked.request()
    put_in_force(asked.home.directory, asked.home.open_identity(), hours=hours_around_now(12 * 60))
    reply = asked.say(request).header
    assert (reply.kind, reply.code) == ("refused", "not-ready")
    assert asked.charged() == (0, 0)
    put_in_force(asked.home.directory, asked.home.open_identity(), hours=hours_around_now(0))
    assert asked.say(request).header.kind == "release"


# -- a year ---------------------------------------------------------------------------------------


def test_a_second_study_that_exceeds_the_year_is_refused_though_the_life_would_allow_it(
    site: Site,
) -> None:
    site.allow(largest_epsilon_a_year=0.4)
    site.approve(site.offer(study_of(0.3, "first")))
    second = site.offer(study_of(0.3, "second"))
    site.refuses(
        second, BudgetError, "largest_epsilon_a_year = .* of it was taken in training", heads=True
    )
    site.allow()
    site.approve(second)


@pytest.mark.parametrize(("released", "fits"), [(0, True), (4, False)])
def test_a_settled_study_counts_what_it_released(site: Site, released: int, fits: bool) -> None:
    site.allow(largest_epsilon_a_year=0.4)
    first, second = site.offer(study_of(0.3, "first")), site.offer(study_of(0.3, "second"))
    reservation = site.approve(first).reservation
    with closing(site.home.open_ledger()) as ledger:
        for n in range(released):
            ledger.charge(reservation, "training", f"request {n}", facts(first.study, n + 1))
        ledger.settle(reservation, "ended")
    if fits:
        site.approve(second)
    else:
        site.refuses(second, BudgetError, "largest_epsilon_a_year", heads=True)


def test_what_is_older_than_a_year_does_not_count(site: Site) -> None:
    site.approve(site.offer(study_of(0.3, "first")))
    policy, second = Policy(largest_epsilon_a_year=0.4), study_of(0.3, "second")
    for days in (0, 364):
        with pytest.raises(BudgetError, match="largest_epsilon_a_year"):
            refuse_this_year(site, policy, second, days)
    refuse_this_year(site, policy, second, 366)
