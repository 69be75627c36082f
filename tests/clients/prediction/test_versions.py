"""Which version answers at a hospital, with a coordinator that may lie about what it decided."""

from __future__ import annotations

import errno
import json
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.policy_file import sign
from flo.clients.home.site_home import SiteHome
from flo.clients.maintenance import doctor
from flo.clients.prediction import allowed, version_decisions, version_news, versions
from flo.clients.prediction.finish import finish
from flo.errors import (
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_USAGE,
    FloError,
    PolicyError,
    RefusedError,
    StudyError,
    TrustError,
    UsageError,
)
from flo.keys.identity import Identity
from flo.published.model_card import PublishedModel
from flo.published.model_states import ModelStates, ModelVersion, Said
from tests.builders import csv_text, make_site, pretend_enrolled
from tests.clients.prediction.finished_site import patients_csv
from tests.clients.prediction.told import (
    ADA,
    ONE,
    TIME,
    TWO,
    V1,
    V9,
    Told,
    approved,
    ask,
    both_in_use,
    promote,
    told_of_both,
    withdrawn,
)
from tests.commands import Ended, flo
from tests.flo.published_models import COORDINATOR, MALLORY


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    home = make_site(tmp_path / "north")
    pretend_enrolled(home, COORDINATOR)
    return home


@pytest.fixture
def told() -> Told:
    return told_of_both()


def run(home: SiteHome, *command: str | Path) -> Ended:
    return flo("model", *command, "--home", home.directory)


def entries(home: SiteHome) -> list[tuple[Any, ...]]:
    with closing(home.open_audit_log()) as log:
        found = [one.facts for one in log.entries() if one.kind == "model-decided"]
    return [(one["version"], one["state"], one["by"]) for one in found]


# -- in use ----------------------------------------------------------------------------------------


def test_a_hospital_puts_a_version_into_use_and_keeps_its_files(site: SiteHome, told: Told) -> None:
    assert ask(site, told).current("tiny") is None, "the coordinator's word alone is not enough"
    assert promote(site, told, "tiny:1") == V1
    path = versions.current_path(site, "tiny")
    assert PublishedModel.open(path, COORDINATOR.fingerprint).card == ONE.card
    assert entries(site) == [(1, "current", "north")]


def test_to_promote_the_version_in_use_again_fetches_lost_files(site: SiteHome, told: Told) -> None:
    promote(site, told, "tiny:1")
    path = versions.current_path(site, "tiny")
    path.unlink()
    with pytest.raises(UsageError, match="the files of version 1 are not in"):
        versions.current_path(site, "tiny")
    assert promote(site, told, "tiny:1") == V1
    assert versions.current_path(site, "tiny") == path
    assert len(entries(site)) == 1, "nothing was decided"


def test_a_name_of_several_versions_is_no_version(site: SiteHome, told: Told) -> None:
    with pytest.raises(UsageError, match="several studies match: tiny:1"):
        promote(site, told, "tiny")


def test_another_model_than_the_decision_names_is_not_put_into_use(
    site: SiteHome, told: Told
) -> None:
    """The card of version 1, under another version and name."""
    wrong = ModelStates(name="lung").approved(
        ModelVersion(version=7, study=V1.study, card=V1.card), ADA
    )
    told.show(wrong)
    with pytest.raises(TrustError, match="decided on version 7 of lung, and sent tiny, version 1"):
        promote(site, told, "lung:7")
    other = V1.model_copy(update={"card": "ab" * 32})
    told.show(wrong, ModelStates(name="tiny").approved(other, ADA))
    with pytest.raises(TrustError, match="with the card"):
        promote(site, told, "tiny:1")
    assert entries(site) == []


def test_a_version_that_the_coordinator_did_not_approve_is_not_put_into_use(
    site: SiteHome, told: Told
) -> None:
    told.show(ModelStates(name="tiny").approved(V1, ADA).withdrawn(V9, ADA))
    with pytest.raises(RefusedError, match="not approved version 9 of tiny: it is withdrawn"):
        promote(site, told, "tiny:9")
    with pytest.raises(UsageError, match="no model that anybody decided on called 'lung'"):
        promote(site, told, "lung")
    assert "models" not in told.asked
    assert versions.read(site).current("tiny") is None


def test_a_policy_that_asks_for_a_gate_refuses_the_promotion_too(
    site: SiteHome, told: Told
) -> None:
    policy = site.directory / "policy.toml"
    policy.write_text(policy.read_text().replace("# gate_required", "gate_required"))
    sign(site.directory, site.open_identity())
    with pytest.raises(PolicyError, match="gate_required"):
        promote(site, told, "tiny:1")
    assert versions.read(site).current("tiny") is None


def test_a_hospital_goes_back_by_itself(site: SiteHome, told: Told) -> None:
    both_in_use(site, told)
    assert version_decisions.rollback(site, "tiny:9", "too many alarms") == ("tiny", V1)
    assert versions.read(site).current("tiny") == V1
    with pytest.raises(StudyError, match="version 9 of tiny is withdrawn already"):
        version_decisions.rollback(site, "tiny:9", "the same, by telephone")
    with pytest.raises(StudyError, match="no version of tiny that can be used was in use"):
        version_decisions.rollback(site, "tiny:1", "again")
    assert ask(site, told).current("tiny") == V1, "whatever the coordinator recommends"
    assert entries(site)[2:] == [(9, "withdrawn", "north"), (1, "current", "north")]


def test_a_hospital_withdraws_what_it_uses_and_then_none_answers(
    site: SiteHome, told: Told
) -> None:
    both_in_use(site, told)
    assert version_decisions.withdraw(site, "tiny:9", "an audit") == ("tiny", V9)
    with pytest.raises(UsageError, match="no version of tiny is in use here"):
        versions.current_path(site, "tiny")
    with pytest.raises(StudyError, match="withdrawn already"):
        version_decisions.withdraw(site, "tiny:9", "again")
    assert promote(site, told, "tiny:9") == V9, "it may change its mind"


# -- withdrawn by the coordinator ------------------------------------------------------------------


def test_what_the_coordinator_withdraws_answers_no_more(site: SiteHome, told: Told) -> None:
    both_in_use(site, told)
    withdrawn(told, V9)
    assert ask(site, told).current("tiny") == V1
    assert versions.current_path(site, "tiny").name.startswith("tiny-run-1")
    with pytest.raises(RefusedError, match=r"version 9 of tiny was withdrawn on .* by Ada: the u"):
        versions.refuse_withdrawn(site, TWO.open())
    versions.refuse_withdrawn(site, ONE.open())
    assert entries(site)[2:] == [(9, "withdrawn", "coordinator"), (1, "current", "coordinator")]
    assert ask(site, told).current("tiny") == V1
    assert len(entries(site)) == 4, "once"


def test_a_version_that_is_withdrawn_while_it_is_opened_leaves_its_place_to_the_one_before(
    site: SiteHome, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_in_use(site, told)
    refuse, seen = allowed.refuse_forbidden, list[int]()

    def news_arrive(home: SiteHome, path: Path, model: PublishedModel) -> str:
        seen.append(model.study.version)
        if len(seen) == 1:
            withdrawn(told, V9)
            ask(home, told)
        return refuse(home, path, model)

    monkeypatch.setattr(allowed, "refuse_forbidden", news_arrive)
    assert allowed.open_in_use(site, "tiny").model.study.digest == V1.study
    assert seen == [9, 1]


def test_the_last_version_that_is_withdrawn_while_it_is_opened_leaves_none(
    site: SiteHome, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(site, told, "tiny:1")
    refuse = allowed.refuse_forbidden

    def news_arrive(home: SiteHome, path: Path, model: PublishedModel) -> str:
        withdrawn(told, V1)
        ask(home, told)
        return refuse(home, path, model)

    monkeypatch.setattr(allowed, "refuse_forbidden", news_arrive)
    with pytest.raises(UsageError, match="no version of tiny is in use here"):
        allowed.open_in_use(site, "tiny")


def test_it_is_not_put_back_by_a_rollback_here(site: SiteHome, told: Told) -> None:
    both_in_use(site, told)
    withdrawn(told, V1)
    ask(site, told)
    with pytest.raises(StudyError, match="no version of tiny that can be used was in use"):
        version_decisions.rollback(site, "tiny:9", "too many alarms")
    assert versions.read(site).current("tiny") == V9


@pytest.mark.slow
def test_every_command_that_uses_a_model_refuses_it(site: SiteHome, told: Told) -> None:
    both_in_use(site, told)
    folder = site.directory.parent
    card = TWO.write(folder / "copies", "tiny-run-2")
    data = folder / "new.csv"
    data.write_text(csv_text())
    for name in ("tiny", card):
        done = flo(
            "model",
            "predict",
            name,
            "--data",
            data,
            "--out",
            folder / "s.csv",
            "--home",
            site.directory,
        )
        assert done.returncode == EXIT_OK, done.stderr
    assert "by tiny, version 9" in " ".join(done.stdout.split())
    withdrawn(told, V9)
    ask(site, told)
    (folder / "s.csv").unlink()
    commands = (
        ("predict", card, "--data", data, "--out", folder / "s.csv"),
        ("export", card, "--out", folder / "m.onnx"),
        ("finish", card),
    )
    for command in commands:
        done = run(site, *command)
        assert done.returncode == EXIT_REFUSED, (command, done.stdout)
        assert "was withdrawn on" in " ".join(done.stderr.split()), command
    assert not (folder / "s.csv").exists()
    assert not (folder / "m.onnx").exists()
    done = flo(
        "model",
        "predict",
        "tiny",
        "--data",
        data,
        "--out",
        folder / "s.csv",
        "--home",
        site.directory,
    )
    assert "by tiny, version 1" in " ".join(done.stdout.split())
    traced = run(site, "trace", folder / "s.csv")
    assert "current since" in traced.stdout


@pytest.mark.slow
def test_a_model_that_was_finished_from_it_answers_no_more(tmp_path: Path, told: Told) -> None:
    site = make_site(tmp_path / "east", "east")  # took no part, so all of its patients are new
    pretend_enrolled(site, COORDINATOR)
    both_in_use(site, told)
    population = site.read_config().population(None)
    assert population.file is not None
    patients_csv("east", population.file)
    path = versions.current_path(site, "tiny")
    made = finish(site, path, PublishedModel.open(path, COORDINATOR.fingerprint))
    data, out = site.directory.parent / "new.csv", site.directory.parent / "scores.csv"
    data.write_text(csv_text())
    command = ("predict", made.name, "--data", data, "--out", out)
    assert run(site, *command).returncode == EXIT_OK
    withdrawn(told, V9)
    ask(site, told)
    done = run(site, *command)
    assert done.returncode == EXIT_REFUSED
    assert "version 9 of tiny was withdrawn" in " ".join(done.stderr.split())


def test_who_has_not_heard_of_the_coordinator_for_long_is_told(site: SiteHome, told: Told) -> None:
    both_in_use(site, told)
    found = versions.read(site)
    assert found.late(versions.LATE) == ""
    assert found.late(timedelta(0)) == found.seen[:16]
    assert versions.Versions().late(versions.LATE) == "ever"
    old = found.model_copy(update={"seen": "2026-01-01T10:00:00.000+00:00"})
    (site.directory / "models" / "versions.json").write_bytes(old.to_bytes())
    data = site.directory.parent / "new.csv"
    data.write_text(csv_text())
    out = data.with_name("s.csv")
    done = run(site, "predict", "tiny", "--data", data, "--out", out)
    assert done.returncode == EXIT_OK
    assert "withdrew since 2026-01-01T10:00 is not known here" in " ".join(done.stdout.split())
    warned = doctor.models(site)
    assert warned.state == "warning"
    assert "2026-01-01T10:00" in warned.message


def test_a_reason_cannot_colour_or_hide_text(site: SiteHome, told: Told) -> None:
    told.show(ModelStates(name="tiny").withdrawn(V9, Said("Ada", "[bold]units[/bold] [x", TIME)))
    ask(site, told)
    assert "Ada: [bold]units[/bold] [x" in run(site, "states").stdout


def test_doctor_and_show_say_which_version_is_in_use(site: SiteHome, told: Told) -> None:
    before = doctor.models(site)
    assert (before.state, before.message) == ("ok", "none is in use")
    both_in_use(site, told)
    after = doctor.models(site)
    assert (after.state, after.message) == ("ok", "in use: tiny version 9")
    shown = run(site, "show", versions.current_path(site, "tiny"))
    assert "Decisions on this version" in shown.stdout
    assert "north: our committee said yes" in " ".join(shown.stdout.split())


# -- a coordinator that lies -----------------------------------------------------------------------


def shows_nothing(told: Told) -> None:
    told.states = []


def shows_less(told: Told) -> None:
    told.show(approved(V1, V9))


def shows_another_reason(told: Told) -> None:
    other = Said("Ada", "no reason", TIME)
    told.show(approved(V1, V9).withdrawn(V9, other))


def shows_anothers_signature(told: Told) -> None:
    told.show(approved(V1, V9).withdrawn(V9, ADA).withdrawn(V1, ADA), signer=MALLORY)


def shows_a_changed_list(told: Told) -> None:
    states = approved(V1, V9).withdrawn(V9, ADA).signed(COORDINATOR)
    last = states.decisions[-1].model_copy(update={"model": V1})
    told.states = [states.model_copy(update={"decisions": (*states.decisions[:-1], last)})]


@pytest.mark.parametrize(
    "lie",
    [
        shows_nothing,
        shows_less,
        shows_another_reason,
        shows_anothers_signature,
        shows_a_changed_list,
    ],
)
def test_a_decision_that_was_taken_back_or_forged_is_noticed(
    site: SiteHome, told: Told, lie: Any
) -> None:
    both_in_use(site, told)
    withdrawn(told, V9)
    before = ask(site, told)
    lie(told)
    with pytest.raises(version_news.RefusedListError):
        ask(site, told)
    after = versions.read(site)
    assert (after.theirs, after.own) == (before.theirs, before.own)
    assert after.seen == before.seen, "so that people are told since when nothing is known"
    assert after.current("tiny") == V1
    done = run(site, "states")  # nobody answers; what the site knows is shown all the same
    assert done.returncode == EXIT_USAGE
    assert "withdrawn" in done.stdout


def test_two_lists_of_one_name_are_none(site: SiteHome, told: Told) -> None:
    both_in_use(site, told)
    withdrawn(told, V9)
    true = told.states
    shows_less(told)
    told.states += true
    with pytest.raises(UsageError, match="two lists have the same name"):
        ask(site, told)


def test_of_a_list_that_does_not_continue_ours_the_withdrawals_count(
    site: SiteHome, told: Told
) -> None:
    """A coordinator that restored a backup withdraws what it published."""
    both_in_use(site, told)
    told.show(approved(V9).withdrawn(V9, ADA))
    with pytest.raises(version_news.RefusedListError, match="that on tiny takes back a decision"):
        ask(site, told)
    assert versions.read(site).current("tiny") == V1
    assert versions.read(site).withdrawal("tiny", V9.study) is not None
    told.show(approved(V9, V1).withdrawn(V1, ADA))
    with pytest.raises(version_news.RefusedListError):
        ask(site, told)
    assert versions.read(site).current("tiny") is None


def test_one_bad_list_keeps_no_other_from_being_believed(site: SiteHome, told: Told) -> None:
    both_in_use(site, told)
    heart = ModelStates(name="heart").approved(V1, ADA)
    told.show(approved(V1, V9), heart)
    ask(site, told)
    told.show(approved(V1, V9).withdrawn(V9, ADA), ModelStates(name="heart"))
    with pytest.raises(version_news.RefusedListError, match="that on heart takes back a decision"):
        ask(site, told)
    assert versions.read(site).current("tiny") == V1


def test_a_disk_that_is_full_after_the_withdrawal_arrived_changes_nothing_about_it(
    site: SiteHome, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was before answers at once, and is put back in the list when there is room."""
    both_in_use(site, told)
    withdrawn(told, V9)
    write, calls = versions.write, list[int]()

    def full(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "no space left on device")
        write(*arguments)

    monkeypatch.setattr(versions, "write", full)
    with pytest.raises(OSError, match="no space"):
        ask(site, told)
    assert versions.read(site).current("tiny") == V1
    assert len(entries(site)) == 2, "nothing is logged that did not happen"
    monkeypatch.undo()
    assert ask(site, told).current("tiny") == V1
    assert entries(site)[2:] == [(9, "withdrawn", "coordinator"), (1, "current", "coordinator")]


def test_after_a_change_of_the_coordinators_key_lists_are_signed_anew(
    site: SiteHome, told: Told
) -> None:
    both_in_use(site, told)
    new = Identity.new()
    info = json.loads(site.coordinator_path.read_bytes())
    told.show(approved(V1, V9).withdrawn(V9, ADA), signer=new)
    with pytest.raises(version_news.RefusedListError, match="flo site coordinator --accept"):
        ask(site, told)
    info |= {"public": new.public.hex(), "earlier": [COORDINATOR.public.hex()]}
    site.coordinator_path.write_text(json.dumps(info))
    assert ask(site, told).current("tiny") == V1


def test_a_site_of_another_coordinator_can_begin_anew(site: SiteHome, told: Told) -> None:
    both_in_use(site, told)
    withdrawn(told, V9)
    ask(site, told)
    pretend_enrolled(site, MALLORY)
    with pytest.raises(TrustError) as caught:
        versions.read(site)
    assert "--begin-anew" in caught.value.hint
    told.show(approved(V1), signer=MALLORY)
    found = version_news.begin_anew(site, cast(CoordinatorApi, told))
    assert found.withdrawal("tiny", V9.study) is not None
    assert versions.read(site).current("tiny") == V1


def test_after_beginning_anew_what_was_withdrawn_stays_withdrawn(
    site: SiteHome, told: Told
) -> None:
    """For a coordinator that restored a backup. The hospital has the last word."""
    promote(site, told, "tiny:1")
    withdrawn(told, V9)
    ask(site, told)
    shows_less(told)
    version_news.begin_anew(site, cast(CoordinatorApi, told))
    assert ask(site, told).withdrawal("tiny", V9.study) is not None
    assert versions.read(site).current("tiny") == V1
    assert promote(site, told, "tiny:9") == V9, "it may be used again, if the hospital says so"


def test_an_older_answer_that_comes_late_changes_nothing(site: SiteHome, told: Told) -> None:
    """The agent and a command ask at the same time, and the earlier answer arrives last."""
    both_in_use(site, told)
    older = Told(ONE, TWO)
    older.states = list(told.states)
    withdrawn(told, V9)
    call = older.call

    def meanwhile(name: str, body: Any) -> Any:
        answer = call(name, body)
        ask(site, told)
        return answer

    older.call = meanwhile  # type: ignore[method-assign]
    assert ask(site, older).current("tiny") == V1


@pytest.mark.parametrize("change", ["own", "theirs"])
def test_a_file_that_was_edited_here_is_refused(site: SiteHome, told: Told, change: str) -> None:
    both_in_use(site, told)
    path = site.directory / "models" / "versions.json"
    document = json.loads(path.read_bytes())
    document[change][0]["decisions"] = document[change][0]["decisions"][:1]
    path.write_text(json.dumps(document))
    with pytest.raises(TrustError):
        versions.read(site)
    done = flo(
        "model", "predict", "tiny", "--data", "x.csv", "--out", "y.csv", "--home", site.directory
    )
    assert done.returncode not in (EXIT_OK, EXIT_USAGE)


def test_a_reason_is_checked_before_anything_is_stored(site: SiteHome, told: Told) -> None:
    both_in_use(site, told)
    for why in ("", "two\nlines", "x" * 501):
        with pytest.raises(FloError, match="the decision"):
            version_decisions.rollback(site, "tiny:9", why)
    assert versions.read(site).current("tiny") == V9
    assert len(entries(site)) == 2
