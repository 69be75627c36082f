"""Where the policy names people, as many as it asks for say yes, each with a key of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flo.audit.log import AuditLog
from flo.clients.approvals.approve import approve, terms_of
from flo.clients.approvals.approvers import add_approver, load_key, new_key
from flo.clients.approvals.decline import refuse
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.offers import Offered
from flo.clients.home.policy import Policy
from flo.clients.home.policy_file import sign, write_toml
from flo.clients.records.approval import Approval, approved_digests, pending_path
from flo.documents import canonical
from flo.errors import FloError, MessageError, PolicyError, TrustError, UsageError
from flo.keys.identity import Identity
from flo.keys.rotation import KeyRotation
from flo.protocol.decisions import PersonApproval, Terms
from flo.server.api.site_api import SiteApi
from flo.server.audit.rate_limited import RateLimitedAudit
from flo.server.keys.authority import Authority, Peer
from flo.server.store.store import Store
from tests.builders import data_file, small_study
from tests.clients.approving_site import Site, enrolled_site

ADA, BEN, EVE = Identity.new(), Identity.new(), Identity.new()
ROLES = {"Ada": "steward", "Ben": "data protection officer", "Eve": "physician"}
KEYS = {"Ada": ADA, "Ben": BEN, "Eve": EVE}
PASSPHRASE = b"correct horse battery"
People = tuple[PersonApproval, ...]


def rules(*names: str, approvers: int = 2) -> Policy:
    people = [{"name": n, "role": ROLES[n], "public": KEYS[n].public.hex()} for n in names]
    return Policy.model_validate({"approvers": approvers, "people": people})


@dataclass
class Hospital:
    """A site whose policy asks two of Ada and Ben, and one study on offer."""

    site: Site
    offer: Offered = field(init=False)

    def __post_init__(self) -> None:
        self.offer = self.site.offer()
        self.changes_its_policy(rules("Ada", "Ben"))

    def changes_its_policy(self, policy: Policy, by: tuple[Identity | None, ...] = (None,)) -> None:
        write_toml(self.site.home.directory / "policy.toml", policy)
        for person in by:
            sign(self.site.home.directory, self.site.home.open_identity(), person)

    @property
    def terms(self) -> Terms:
        patients = self.site.home.read_config().population(None)
        return terms_of(self.site.home, self.offer.study, patients, if_broken=False)

    def hears(self, key: Identity | None) -> People:
        return add_approver(self.site.home, self.offer.study, self.terms, key)

    def approves(self, people: People) -> Approval:
        api, patients = (
            cast(CoordinatorApi, self.site.api),
            self.site.home.read_config().population(None),
        )
        return approve(self.site.home, api, self.offer, patients, people=people)

    def refuses(self, people: People, error: type[FloError], why: str) -> None:
        """Nothing is reserved, kept or told; the ledger's head may be compared."""
        with pytest.raises(error, match=why):
            self.approves(people)
        assert (self.site.kinds(), approved_digests(self.site.home)) == (["birth"], [])
        assert {call for call, _ in self.site.api.calls} <= {"heads"}

    @property
    def waiting(self) -> Path:
        return pending_path(self.site.home, self.offer.study.digest)

    def given(self, key: Identity, **changes: str) -> PersonApproval:
        """Ada's yes as it should be but for ``changes``, signed by this key."""
        asked = {
            "name": "Ada",
            "role": ROLES["Ada"],
            "study": self.offer.study.digest,
            "hospital": "north",
            "terms": self.terms.digest,
            "time": "2026-11-25T12:00:00+00:00",
        }
        return PersonApproval.given(key, **cast(Any, asked | changes))


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(enrolled_site(tmp_path))


# -- yes ------------------------------------------------------------------------------------------


def test_two_people_must_say_yes(hospital: Hospital) -> None:
    first = hospital.hears(ADA)
    hospital.refuses(first, PolicyError, "1 of 2 required people have approved")
    both = hospital.hears(BEN)
    decision = hospital.approves(both).read_decision()
    assert [(p.name, p.role) for p in decision.people] == [
        ("Ada", "steward"),
        ("Ben", "data protection officer"),
    ]
    for person, key in zip(decision.people, (ADA, BEN), strict=True):
        person.check(hospital.offer.study.digest, "north", decision.terms.digest, key.fingerprint)
    assert hospital.site.kinds() == ["birth", "reserve"]
    assert not hospital.waiting.exists()


def test_they_may_say_yes_in_any_order(hospital: Hospital) -> None:
    hospital.refuses((), PolicyError, "0 of 2 required people")
    hospital.hears(BEN)
    decision = hospital.approves(hospital.hears(ADA)).read_decision()
    assert [person.name for person in decision.people] == ["Ben", "Ada"]


def test_one_of_many_is_enough_where_the_policy_asks_for_one(hospital: Hospital) -> None:
    hospital.changes_its_policy(rules("Ada", "Ben", approvers=1), by=(ADA, BEN))
    hospital.approves(hospital.hears(BEN))
    assert hospital.site.kinds() == ["birth", "reserve"]


def test_each_yes_is_in_the_audit_log_with_name_and_role(hospital: Hospital) -> None:
    hospital.hears(ADA)
    hospital.approves(hospital.hears(BEN))
    log = hospital.site.home.open_audit_log()
    about = hospital.offer.study.digest
    entries = [(e.kind, e.facts) for e in log.entries() if e.study == about]
    log.close()
    assert [facts for kind, facts in entries if kind == "person-approved"] == [
        {"name": name, "role": ROLES[name]} for name in ("Ada", "Ben")
    ]
    assert [facts["people"] for kind, facts in entries if kind == "approved"] == [["Ada", "Ben"]]


def test_an_approval_that_failed_for_another_reason_is_made_by_asking_the_last_person_again(
    hospital: Hospital,
) -> None:
    data = data_file(hospital.site.home)
    text = data.read_text()
    data.write_text(text.replace(",a,", ",z,"))
    hospital.hears(ADA)
    both = hospital.hears(BEN)
    hospital.refuses(both, FloError, "codebook")
    data.write_text(text)
    assert hospital.hears(BEN) == both
    hospital.approves(both)


def test_a_refusal_forgets_who_said_yes(hospital: Hospital) -> None:
    hospital.hears(ADA)
    api = cast(CoordinatorApi, hospital.site.api)
    refuse(hospital.site.home, api, hospital.offer.study.digest, "Not now.")
    assert [p.name for p in hospital.hears(BEN)] == ["Ben"]


# -- no -------------------------------------------------------------------------------------------


def test_the_same_person_does_not_count_twice(hospital: Hospital) -> None:
    (ada,) = hospital.hears(ADA)
    with pytest.raises(PolicyError, match="Ada has already approved"):
        hospital.hears(ADA)
    hospital.refuses((ada, ada), PolicyError, "required people have approved")
    later = hospital.given(ADA, time="2026-11-26T12:00:00+00:00")
    hospital.refuses((ada, later), PolicyError, "required people have approved")


@pytest.mark.parametrize(
    ("changes", "key", "error", "says"),
    [
        ({"name": "Eve"}, EVE, PolicyError, r"Eve \(steward\) is not among"),
        ({}, EVE, TrustError, "another key"),
        ({"name": "Ben", "role": ROLES["Ben"]}, ADA, TrustError, "another key"),
        ({"role": "physician"}, ADA, PolicyError, r"Ada \(physician\) is not among"),
        ({"study": "a" * 64}, ADA, TrustError, "does not match"),
        ({"hospital": "south"}, ADA, TrustError, "does not match"),
        ({"terms": "a" * 64}, ADA, TrustError, "Ada approved on other terms"),
    ],
    ids=[
        "stranger",
        "stranger's key",
        "another's name",
        "role",
        "another study",
        "hospital",
        "terms",
    ],
)
def test_a_yes_that_is_not_what_it_should_be_counts_for_nothing(
    hospital: Hospital, changes: dict[str, str], key: Identity, error: type[FloError], says: str
) -> None:
    false = hospital.given(key, **changes)
    ben = hospital.hears(BEN)
    hospital.refuses((*ben, false), error, says)
    hospital.approves((*ben, hospital.given(ADA)))


def test_a_key_of_a_stranger_or_none_or_one_that_is_not_needed_is_refused(
    hospital: Hospital,
) -> None:
    with pytest.raises(PolicyError, match="key is not one of those"):
        hospital.hears(EVE)
    with pytest.raises(PolicyError, match="names the people who must approve"):
        hospital.hears(None)
    assert not hospital.waiting.exists()
    hospital.changes_its_policy(Policy(), by=(ADA, BEN))
    with pytest.raises(PolicyError, match="names no people"):
        hospital.hears(ADA)
    assert hospital.hears(None) == ()


Edit = Callable[[dict[str, Any]], Any]


def other_end(signature: str) -> str:
    """The same but for its last digit."""
    return signature[:-1] + ("1" if signature.endswith("0") else "0")


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lambda ada: ada.update(role="physician"), PolicyError),
        (lambda ada: ada.update(time="2026-11-25T12:00:00+00:00"), TrustError),
        (lambda ada: ada.update(signature=other_end(ada["signature"])), TrustError),
        (lambda ada: ada.update(public=EVE.public.hex()), PolicyError),
        (lambda ada: ada.update(name="Eve"), PolicyError),
        (lambda ada: ada.update(hospital="north"), UsageError),
        (lambda ada: ada.pop("signature"), UsageError),
    ],
    ids=["role", "time", "signature", "key", "name", "more", "less"],
)
def test_an_edited_waiting_file_approves_nothing(
    hospital: Hospital, edit: Edit, error: type[FloError]
) -> None:
    hospital.hears(ADA)
    document = json.loads(hospital.waiting.read_text())
    edit(document["people"][0])
    hospital.waiting.write_bytes(canonical.encode(document))
    with pytest.raises(error):
        hospital.approves(hospital.hears(BEN))
    assert hospital.site.kinds() == ["birth"]


def test_a_waiting_file_that_was_cut_off_approves_nothing(hospital: Hospital) -> None:
    hospital.hears(ADA)
    hospital.waiting.write_bytes(hospital.waiting.read_bytes()[:-5])
    with pytest.raises(MessageError):
        hospital.hears(BEN)


def test_a_yes_that_was_copied_to_another_study_approves_nothing(hospital: Hospital) -> None:
    hospital.hears(ADA)
    other = hospital.site.offer(small_study(name="other"))
    pending_path(hospital.site.home, other.study.digest).write_bytes(hospital.waiting.read_bytes())
    hospital.offer = other
    hospital.refuses(hospital.hears(BEN), TrustError, "does not match")


def test_a_person_whom_the_policy_no_longer_names_does_not_count(hospital: Hospital) -> None:
    ada = hospital.hears(ADA)
    hospital.changes_its_policy(rules("Ben", "Eve"), by=(ADA, BEN))
    hospital.refuses((*ada, *hospital.hears(BEN)[1:]), PolicyError, r"Ada \(steward\) is not among")


def test_those_who_are_still_named_can_approve_without_the_one_who_left(
    hospital: Hospital,
) -> None:
    hospital.hears(ADA)
    hospital.changes_its_policy(rules("Ben", "Eve"), by=(ADA, BEN))
    hospital.hears(BEN)
    hospital.approves(hospital.hears(EVE))


@pytest.mark.parametrize(
    "change", ["the code", "the policy", "the charge"], ids=["code", "policy", "charge"]
)
def test_a_yes_on_other_terms_is_said_again(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    hospital.hears(ADA)
    if change == "the code":
        monkeypatch.setattr("flo.clients.approvals.approve.code_digest", lambda: "c" * 64)
    if change == "the policy":
        changed = rules("Ada", "Ben").model_copy(update={"minimum_cohort": 2})
        hospital.changes_its_policy(changed, by=(ADA, BEN))
    terms = hospital.terms
    if change == "the charge":
        terms = terms.model_copy(update={"charged": "if-broken"})
    home, study = hospital.site.home, hospital.offer.study
    assert [p.name for p in add_approver(home, study, terms, BEN)] == ["Ben"]
    assert [p.name for p in add_approver(home, study, terms, ADA)] == ["Ben", "Ada"]


# -- keys -----------------------------------------------------------------------------------------


def test_a_key_is_opened_by_its_passphrase_only(tmp_path: Path) -> None:
    path = tmp_path / "ada.key"
    made = new_key(path, PASSPHRASE)
    assert load_key(path, PASSPHRASE).fingerprint == made.fingerprint
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in path.read_bytes()
    for wrong in (b"", b"correct horse batterz", PASSPHRASE + b"\n"):
        with pytest.raises(TrustError, match="the passphrase is wrong"):
            load_key(path, wrong)


def test_a_key_is_never_written_over_nor_made_with_a_short_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "ada.key"
    with pytest.raises(UsageError, match="at least 12"):
        new_key(path, b"eleven char")
    assert not path.exists()
    made = new_key(path, b"twelve chars")
    with pytest.raises(UsageError, match="exists already"):
        new_key(path, PASSPHRASE)
    assert load_key(path, b"twelve chars").fingerprint == made.fingerprint


def _pem(curve: ec.EllipticCurve, passphrase: bytes | None) -> bytes:
    how = serialization.BestAvailableEncryption(passphrase) if passphrase else None
    return ec.generate_private_key(curve).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        how or serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"no key", _pem(ec.SECP384R1(), None), _pem(ec.SECP256R1(), PASSPHRASE)],
    ids=["empty", "text", "in the clear", "another curve"],
)
def test_a_file_that_is_no_persons_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.key"
    path.write_bytes(content)
    with pytest.raises(TrustError):
        load_key(path, PASSPHRASE)
    with pytest.raises(UsageError, match="no key file at"):
        load_key(tmp_path / "other.key", PASSPHRASE)


# -- at the coordinator ---------------------------------------------------------------------------


def test_the_coordinator_accepts_it_and_enters_who_said_yes(
    hospital: Hospital, tmp_path: Path
) -> None:
    hospital.hears(ADA)
    hospital.approves(hospital.hears(BEN))
    name, body = hospital.site.api.calls[-1]
    store, study = Store(tmp_path / "coordinator.sqlite"), hospital.offer.study
    store.add_study(study, hospital.offer.signature)
    api = SiteApi(
        store,
        cast(Authority, None),
        Identity.new(),
        cast(AuditLog, None),
        KeyRotation(steps=()),
        lambda member: None,
        RateLimitedAudit(store),
    )
    peer = Peer("north", "site", "1", hospital.site.home.open_identity().public)
    api.call(f"/v1/site/{name}", peer, canonical.encode(body))
    assert store.approvals(study.digest) == ["north"]
    event = list(store.events(study.digest))[-1]
    assert event["kind"] == "approved"
    assert event["facts"]["people"] == ["Ada (steward)", "Ben (data protection officer)"]
    store.close()
