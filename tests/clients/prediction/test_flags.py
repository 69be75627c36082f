"""From which risk on a patient is flagged: nobody is until a person has decided, for one model."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.clients.approvals.approvers import new_key
from flo.clients.home.policy_file import sign
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import opt_out
from flo.clients.prediction import flag_decisions
from flo.clients.prediction.flag_decisions import rule_for
from flo.clients.prediction.flag_judge import FEWEST, Judged, JudgedGroup, file_to_judge, judge
from flo.clients.prediction.flag_rule import FlagRule
from flo.clients.prediction.trace import PredictionRecord, record_path
from flo.errors import (
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_USAGE,
    DataError,
    PolicyError,
    RefusedError,
    TrustError,
    UsageError,
)
from flo.keys.identity import Identity
from flo.privacy.releases import evaluation, score_waves
from flo.published.model_card import PublishedModel
from flo.storage.files import make_private_directory, write_private
from flo.study.synthetic import encoded
from tests.builders import csv_text, make_site, pretend_enrolled
from tests.clients.approved_site import approved_site
from tests.commands import Ended, flo
from tests.flo import published_models
from tests.flo.published_models import COORDINATOR, EVALUATED_BY_WARD, Made, made, signed_study

BY_WARD = {"a": 0.6, "b": 0.3, "c": 0.5, "missing": 0.4}
WHY = "the committee of 3 May"


@pytest.fixture(autouse=True)
def by_ward(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The gated study of the tests, evaluated by ward."""
    monkeypatch.setitem(published_models.STUDIES, "by ward", EVALUATED_BY_WARD)
    signed_study.cache_clear()
    yield
    signed_study.cache_clear()


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    home = make_site(tmp_path / "north")
    pretend_enrolled(home, COORDINATOR)
    return home


def unequal() -> Made:
    """A model whose evaluation says that the ill of ward b have lower scores than others."""
    places = (np.arange(400) + 0.5) / 400
    waves = []
    for shift in (0.2, 0.1, 0.2, 0.2):
        waves += [score_waves.vectors(0.8 * places).sum(0)]
        waves += [score_waves.vectors(shift + (1 - shift) * places).sum(0)]
    values = (30 * np.concatenate(waves) + 0.125).round(6).tolist()
    assert list(evaluation.groupings(published_models.STUDIES["by ward"])) == ["ward"]
    return made("by ward", evaluated={"hospitals": ["north", "south"], "values": values})


def steep(model: PublishedModel) -> PublishedModel:
    """The same with scores that follow age alone: log odds of -3 to 3."""
    return replace(model, weights=np.array([3.0, 0.0, 0.0, 0.0, 0.0, 0.0]))


def age_of(model: PublishedModel, risk: float) -> float:
    """The age at which the steep model states a risk."""
    ages = np.linspace(0, 100, 10_001)
    cells = {"age": ages, "ward": np.zeros(len(ages))}
    assert model.card.calibration is not None
    found = model.card.calibration.of(steep(model).log_odds(encoded(model.study.data, cells)))[0]
    return float(ages[np.argmin(np.abs(found - risk))])


def rule_of(model: PublishedModel, groups: dict[str, float] | None = None) -> FlagRule:
    if not groups:
        return rule_for(model, 0.5, "Ada", WHY)
    return rule_for(model, 0.5, "Ada", WHY, column="ward", groups=groups, judged="ab" * 32)


def file_of(path: Path, *people: tuple[int, str, float, int]) -> Path:
    """Patients as (how many, ward, age, whether ill)."""
    rows = ["patient_id,age,ward,ill"]
    for many, ward, age, ill in people:
        rows += [f"p{len(rows) + i},{age:.3f},{ward},{ill}" for i in range(many)]
    path.write_text("\n".join(rows) + "\n")
    return path


# -- the rule --------------------------------------------------------------------------------------


def test_each_patient_is_flagged_from_the_threshold_of_their_group_on() -> None:
    model = made("by ward").open()
    wards = {"a": 0.0, "b": 1.0, "c": 2.0, "missing": -1.0}
    for rule, limits in ((rule_of(model, BY_WARD), BY_WARD), (rule_of(model), {})):
        for ward, place in wards.items():
            limit = limits.get(ward, 0.5)
            ages = np.array([age_of(model, limit) + step for step in (-1.0, -0.1, 0.1, 1.0)])
            inputs = encoded(model.study.data, {"age": ages, "ward": np.full(4, place)})
            flagged = rule.flagged(model, inputs, steep(model).log_odds(inputs))
            assert flagged.tolist() == [False, False, True, True], ward


@pytest.mark.parametrize(
    "wrong",
    [
        {"column": "ward"},
        {"groups": [{"group": "a", "risk": 0.5}]},
        {"judged": "ab" * 32},
        {"column": "ward", "groups": [{"group": "a", "risk": 0.5}]},
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"by": ""},
        {"why": "two\nlines"},
        {"schema_version": 2},
    ],
    ids=str,
)
def test_what_is_no_rule_is_refused(wrong: dict[str, Any]) -> None:
    rule = rule_of(made("by ward").open())
    with pytest.raises(ValueError, match="validation error"):
        FlagRule.model_validate(rule.model_dump() | wrong)


def test_a_risk_that_is_written_as_the_threshold_is_flagged() -> None:
    model = made("by ward").open()
    inputs = encoded(model.study.data, {"age": np.arange(101.0), "ward": np.zeros(101)})
    odds = steep(model).log_odds(inputs)
    assert model.card.calibration is not None
    for written in (f"{risk:.6f}" for risk in model.card.calibration.of(odds)[0][40:60]):
        rule = rule_for(model, float(written), "Ada", WHY)
        flagged = rule.flagged(model, inputs, odds)
        risks = [f"{risk:.6f}" for risk in model.card.calibration.of(odds)[0]]
        assert flagged.tolist() == [float(risk) >= float(written) for risk in risks]
        assert written in {r for r, yes in zip(risks, flagged, strict=True) if yes}


def test_a_risk_that_the_card_hardly_knows_is_no_threshold() -> None:
    model = made("by ward").open()
    curve = model.card.calibration
    assert curve is not None
    wide = curve.model_copy(update={"low": (0.01, 0.02, 0.03), "high": (0.7, 0.8, 0.9)})
    model = replace(model, card=model.card.model_copy(update={"calibration": wide}))
    with pytest.raises(UsageError, match=r"only as 0\.02 to 0\.8"):
        rule_for(model, 0.4, "Ada", WHY)


def test_a_rule_belongs_to_one_card_and_to_this_hospital(site: SiteHome, tmp_path: Path) -> None:
    model, other = made("by ward").open(), made("by ward", run="run-2").open()
    assert flag_decisions.read(site, model) is None
    kept = flag_decisions.decide(site, rule_of(model, BY_WARD), None)
    assert flag_decisions.read(site, model) == kept
    assert flag_decisions.read(site, other) is None, "another card needs another decision"
    path = flag_decisions.path_of(site, kept.digest)
    whole = path.read_text()
    for old, new in (("0.3", "0.2"), ("Ada", "Eve"), (kept.signature[:4], "0000"), (whole, "{")):
        write_private(path, whole.replace(old, new).encode())
        with pytest.raises(TrustError, match="rule") as refused:
            flag_decisions.read(site, model)
        assert "--off --sign" in refused.value.hint
    path.unlink()
    with pytest.raises(TrustError, match="is missing"):
        flag_decisions.read(site, model)
    flag_decisions.withdraw(site, model, "Rosa", "it was damaged")
    assert flag_decisions.read(site, model) is None
    foreign = make_site(tmp_path / "south", "south").open_identity()
    for wrong, why in (
        (rule_of(model).signed(foreign, None), "not this hospital's"),
        (rule_of(other).signed(site.open_identity(), None), "about another model"),
        (rule_of(model, {"a": 0.5, "b": 0.4}).signed(site.open_identity(), None), "another model"),
    ):
        put_into_force(site, model, wrong)
        with pytest.raises(TrustError, match=why):
            flag_decisions.read(site, model)


def put_into_force(site: SiteHome, model: PublishedModel, rule: FlagRule) -> None:
    """As one would who can write in the site's folder and its log."""
    make_private_directory(site.directory / "models")
    write_private(flag_decisions.path_of(site, rule.digest), rule.to_bytes())
    facts = {"rule": rule.digest, "card": model.card.digest, "name": rule.name}
    site.record("flag-rule", model.study.digest, on=True, **facts)


def test_an_older_rule_that_is_put_back_has_no_effect(site: SiteHome) -> None:
    model = made("by ward").open()
    first = flag_decisions.decide(site, rule_for(model, 0.2, "Ada", WHY), None)
    second = flag_decisions.decide(site, rule_for(model, 0.6, "Ada", WHY), None)
    assert flag_decisions.path_of(site, first.digest).exists(), "rules are kept"
    assert flag_decisions.read(site, model) == second
    flag_decisions.withdraw(site, model, "Rosa", "too many alarms")
    write_private(flag_decisions.path_of(site, first.digest), first.to_bytes())
    assert flag_decisions.read(site, model) is None
    assert [(one["on"], one.get("threshold")) for one in entries(site)] == [
        *((True, 0.2), (True, 0.6), (False, None))
    ]
    assert [one.get("rule") for one in entries(site)] == [first.digest, second.digest, None]


@pytest.mark.parametrize(
    ("by", "why"), [("", "why"), ("Ada", ""), ("Ada\n2026 a line", "why"), ("Ada", "x" * 501)]
)
def test_nobody_ends_a_rule_without_a_name_and_a_reason(site: SiteHome, by: str, why: str) -> None:
    model = made("by ward").open()
    kept = flag_decisions.decide(site, rule_of(model), None)
    with pytest.raises(UsageError):
        flag_decisions.withdraw(site, model, by, why)
    assert flag_decisions.read(site, model) == kept


def test_a_rule_whose_file_could_not_be_written_is_not_in_force(
    site: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made("by ward").open()
    kept = flag_decisions.decide(site, rule_of(model), None)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(flag_decisions, "write_private", full)
    with pytest.raises(OSError, match="No space"):
        flag_decisions.decide(site, rule_for(model, 0.3, "Ada", WHY), None)
    assert flag_decisions.read(site, model) == kept
    assert len(entries(site)) == 1


def test_where_the_policy_names_people_one_of_them_signs(site: SiteHome, tmp_path: Path) -> None:
    model = made("by ward").open()
    assert flag_decisions.who_decides(site, "Ada", None) == "Ada"
    with pytest.raises(UsageError, match="was not given"):
        flag_decisions.who_decides(site, None, None)
    key, stranger = (new_key(tmp_path / name, b"a long passphrase") for name in ("rosa", "eve"))
    with pytest.raises(UsageError, match="names no people"):
        flag_decisions.who_decides(site, None, key)
    rosa = f'name = "Rosa"\nrole = "steward"\npublic = "{key.public.hex()}"'
    text = f"approvers = 1\n[[people]]\n{rosa}\n"
    (site.directory / "policy.toml").write_text(text)
    assert sign(site.directory, site.open_identity()) is not None
    assert flag_decisions.who_decides(site, "Ada", key) == "Rosa", "as the policy calls them"
    with pytest.raises(PolicyError, match="no key was given"):
        flag_decisions.who_decides(site, "Ada", None)
    with pytest.raises(PolicyError, match="not one of those"):
        flag_decisions.who_decides(site, None, stranger)
    site_key = site.open_identity()
    for stranger_signs in (
        rule_for(model, 0.5, "Rosa", WHY).signed(site_key, stranger),
        rule_for(model, 0.5, "Rosa", WHY).signed(site_key, None),
        rule_for(model, 0.5, "Eve", WHY).signed(site_key, key),
    ):
        put_into_force(site, model, stranger_signs)
        with pytest.raises(TrustError, match="does not name this person with this key"):
            flag_decisions.read(site, model)
    kept = flag_decisions.decide(site, rule_for(model, 0.5, "Rosa", WHY), key)
    assert (kept.person, flag_decisions.read(site, model)) == (key.public.hex(), kept)
    forged = kept.model_copy(update={"threshold": 0.4})
    forged = forged.model_copy(update={"signature": _signed_by(site_key, forged)})
    put_into_force(site, model, forged)
    with pytest.raises(TrustError, match="signature"):
        flag_decisions.read(site, model)


def _signed_by(site: Identity, rule: FlagRule) -> str:
    return site.sign("flag-rule", rule._statement("signature"))


# -- judged on other patients ----------------------------------------------------------------------


def test_the_counts_are_those_of_the_file(site: SiteHome, tmp_path: Path) -> None:
    model = made("by ward").open()
    generator = np.random.default_rng(3)
    ages, wards = generator.uniform(0, 100, 400), generator.choice(list("abc-"), 400)
    ill = generator.integers(0, 2, 400)
    rows = zip([1] * 400, wards, ages, ill, strict=True)
    data = file_of(
        tmp_path / "own.csv",
        *(
            (n, "" if ward == "-" else str(ward), float(age), int(sick))
            for n, ward, age, sick in rows
        ),
    )
    checked = file_to_judge(site, model.study, data, "patient_id")
    found = judge(steep(model), rule_of(model, BY_WARD), checked)
    assert model.card.calibration is not None
    table = list(csv.DictReader(data.read_text().splitlines()))
    right = [0, 0]
    for one in found.groups:
        own = [row for row in table if (row["ward"] or "missing") == one.group]
        for label, many, flagged in ((1, one.ill, one.found), (0, one.well, one.alarmed)):
            chosen = [row for row in own if int(row["ill"]) == label]
            odds = np.array([3 * (float(row["age"]) / 50 - 1) for row in chosen])
            risks = model.card.calibration.of(odds)[0]
            now = [int((risks >= limit).sum()) for limit in (0.5, BY_WARD[one.group])]
            assert (many, list(flagged)) == (len(chosen), now)
            for place in (0, 1):
                right[place] += now[place] if label else many - now[place]
    assert (found.patients, list(found.right)) == (400, right)


def test_who_opted_out_judges_nothing(site: SiteHome, tmp_path: Path) -> None:
    study, data = made("by ward").open().study, tmp_path / "own.csv"
    data.write_text(csv_text(10).replace("ill", "ill,remark").replace("0\n", "0,x\n"))
    assert len(file_to_judge(site, study, data, "patient_id").labels) == 10, (
        "further columns are let be"
    )
    opt_out(site, "p0003")
    left = file_to_judge(site, study, data, "patient_id").patient_ids
    assert len(left) == 9
    assert "p0003" not in left
    many = (
        made("by ward")
        .open()
        .study.model_copy(
            update={"data": study.data.model_copy(update={"records_per_patient": "many"})}
        )
    )
    with pytest.raises(UsageError, match="one record"):
        file_to_judge(site, many, data, "patient_id")
    with pytest.raises(DataError, match="does not exist"):
        file_to_judge(site, study, tmp_path / "none.csv", "patient_id")
    (tmp_path / "no outcome.csv").write_text("patient_id,age,ward\np1,50,a\n")
    with pytest.raises(DataError):
        file_to_judge(site, study, tmp_path / "no outcome.csv", "patient_id")


def test_whoever_took_part_judges_nothing(tmp_path: Path) -> None:
    """The thresholds were chosen from their sums, and the model learnt from them."""
    data = tmp_path / "own.csv"
    for site in approved_site(tmp_path):
        for prefix, refused in (("north", True), ("new", False)):
            data.write_text(csv_text(prefix=prefix))
            if refused:
                with pytest.raises(DataError, match="took part in the study") as error:
                    file_to_judge(site.home, site.study, data, "patient_id")
                assert "north0" not in f"{error.value} {error.value.hint}"
            else:
                file_to_judge(site.home, site.study, data, "patient_id")


def groups(*found: tuple[int, int, int], right: tuple[int, int] = (0, 0)) -> Judged:
    """Groups of (ill, found before, found after)."""
    several = [JudgedGroup(str(i), ill, (a, b), 0, (0, 0)) for i, (ill, a, b) in enumerate(found)]
    return Judged(tuple(several), 1000, right)


def test_thresholds_that_are_not_shown_to_help_here_are_refused() -> None:
    groups((FEWEST, 20, 21), (FEWEST, 25, 25)).refuse_unproven()
    few = groups((FEWEST, 20, 21), (FEWEST, 25, 25), (FEWEST - 1, 0, 0), right=(500, 495))
    few.refuse_unproven()
    assert few.few == ["2"]
    for worse, why in (
        (groups((FEWEST, 20, 21), (FEWEST - 1, 25, 25)), "cannot tell"),
        (groups(), "cannot tell"),
        (groups((40, 20, 20), (40, 25, 25)), "no closer"),
        (groups((40, 20, 20), (40, 20, 21)), "no closer"),
        (groups((40, 20, 20), (40, 25, 21)), "no group's ill would be found more"),
        (groups((40, 20, 21), (40, 25, 25), right=(500, 494)), "rightly no more"),
    ):
        with pytest.raises(RefusedError, match=why):
            worse.refuse_unproven()


# -- the command -----------------------------------------------------------------------------------


def run(site: SiteHome, *command: str | Path) -> Ended:
    return flo("model", *command, "--home", site.directory)


def predicted(site: SiteHome, card: Path, data: Path) -> tuple[list[dict[str, str]], Ended]:
    out = site.directory.parent / "scores.csv"
    done = run(site, "predict", card, "--data", data, "--out", out)
    assert done.returncode == EXIT_OK, done.stderr
    with out.open(newline="") as file:
        return list(csv.DictReader(file)), done


def entries(site: SiteHome, kind: str = "flag-rule") -> list[dict[str, Any]]:
    with closing(site.open_audit_log()) as log:
        return [one.facts for one in log.entries() if one.kind == kind]


@pytest.mark.slow
def test_a_person_decides_from_which_risk_on_patients_are_flagged(
    site: SiteHome, tmp_path: Path
) -> None:
    model, data = made("by ward"), tmp_path / "new.csv"
    card = model.write(tmp_path / "models")
    data.write_text(csv_text())
    assert "flagged" not in predicted(site, card, data)[0][0]
    asked = "flag", card, "--threshold", "0.4", "--by", "Ada", "--why", WHY
    done = run(site, *asked)
    assert (done.returncode, "nothing is changed yet" in done.stdout) == (EXIT_OK, True)
    assert "flagged" not in predicted(site, card, data)[0][0]
    signed = run(site, *asked, "--sign")
    assert signed.returncode == EXIT_OK
    rows, said = predicted(site, card, data)
    assert {row["flagged"] for row in rows} == {"yes", "no"}
    for row in rows:
        assert row["flagged"] == ("yes" if float(row["risk"]) >= 0.4 else "no")
    assert f"as Ada decided on 20{said.stdout.split('decided on 20')[1][:8]}: {WHY}" in said.stdout
    record = PredictionRecord.model_validate_json(
        record_path(site.directory.parent / "scores.csv").read_bytes()
    )
    rule = flag_decisions.read(site, model.open())
    assert rule is not None
    assert "and this hospital's key signed it" in signed.stdout
    assert record.rule == rule.digest
    traced = run(site, "trace", site.directory.parent / "scores.csv")
    assert rule.digest in "".join(traced.stdout.split())
    next_card = made("by ward", run="run-2").write(tmp_path / "models", "next")
    assert "flagged" not in predicted(site, next_card, data)[0][0]
    off = "flag", card, "--off", "--by", "Rosa", "--why", "too many alarms", "--sign"
    assert run(site, *off, "--threshold", "0.4").returncode == EXIT_USAGE
    assert run(site, *off[:-1]).returncode == EXIT_OK
    assert "flagged" in predicted(site, card, data)[0][0], "without --sign nothing changes"
    assert run(site, *off).returncode == EXIT_OK
    assert "flagged" not in predicted(site, card, data)[0][0]
    assert run(site, *off).returncode == EXIT_USAGE, "there is none any more"
    assert [(one["on"], one["by"], one["why"]) for one in entries(site)] == [
        (True, "Ada", WHY),
        (False, "Rosa", "too many alarms"),
    ]


@pytest.mark.slow
def test_thresholds_by_group_are_signed_only_after_other_patients_judged_them(
    site: SiteHome, tmp_path: Path
) -> None:
    model = unequal()
    card, opened, told = model.write(tmp_path / "models"), model.open(), tmp_path / "told.json"
    asked = "flag", card, "--threshold", "0.5", "--by", "Ada", "--why", WHY, "--sign"
    for half in (("--group", "ward"), ("--data", card)):
        done = run(site, *asked, *half)
        assert (done.returncode, "belong together" in done.stderr) == (EXIT_USAGE, True)
    inputs = {
        ward: encoded(
            opened.study.data, {"age": np.arange(101.0), "ward": np.full(101, float(place))}
        )
        for place, ward in enumerate("abc")
    }
    assert opened.card.calibration is not None
    risks = {w: opened.card.calibration.of(opened.log_odds(x))[0] for w, x in inputs.items()}
    low, high = (int(np.argmin(np.abs(risks["b"] - wanted))) for wanted in (0.49, 0.7))
    a_low, a_high = (int(np.argmin(np.abs(risks["a"] - wanted))) for wanted in (0.4, 0.7))
    helps = file_of(
        tmp_path / "helps.csv",
        *((40, "a", a_high, 1), (10, "a", a_low, 1), (30, "b", high, 1), (20, "b", low, 1)),
        *((5, "c", 50, 0), (5, "c", 20, 1)),
    )
    done = run(site, *asked, "--group", "ward", "--data", helps, "--json", told)
    assert done.returncode == EXIT_OK, done.stderr
    assert "30 → 50" in done.stdout
    assert "thresholds by group may be unlawful" in done.stdout
    document = json.loads(told.read_text())
    assert document["groups"]["b"] < 0.49 < 0.5 < document["groups"]["a"]
    for word in ("ill", "found", "30", "50"):
        assert f'"{word}"' not in told.read_text(), "the counts are not private"
    rows, said = predicted(site, card, helps)
    assert "a threshold for each ward" in said.stdout
    assert [row["flagged"] for row in rows] == ["yes"] * 40 + ["no"] * 10 + ["yes"] * 50 + [
        "yes" if float(row["risk"]) >= document["groups"]["c"] else "no" for row in rows[100:]
    ]
    assert (document["groups"]["c"], document["groups"]["missing"]) == (0.5, 0.5), (
        "nobody judged them"
    )
    kept = flag_decisions.read(site, opened)
    for name, people, why in (
        ("few", ((40, "a", a_high, 1), (5, "b", low, 1)), "cannot tell"),
        ("worse", ((40, "a", a_low, 1), (40, "b", low, 1)), "no closer"),
    ):
        data = file_of(tmp_path / f"{name}.csv", *people)
        done = run(site, *asked, "--group", "ward", "--data", data)
        assert (done.returncode, why in done.stderr) == (EXIT_REFUSED, True), name
        assert flag_decisions.read(site, opened) == kept
    assert len(entries(site)) == 1
    assert [one["passed"] for one in entries(site, "flags-judged")] == [True, False, False]


@pytest.mark.parametrize(
    ("model", "words", "why"),
    [
        ("by ward", (), "no --threshold was given"),
        ("by ward", ("--threshold", "0.9"), "beyond the risks that the card states"),
        ("by ward", ("--threshold", "0.5", "--group", "ward"), "no thresholds by ward are stated"),
        ("gated", ("--threshold", "0.5", "--group", "ward"), "is no subgroup"),
        ("by ward", ("--threshold", "0.5", "--group", "wardd"), "is no subgroup"),
    ],
)
def test_what_cannot_be_decided_says_why(
    site: SiteHome, tmp_path: Path, model: str, words: tuple[str, ...], why: str
) -> None:
    card, data = made(model).write(tmp_path / "models"), tmp_path / "own.csv"
    data.write_text(csv_text())
    both = ("--data", str(data)) if "--group" in words else ()
    done = run(site, "flag", card, "--by", "Ada", "--why", WHY, "--sign", *words, *both)
    assert (done.returncode, why in " ".join(done.stderr.split())) == (EXIT_USAGE, True)
    assert entries(site) == []
