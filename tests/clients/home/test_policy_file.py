"""The policy as a file: what is written, edited, signed by whom, and what counts without it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from flo.clients.home.policy import Policy
from flo.clients.home.policy_file import EXPLAINED, read_edited, sign, write_toml
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.errors import FloError, MessageError, PolicyError, TrustError, UsageError
from flo.keys.identity import Identity
from tests.clients.approved_site import Site as AskedSite
from tests.clients.approved_site import approved_site
from tests.clients.approving_site import Site, enrolled_site

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


def named(**keys: Identity) -> Any:
    """[[people]], stewards all, with these keys."""
    return [
        {"name": name, "role": "steward", "public": key.public.hex()} for name, key in keys.items()
    ]


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
    sign(home, site.open_identity())
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
    sign(asked.home.directory, asked.home.open_identity())
    assert asked.ask().header.kind == "release"
    assert asked.home.read_policy() == Policy(minimum_cohort=2)


def test_a_comment_is_no_edit(site: Site) -> None:
    appended("# seen by Ada\n")(site.home.directory)
    site.approve(site.offer())


# -- who may sign it ------------------------------------------------------------------------------


def wants(home: Path, **rules: Any) -> None:
    write_toml(home / "policy.toml", Policy.model_validate(rules))


def test_where_people_are_named_as_many_of_them_as_they_are_asked_sign_a_new_policy(
    site: Site,
) -> None:
    home, key = site.home.directory, site.home.open_identity()
    site.allow(people=named(Ada=ADA, Ben=BEN, Eve=EVE), approvers=2)
    wants(home, people=named(Dan=DAN))
    with pytest.raises(PolicyError, match="2 of them must sign a new one"):
        sign(home, key)
    for stranger in (DAN, Identity.new()):  # Dan is named by the new policy only
        with pytest.raises(PolicyError, match="key is not one of those"):
            sign(home, key, stranger)
    for _ in range(2):  # signing twice is signing once
        assert sign(home, key, ADA) is None
    with pytest.raises(TrustError, match="edited since it was signed"):
        SiteHome(home).read_policy()
    wants(home, people=named(Dan=DAN), minimum_hospitals=3)
    assert sign(home, key, EVE) is None  # what Ada signed is another policy
    signed = sign(home, key, BEN)
    assert signed is not None
    assert SiteHome(home).read_policy() == signed
    wants(home)
    with pytest.raises(PolicyError, match="key is not one of those"):
        sign(home, key, ADA)
    assert sign(home, key, DAN) == Policy()


def test_without_the_audit_log_no_policy_is_in_force_or_signed(site: Site) -> None:
    home, key = site.home.directory, site.home.open_identity()
    for path in home.glob("audit.sqlite*"):
        path.unlink()
    for action in (lambda home, _: SiteHome(home).read_policy(), sign):
        with pytest.raises(TrustError, match=r"audit\.sqlite is missing"):
            action(home, key)
    assert not (home / "audit.sqlite").exists()


@pytest.mark.parametrize("lost", ["policy.signed.json", "policy.waiting.json", "both"])
def test_losing_files_does_not_make_one_person_enough(site: Site, lost: str) -> None:
    home, key = site.home.directory, site.home.open_identity()
    site.allow(people=named(Ada=ADA, Ben=BEN), approvers=2)
    wants(home, people=named(Ada=ADA), approvers=1)
    assert sign(home, key, ADA) is None
    for name in ("policy.signed.json", "policy.waiting.json"):
        if lost in (name, "both"):
            (home / name).unlink()
    with pytest.raises(PolicyError, match="2 of them must sign"):
        sign(home, key)
    assert sign(home, key, ADA) is None
    with pytest.raises(TrustError):
        SiteHome(home).read_policy()


def test_a_signature_for_one_change_does_not_count_for_the_same_change_later(site: Site) -> None:
    home, key = site.home.directory, site.home.open_identity()
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
        SiteHome(home).read_policy()


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"approvers": 2}, "needs at least 2 people with keys"),
        ({"approvers": 2, "people": named(Ada=ADA)}, "names 1"),
        ({"people": [*named(Ada=ADA), *named(Ada=BEN)]}, "the same name occurs twice"),
        ({"people": [*named(Ada=ADA), *named(Ben=ADA)]}, "the same key occurs twice"),
        ({"people": named(Ada=ADA, ada=BEN)}, "the same name occurs twice"),
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
        sign(site.home.directory, site.home.open_identity())


def test_a_log_that_is_exchanged_while_it_is_open_puts_no_policy_in_force(site: Site) -> None:
    home = site.home.directory
    with closing(site.home.open_audit_log()) as log:
        assert site.home.read_policy(log) == Policy()
        copy = home / "copy.sqlite"
        copy.write_bytes((home / "audit.sqlite").read_bytes())
        copy.replace(home / "audit.sqlite")
        with pytest.raises(TrustError, match="replaced by another file while it was open"):
            site.home.read_policy(log)
