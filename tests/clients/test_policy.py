"""The site's own policy: what it forbids is refused by name, and it wins over every approval."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from flo import canonical
from flo.clients.home import SiteHome
from flo.clients.policy import Hours, Policy, refuse_violations
from flo.clients.policy_file import EXPLAINED, in_force, read_edited, sign, write_toml
from flo.clients.yearly_budget import refuse_over_a_year
from flo.errors import BudgetError, FloError, MessageError, PolicyError, TrustError, UsageError
from flo.identity import Identity
from flo.model_kinds import Pack
from flo.study import Study, from_document
from tests.builders import small_study
from tests.clients.approving_site import Site, enrolled_site
from tests.clients.asked_site import Site as AskedSite
from tests.clients.asked_site import approved_site
from tests.flo.studies import PACK, imaging
from tests.privacy.ledgers import facts, study_of

STUDY = small_study()
LARGE, SAMPLED = STUDY.with_mechanism(epsilon=1.0), STUDY.with_mechanism(sampling=0.5)
SURVEY = STUDY.with_survey(epsilon=0.3, columns=["ward"])
PACKED, SEEN = small_study(model=PACK), from_document(imaging())
assert isinstance(PACKED.model, Pack)
ADA, BEN, EVE, DAN = (Identity.new() for _ in range(4))
COMPRESSED = (  # the same key as Ada's, in other bytes
    ADA.key.public_key()
    .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    .hex()
)
Tamper = Callable[[Path], Any]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return enrolled_site(tmp_path)


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[AskedSite]:
    yield from approved_site(tmp_path)


def refuse_this_year(site: Site, policy: Policy, study: Study, days_later: int = 0) -> None:
    """The yearly limit alone, as it will be in some days."""
    now = datetime.now(UTC) + timedelta(days=days_later)
    with closing(site.home.ledger()) as ledger:
        refuse_over_a_year(policy, ledger, study, "main", if_broken=False, now=now)


def named(**keys: Identity) -> Any:
    """[[people]], stewards all, with these keys."""
    return [
        {"name": name, "role": "steward", "public": key.public.hex()} for name, key in keys.items()
    ]


# -- what a study may be --------------------------------------------------------------------------

# rule, a value that forbids the study, one that just allows it, the study, what the refusal says
BROKEN: list[tuple[str, Any, Any, Study, str]] = [
    ("consent_to_epsilon_of_one_or_more", False, True, LARGE, "= false: the study takes ε = 1"),
    ("largest_study_epsilon", 0.89, 0.9, STUDY, "= 0.89: the study takes ε = 0.9"),
    ("largest_epsilon_a_year", 0.89, 0.9, STUDY, "= 0.89 in the site's policy"),
    ("models", ["mlp", "cnn"], ["logistic"], STUDY, "= mlp, cnn: the study trains logistic"),
    ("packs", ["0" * 64], [PACKED.model.digest], PACKED, "which is not installed here"),
    ("trust_models", ["distributed"], ["local"], STUDY, "= distributed: the study uses local"),
    ("masking_required", True, False, STUDY, "= true: the coordinator would see single"),
    ("sampling_allowed", False, True, SAMPLED, "= false: the study samples patients with pro"),
    ("surveys_allowed", False, True, SURVEY, "= false"),
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


# -- the file -------------------------------------------------------------------------------------


def test_every_rule_is_explained_and_every_example_is_a_value_of_it() -> None:
    assert set(EXPLAINED) == set(Policy.model_fields) - {"schema_version"}
    people = named(Ada=ADA, Ben=BEN)
    for rule, (example, meaning) in EXPLAINED.items():
        assert meaning
        if example:
            document = tomllib.loads(f"{rule} = {example}")
            Policy.model_validate({**document, "people": people})


def test_every_example_in_a_written_policy_may_be_uncommented(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    write_toml(path, Policy(people=named(Ada=ADA, Ben=BEN)))
    text = path.read_text()
    examples = [name for name, (example, _) in EXPLAINED.items() if example]
    for name in examples:
        assert text.count(f"\n# {name} = ") == 1
        text = text.replace(f"\n# {name} = ", f"\n{name} = ")
    path.write_text(text)
    read, default = read_edited(path), Policy()
    assert [name for name in examples if getattr(read, name) == getattr(default, name)] == []
    assert [person.name for person in read.people] == ["Ada", "Ben"]


@given(
    purposes=st.none() | st.lists(st.text("ab\"'\\#=[ü", min_size=1), max_size=3),
    hours=st.none() | st.just({"begin": "22:00", "end": "06:00"}),
    people=st.sampled_from([{}, {"Ada": ADA}, {"Ada": ADA, "O'Ben": BEN}]),
    largest=st.none() | st.floats(0.01, 10),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    purposes: list[str] | None,
    hours: dict[str, str] | None,
    people: dict[str, Identity],
    largest: float | None,
) -> None:
    rules = {"purposes": purposes, "hours": hours, "largest_study_epsilon": largest}
    rules |= {"people": named(**people), "approvers": max(1, len(people))}
    policy, path = Policy.model_validate(rules), tmp_path_factory.getbasetemp() / "written.toml"
    write_toml(path, policy)
    assert read_edited(path) == policy


def loosened(home: Path) -> None:
    write_toml(home / "policy.toml", Policy(minimum_hospitals=1))


def loosened_in_both(home: Path) -> None:
    loosened(home)
    path = home / "policy.signed.json"
    document = json.loads(path.read_text())
    document["policy"]["minimum_hospitals"] = 1
    path.write_bytes(canonical.encode(document))


def signed_by_another(home: Path) -> None:
    path = home / "policy.signed.json"
    document = json.loads(path.read_text())
    del document["signature"]
    document["signature"] = Identity.new().sign("policy", canonical.encode(document))
    path.write_bytes(canonical.encode(document))


def put_back(home: Path) -> None:
    """The loose policy of yesterday, both of its files, after a stricter one was signed."""
    site = SiteHome.open(home)
    files = [home / "policy.toml", home / "policy.signed.json"]
    before = [path.read_bytes() for path in files]
    write_toml(files[0], Policy(minimum_hospitals=3))
    sign(home, site.identity())
    for path, content in zip(files, before, strict=True):
        path.write_bytes(content)


def appended(text: str) -> Tamper:
    def append(home: Path) -> None:
        path = home / "policy.toml"
        path.write_text(path.read_text() + text)

    return append


TAMPERED: list[tuple[str, Tamper, type[FloError], str]] = [
    ("edited", loosened, TrustError, "edited since it was signed"),
    ("another rule", appended("unknown_rule = 1\n"), TrustError, "cannot be read"),
    ("no TOML", appended("minimum_hospitals = \n"), TrustError, "cannot be read"),
    ("no file", lambda home: (home / "policy.toml").unlink(), TrustError, "cannot be read"),
    ("forged", loosened_in_both, TrustError, "signature of this policy does not match"),
    ("another key", signed_by_another, TrustError, "signature of this policy does not match"),
    ("an older pair", put_back, TrustError, "not the policy that was signed here last"),
    ("missing", lambda home: (home / "policy.signed.json").unlink(), TrustError, "not signed"),
    (
        "cut off",
        lambda home: (home / "policy.signed.json").write_bytes(b'{"policy":'),
        MessageError,
        "not valid JSON",
    ),
]
IDS = [row[0] for row in TAMPERED]


@pytest.mark.parametrize(("_", "tamper", "error", "says"), TAMPERED, ids=IDS)
def test_without_the_signed_policy_nothing_is_approved(
    site: Site, _: str, tamper: Tamper, error: type[FloError], says: str
) -> None:
    tamper(site.home.directory)
    site.refuses(site.offer(), error, says)


@pytest.mark.parametrize(("_", "tamper", "error", "says"), TAMPERED, ids=IDS)
def test_without_the_signed_policy_nothing_is_released(
    asked: AskedSite, _: str, tamper: Tamper, error: type[FloError], says: str
) -> None:
    asked.ask()
    before, request = asked.charged(), asked.request(round=2)
    tamper(asked.home.directory)
    reply = asked.say(request).header
    assert (reply.kind, reply.code) == ("refused", "not-ready")
    asked.refuses("not-ready", round=2)
    assert (asked.charged(), asked.releaser.calls) == (before, 1)


def test_an_edited_policy_counts_once_it_is_signed(asked: AskedSite) -> None:
    write_toml(asked.home.directory / "policy.toml", Policy(minimum_cohort=2))
    asked.refuses("not-ready")
    sign(asked.home.directory, asked.home.identity())
    assert asked.ask().header.kind == "release"
    assert asked.home.policy == Policy(minimum_cohort=2)


def test_a_comment_is_no_edit(site: Site) -> None:
    appended("# seen by Ada\n")(site.home.directory)
    site.approve(site.offer())


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
    put_in_force(asked.home.directory, asked.home.identity(), **rules)
    reply = asked.say(request).header
    assert (reply.kind, reply.code) == ("refused", "not-approved")
    assert (asked.charged(), asked.releaser.calls) == (before, 1)
    put_in_force(asked.home.directory, asked.home.identity())
    assert asked.ask(round=2).header.kind == "release"


def test_a_study_that_the_policy_stopped_can_still_be_ended(asked: AskedSite) -> None:
    asked.ask()
    end = asked.request(kind="finish", round=0)
    put_in_force(asked.home.directory, asked.home.identity(), minimum_hospitals=9)
    loosened(asked.home.directory)
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
    put_in_force(asked.home.directory, asked.home.identity(), hours=hours_around_now(12 * 60))
    reply = asked.say(request).header
    assert (reply.kind, reply.code) == ("refused", "not-ready")
    assert asked.charged() == (0, 0)
    put_in_force(asked.home.directory, asked.home.identity(), hours=hours_around_now(0))
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
    with closing(site.home.ledger()) as ledger:
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


# -- who may sign it ------------------------------------------------------------------------------


def wants(home: Path, **rules: Any) -> None:
    write_toml(home / "policy.toml", Policy.model_validate(rules))


def test_where_people_are_named_as_many_of_them_as_they_are_asked_sign_a_new_policy(
    site: Site,
) -> None:
    home, key = site.home.directory, site.home.identity()
    site.allow(people=named(Ada=ADA, Ben=BEN, Eve=EVE), approvers=2)
    wants(home, people=named(Dan=DAN))
    with pytest.raises(PolicyError, match="2 of them sign a new one"):
        sign(home, key)
    for stranger in (DAN, Identity.new()):  # Dan is named by the new policy only
        with pytest.raises(PolicyError, match="belongs to nobody"):
            sign(home, key, stranger)
    for _ in range(2):  # signing twice is signing once
        assert sign(home, key, ADA) is None
    with pytest.raises(TrustError, match="edited since it was signed"):
        in_force(home, key)
    wants(home, people=named(Dan=DAN), minimum_hospitals=3)
    assert sign(home, key, EVE) is None  # what Ada signed is another policy
    signed = sign(home, key, BEN)
    assert signed is not None
    assert in_force(home, key) == signed
    wants(home)
    with pytest.raises(PolicyError, match="belongs to nobody"):
        sign(home, key, ADA)
    assert sign(home, key, DAN) == Policy()


def test_without_the_audit_log_no_policy_is_in_force_or_signed(site: Site) -> None:
    home, key = site.home.directory, site.home.identity()
    for path in home.glob("audit.sqlite*"):
        path.unlink()
    for action in (in_force, sign):
        with pytest.raises(TrustError, match=r"audit\.sqlite is missing"):
            action(home, key)
    assert not (home / "audit.sqlite").exists()


@pytest.mark.parametrize("lost", ["policy.signed.json", "policy.waiting.json", "both"])
def test_losing_files_does_not_make_one_person_enough(site: Site, lost: str) -> None:
    home, key = site.home.directory, site.home.identity()
    site.allow(people=named(Ada=ADA, Ben=BEN), approvers=2)
    wants(home, people=named(Ada=ADA), approvers=1)
    assert sign(home, key, ADA) is None
    for name in ("policy.signed.json", "policy.waiting.json"):
        if lost in (name, "both"):
            (home / name).unlink()
    with pytest.raises(PolicyError, match="2 of them sign"):
        sign(home, key)
    assert sign(home, key, ADA) is None
    with pytest.raises(TrustError):
        in_force(home, key)


def test_a_signature_for_one_change_does_not_count_for_the_same_change_later(site: Site) -> None:
    home, key = site.home.directory, site.home.identity()
    strict, loose = {"approvers": 2, "minimum_hospitals": 3}, {"approvers": 2}
    people = named(Ada=ADA, Ben=BEN)
    site.allow(people=people, **strict)
    wants(home, people=people, **loose)
    assert sign(home, key, ADA) is None
    kept = (home / "policy.waiting.json").read_bytes()
    sign(home, key, BEN)
    wants(home, people=people, **strict)
    sign(home, key, ADA)
    sign(home, key, BEN)
    wants(home, people=people, **loose)
    (home / "policy.waiting.json").write_bytes(kept)  # Ada's, from when another one was in force
    assert sign(home, key, BEN) is None  # Ada's does not count
    with pytest.raises(TrustError, match="edited since"):
        in_force(home, key)


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"approvers": 2}, "needs as many people with keys"),
        ({"approvers": 2, "people": named(Ada=ADA)}, "names 1"),
        ({"people": [*named(Ada=ADA), *named(Ada=BEN)]}, "the same name stands twice"),
        ({"people": [*named(Ada=ADA), *named(Ben=ADA)]}, "the same key stands twice"),
        ({"people": named(Ada=ADA, ada=BEN)}, "the same name stands twice"),
        ({"people": [{**named(Ada=ADA)[0], "public": COMPRESSED}]}, "not an EC P-384"),
        ({"people": [{"name": "Ada", "role": "steward", "public": "ab"}]}, "not an EC P-384"),
        ({"people": [{**named(Ada=ADA)[0], "role": "boss"}]}, "role"),
        ({"largest_epsilon_a_year": 0}, "greater than 0"),
        ({"hours": {"begin": "9:00", "end": "17:00"}}, "hours.begin"),
        ({"confinement": ["wall"]}, "confinement"),
    ],
    ids=[
        *("nobody", "too few", "name twice", "key twice", "nearly the name", "the key packed"),
        *("no key", "role", "zero", "time", "layer"),
    ],
)
def test_a_policy_that_makes_no_sense_cannot_be_signed(
    site: Site, rules: dict[str, Any], says: str
) -> None:
    path = site.home.directory / "policy.toml"
    path.write_text(tomli_w.dumps(rules))
    with pytest.raises(UsageError, match=says):
        sign(site.home.directory, site.home.identity())
