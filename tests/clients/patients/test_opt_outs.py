"""A patient who does not take part is in nothing from the next round on, and in nothing later."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from flo.clients.agent.agent import Agent
from flo.clients.data_process.child_process import write_frame
from flo.clients.data_process.worker import DataProcess
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.erasure import erase
from flo.clients.patients.opt_outs import OptOuts, begin_a_new_list, id_in_data, opt_out, opted_out
from flo.clients.records import approval
from flo.clients.records.approval import snapshot_path
from flo.clients.records.members import Members
from flo.documents import canonical
from flo.errors import EXIT_OK, RefusedError, TrustError, UsageError
from flo.keys.keystore import read_secret
from flo.privacy.patients.split import keyed_hash
from flo.study.terms import Purpose
from tests.builders import data_file, small_study
from tests.clients.approved_site import Site, approved_site
from tests.clients.approving_site import enrolled_site
from tests.clients.exact_site import (
    PATIENTS,
    Exact,
    counts,
    exact,
    exact_site,
    frozen,
    frozen_without,
    one_of,
)
from tests.commands import flo
from tests.privacy.ledgers import study_of

SIDES: list[tuple[Purpose, bool]] = [("training", False), ("evaluation", True)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from exact_site(tmp_path)


# -- from the next round on -----------------------------------------------------------------------


@pytest.mark.parametrize(("purpose", "held_out"), SIDES)
def test_an_opt_out_holds_from_the_next_round(site: Site, purpose: Purpose, held_out: bool) -> None:
    patient = one_of(site.home, held_out=held_out)
    everyone, fewer = (frozen_without(site.home, site.study, *gone) for gone in ((), (patient,)))
    assert site.ask().values.tolist() == exact(site.study, everyone, "training").tolist()
    assert opt_out(site.home, patient) == [site.study.digest]
    next_one = site.ask(purpose=purpose, round=2 if purpose == "training" else 1)
    assert next_one.values.tolist() == exact(site.study, fewer, purpose).tolist()
    assert next_one.values.tolist() != exact(site.study, everyone, purpose).tolist()
    assert [copy.to_bytes() for copy in frozen(site.home)] == [fewer.to_bytes()]


class OptsOutMeanwhile(Exact):
    """While a release is computed for the first time, a patient opts out."""

    def __init__(self, home: SiteHome, patient: str) -> None:
        self.home, self.patient, self.computed = home, patient, 0

    def release(self, *asked: Any) -> Any:
        found = super().release(*asked)
        self.computed += 1
        if self.computed == 1:
            opt_out(self.home, self.patient)
        return found


@pytest.mark.parametrize("patient", [PATIENTS[0], "somebody else"], ids=["member", "stranger"])
def test_an_opt_out_exchanges_the_copy_whoever_it_was(site: Site, patient: str) -> None:
    """So the next release loads it anew for a stranger too, and its time tells nobody apart."""
    before = approval.load(site.home, site.study.digest).snapshot
    opt_out(site.home, patient)
    after = approval.load(site.home, site.study.digest).snapshot
    assert after != before
    assert [path.name for path in (site.home.directory / "snapshots").glob("*.npz")] == [
        snapshot_path(site.home, site.study.digest, after).name
    ]
    assert Members.load(site.home, site.study.digest, after) is not None
    releaser = OptsOutMeanwhile(site.home, patient)
    site.releaser = cast(Any, releaser)
    site.restart()
    assert site.ask().header.kind == "release"
    assert releaser.computed == 2  # a release under way is computed anew, for a stranger too


class OptsOutEachTime(OptsOutMeanwhile):
    """Five patients opt out, one while each try is computed."""

    def release(self, *asked: Any) -> Any:
        found = Exact.release(self, *asked)
        if self.computed < 5:
            opt_out(self.home, PATIENTS[self.computed])
        self.computed += 1
        return found


def test_a_release_is_computed_anew_for_as_many_as_opt_out_meanwhile(site: Site) -> None:
    releaser = OptsOutEachTime(site.home, "")
    site.releaser = cast(Any, releaser)
    site.restart()
    released = site.ask()
    assert released.header.kind == "release"
    assert releaser.computed == 6
    fewer = frozen_without(site.home, site.study, *PATIENTS[:5])
    assert released.values.tolist() == exact(site.study, fewer, "training").tolist()
    assert site.kinds().count("release") == 1


def test_what_was_computed_with_a_patient_who_opted_out_meanwhile_never_leaves(site: Site) -> None:
    patient = one_of(site.home, held_out=False)
    fewer = frozen_without(site.home, site.study, patient)
    releaser = OptsOutMeanwhile(site.home, patient)
    site.releaser = cast(Any, releaser)
    site.restart()
    released = site.ask()
    assert released.header.kind == "release"
    assert released.values.tolist() == exact(site.study, fewer, "training").tolist()
    assert (releaser.computed, site.kinds().count("release")) == (2, 1)
    made, _ = erase(site.home, patient)
    assert [part.releases for part in made.contributions] == [0]


def test_a_survey_counts_them_no_more(tmp_path: Path) -> None:
    for site in exact_site(tmp_path, survey=True):
        gone = [one_of(site.home, held_out=held_out) for held_out in (False, True)]
        for patient in gone:
            opt_out(site.home, patient)
        fewer = frozen_without(site.home, site.study, *gone)
        assert site.ask().values.tolist() == exact(site.study, fewer, "statistics").tolist()


def test_what_was_released_before_is_sent_again_as_it_was(site: Site) -> None:
    request = site.request()
    before = site.say(request).values.tolist()
    opt_out(site.home, one_of(site.home, held_out=False))
    assert site.say(request).values.tolist() == before
    assert site.ask(attempt=2).values.tolist() == before  # the same noisy bits, at charge 0
    assert site.kinds()[-1] == "repeat"


@pytest.mark.processes
def test_an_agent_loads_an_exchanged_copy_before_anybody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flo.clients.agent.agent._RELOAD_SECONDS", 0.01)
    for site in approved_site(tmp_path):
        agent = Agent(site.home, "cpu")
        worker, study = agent._worker, site.study.digest
        frozen_copy = approval.load(site.home, study).snapshot
        worker.warm_up(site.study, snapshot_path(site.home, study, frozen_copy), frozen_copy)
        watching = threading.Thread(target=agent._reload_exchanged)
        watching.start()
        try:
            for patient in (PATIENTS[0], "somebody else"):
                opt_out(site.home, patient)
                exchanged = approval.load(site.home, study).snapshot
                end = time.monotonic() + 30
                while worker._loaded != {study: exchanged}:
                    assert time.monotonic() < end
                    time.sleep(0.01)
        finally:
            agent._stopping.set()
            watching.join()
            worker.stop()


@pytest.mark.processes
def test_the_data_process_forgets_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def overheard(pipe: Any, header: dict[str, Any], body: bytes = b"") -> None:
        told.append(str(header.get("digest", header["do"])))
        write_frame(pipe, header, body)

    monkeypatch.setattr("flo.clients.data_process.worker.write_frame", overheard)
    for site in approved_site(tmp_path):
        home = site.home.directory
        worker = DataProcess("cpu", home / "snapshots", home / "identity.key", tuple)
        site.releaser = cast(Any, worker)
        site.restart()
        digests = []
        for number in (1, 2):
            digests.append(approval.load(site.home, site.study.digest).snapshot)
            assert site.ask(round=number).header.kind == "release"
            opt_out(site.home, PATIENTS[number])
        worker.stop()
        assert told == [digests[0], "release", digests[1], "release"]
        assert digests[0] != digests[1]


@pytest.mark.parametrize("spelling", ["{}", " {} ", "\t{}\n"])
def test_they_are_in_no_study_that_is_approved_later(tmp_path: Path, spelling: str) -> None:
    site = enrolled_site(tmp_path)
    patient, other = PATIENTS[1:3]
    assert opt_out(site.home, spelling.format(patient.upper())) == []
    assert opt_out(site.home, other) == []
    offer = site.offer()
    approved = site.approve(offer)
    members = Members.load(site.home, offer.study.digest, approved.snapshot)
    assert members is not None
    for name in (patient, other):
        assert members.side_of(keyed_hash(site.home.open_patients_key(), name)) is None
    fewer = frozen_without(site.home, offer.study, patient, other)
    assert [copy.to_bytes() for copy in frozen(site.home)] == [fewer.to_bytes()]
    assert len(members.training) + len(members.held_out) == counts(fewer) == 38


def test_all_of_a_patients_records_go(tmp_path: Path) -> None:
    site = enrolled_site(tmp_path)
    path = data_file(site.home)
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text(header + "".join(lines + lines[::-2] + lines[1:3] * 5))
    many = small_study().data.model_copy(update={"records_per_patient": "many", "most_records": 8})
    offer = site.offer(small_study(data=many.model_dump(mode="json", exclude_none=True)))
    site.approve(offer)
    gone: list[str] = []
    for patient in PATIENTS[::3]:
        gone.append(patient)
        opt_out(site.home, patient)
        fewer = frozen_without(site.home, offer.study, *gone)
        assert [copy.to_bytes() for copy in frozen(site.home)] == [fewer.to_bytes()]


def test_one_opt_out_reaches_every_study(tmp_path: Path) -> None:
    site = enrolled_site(tmp_path)
    offers = [site.offer(study_of(0.3, name)) for name in ("one", "two")]
    for offer in offers:
        site.approve(offer)
    patient = PATIENTS[0]
    assert sorted(opt_out(site.home, patient)) == sorted(offer.study.digest for offer in offers)
    assert [counts(copy) for copy in frozen(site.home)] == [39, 39]


# -- the list -------------------------------------------------------------------------------------


def test_the_list_holds_keyed_hashes_and_no_file_an_id(site: Site) -> None:
    patient = one_of(site.home, held_out=False)
    site.ask()
    opt_out(site.home, patient)
    erase(site.home, patient)
    path = site.home.directory / "optouts.sealed"
    opened = read_secret(path, site.home.open_keystore(), "opt-outs")
    hashed = keyed_hash(site.home.open_patients_key(), patient)
    assert json.loads(opened)["patients"] == [hashed]
    assert path.stat().st_mode & 0o777 == 0o600
    approved = approval.load(site.home, site.study.digest)
    members = Members.load(site.home, site.study.digest, approved.snapshot)
    assert members is not None
    texts = [opened, members.model_dump_json().encode()]
    texts += [p.read_bytes() for p in site.home.directory.rglob("*") if p.is_file()]
    assert len(texts) > 15
    for text in texts:
        assert patient.encode() not in text
        assert canonical.digest(patient.encode()).encode() not in text


def test_an_opt_out_twice_is_an_opt_out_once(site: Site) -> None:
    patient = PATIENTS[0]
    assert opt_out(site.home, patient) == [site.study.digest]
    before = frozen(site.home)[0].to_bytes()
    assert opt_out(site.home, f" {patient.upper()}") == []
    assert frozen(site.home)[0].to_bytes() == before
    assert len(OptOuts.load(site.home).patients) == 1


def test_one_whom_no_study_holds_is_noted_and_changes_none(site: Site) -> None:
    before = frozen(site.home)[0].to_bytes()
    assert opt_out(site.home, "somebody else") == []
    assert frozen(site.home)[0].to_bytes() == before
    assert counts(frozen(site.home)[0]) == 40
    assert len(OptOuts.load(site.home).patients) == 1


@pytest.mark.parametrize("nobody", ["", "  ", "\n"])
def test_nobody_is_no_patient(site: Site, nobody: str) -> None:
    for ask in (opt_out, erase):
        with pytest.raises(UsageError, match="no patient id"):
            ask(site.home, nobody)
    assert not (site.home.directory / "optouts.sealed").exists()
    assert list((site.home.directory / "erasures").iterdir()) == []
    assert counts(frozen(site.home)[0]) == 40


def test_the_ledger_keeps_what_was_released_and_the_log_names_nobody(site: Site) -> None:
    site.ask()
    rows, charged = [(r.sequence, r.public) for r in site.ledger.rows()], site.charged()
    opt_out(site.home, PATIENTS[0])
    assert [(r.sequence, r.public) for r in site.ledger.rows()] == rows
    assert site.charged() == charged
    with closing(site.home.open_audit_log()) as log:
        (entry,) = [entry for entry in log.entries() if entry.kind == "opt-out"]
    assert (entry.study, entry.facts["studies"], entry.facts["listed"]) == (None, 1, 1)
    assert PATIENTS[0] not in str(entry)


# -- the list cannot be lost ----------------------------------------------------------------------


def remove(path: Path, before: bytes) -> None:
    path.unlink()


def put_back_an_older_one(path: Path, before: bytes) -> None:
    path.write_bytes(before)


def put_one_in_the_clear(path: Path, before: bytes) -> None:
    path.write_bytes(canonical.encode(OptOuts().model_dump(mode="json")))


@pytest.mark.parametrize("tamper", [remove, put_back_an_older_one, put_one_in_the_clear])
def test_a_list_that_is_not_the_newest_stops_every_approval(
    tmp_path: Path, tamper: Callable[[Path, bytes], None]
) -> None:
    site = enrolled_site(tmp_path)
    path = site.home.directory / "optouts.sealed"
    opt_out(site.home, PATIENTS[1])
    before = path.read_bytes()
    opt_out(site.home, PATIENTS[2])
    opt_out(site.home, PATIENTS[3])
    newest = path.read_bytes()
    tamper(path, before)
    site.refuses(site.offer(), TrustError, "older than the audit log|changed", heads=True)
    with pytest.raises(TrustError):
        opt_out(site.home, PATIENTS[4])
    path.write_bytes(newest)
    site.approve(site.offer())


def test_a_list_that_is_lost_for_good_is_begun_anew_and_the_log_says_so(tmp_path: Path) -> None:
    site = enrolled_site(tmp_path)
    for patient in PATIENTS[1:3]:
        opt_out(site.home, patient)
    (site.home.directory / "optouts.sealed").unlink()
    begin_a_new_list(site.home)
    opt_out(site.home, PATIENTS[3])
    assert opted_out(site.home, set(PATIENTS)) == {PATIENTS[3]}
    with closing(site.home.open_audit_log()) as log:
        listed = [e.facts["listed"] for e in log.entries() if e.kind == "opt-out"]
    assert listed == [1, 2, 0, 1]


@pytest.mark.parametrize("listed", [0, 2])
def test_a_list_that_is_there_is_never_begun_anew(tmp_path: Path, listed: int) -> None:
    site = enrolled_site(tmp_path)
    for patient in PATIENTS[:listed]:
        opt_out(site.home, patient)
    with pytest.raises(RefusedError, match=f"is not lost: it has {listed} patients"):
        begin_a_new_list(site.home)
    assert opted_out(site.home, set(PATIENTS)) == set(PATIENTS[:listed])


def test_two_opt_outs_that_were_cut_off_before_their_entries_lock_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = enrolled_site(tmp_path)

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    for patient in PATIENTS[1:4]:
        with monkeypatch.context() as power:
            power.setattr("flo.clients.patients.opt_outs.sweep", cut_off)
            with pytest.raises(KeyboardInterrupt):
                opt_out(site.home, patient)
    opt_out(site.home, PATIENTS[4])
    assert opted_out(site.home, set(PATIENTS)) == set(PATIENTS[1:5])
    site.approve(site.offer())


@pytest.mark.slow
def test_nobody_opts_out_while_a_study_is_being_approved_and_the_other_way_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flo.clients.home.site_home._DECISION_SECONDS", 0.2)
    site = enrolled_site(tmp_path)
    with site.home.decision_lock():
        with pytest.raises(RefusedError, match="another decision is being made"):
            opt_out(site.home, PATIENTS[1])
        site.refuses(site.offer(), RefusedError, "another decision is being made")
    assert opt_out(site.home, PATIENTS[1]) == []


def test_an_opt_out_is_done_while_the_data_are_away_and_that_is_said(tmp_path: Path) -> None:
    home = enrolled_site(tmp_path).home
    path = home.read_config().populations[0].file
    assert path is not None
    path.unlink()
    written = tmp_path / "said.json"
    done = flo(
        *("site", "opt-out", "--home", home.directory, "--json", written), typed=f"{PATIENTS[1]}\n"
    )
    assert done.returncode == EXIT_OK
    assert "could not look for this id in the data files" in done.stdout
    assert json.loads(written.read_text())["known"] is None
    assert opted_out(home, PATIENTS) == {PATIENTS[1]}


def test_an_id_that_no_file_holds_is_noticed(tmp_path: Path) -> None:
    home = enrolled_site(tmp_path).home
    assert id_in_data(home, f"  {PATIENTS[1].upper()} ")
    for other in (f"0{PATIENTS[1]}", PATIENTS[1][:-1], "nobody"):
        assert not id_in_data(home, other)
