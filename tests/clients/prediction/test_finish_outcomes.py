"""Models of other outcomes than yes or no are finished at home: models that real runs published.

``tests/kept`` has one of the time to an event, of a count and of several classes, of the same two
columns.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from flo.arrays import Floats
from flo.clients.prediction.finish import finish
from flo.clients.records.finished_model import FinishedModel, finished_names
from flo.errors import DataError
from flo.privacy.patients.split import is_held_out
from flo.published.model_card import ModelCard
from tests.builders import data_file, make_site, pretend_enrolled
from tests.clients.desk.test_desk import open_by_link, serving
from tests.clients.prediction.finished_site import FinishingSite
from tests.commands import flo
from tests.flo.published_models import COORDINATOR
from tests.paths import ROOT

COUNT, LABELS = 900, ("mild", "severe", "worst")
HORIZONS = ("10", "30", "60")


def followed(risk: Floats, generator: np.random.Generator) -> dict[str, list[object]]:
    time = generator.exponential(120 * (1 - risk))
    last = generator.uniform(20, 90, COUNT)
    return {
        "ill": (time <= last).astype(int).tolist(),
        "days": np.minimum(time, last).round(1).tolist(),
    }


def counted(risk: Floats, generator: np.random.Generator) -> dict[str, list[object]]:
    return {"ill": generator.binomial(8, risk / 2).tolist()}


def graded(risk: Floats, generator: np.random.Generator) -> dict[str, list[object]]:
    at = (generator.random(COUNT) + risk) * 1.4
    return {"ill": [LABELS[int(place)] for place in at.clip(0, 2.9)]}


Labels = Callable[[Floats, np.random.Generator], dict[str, list[object]]]
OUTCOMES = [("v19", followed), ("v20", counted), ("v21", graded)]
each_outcome = pytest.mark.parametrize(
    ("kept", "labels"), OUTCOMES, ids=["times", "count", "classes"]
)


def site_of(folder: Path, kept: str, labels: Labels) -> FinishingSite:
    """A site that is no partner of the study. Unlike where its model learnt, the young are ill."""
    home = make_site(folder / "east", "east")
    pretend_enrolled(home, COORDINATOR)
    source = ROOT / "tests" / "kept" / kept
    card = ModelCard.model_validate_json((source / "tiny.card.json").read_bytes())
    signature = COORDINATOR.sign("study", card.study.encode())
    card = card.model_copy(update={"study_signature": signature}).signed(COORDINATOR)
    (folder / "models").mkdir()
    path = folder / "models" / "tiny-run-1.card.json"
    path.write_bytes(card.to_bytes())
    (folder / "models" / "tiny-run-1.safetensors").write_bytes(
        (source / "tiny.safetensors").read_bytes()
    )
    generator = np.random.default_rng(5)
    age, ward = generator.uniform(20, 90, COUNT), generator.choice(["a", "b", "c"], COUNT)
    risk = expit((60 - age) / 12 + (ward == "b"))
    table = {"patient_id": [f"east{n:04d}" for n in range(COUNT)], "age": age.round(1)}
    pd.DataFrame(table | {"ward": ward} | labels(risk, generator)).to_csv(
        data_file(home), index=False
    )
    return FinishingSite(home, path)


def held_out(site: FinishingSite) -> pd.DataFrame:
    table = pd.read_csv(data_file(site.home))
    population = site.home.read_config().population(None)
    key = site.home.open_split_key()
    return table[[is_held_out(key, name, population.hold_out) for name in table["patient_id"]]]


Sites = dict[str, tuple[FinishingSite, FinishedModel]]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    """Each site with its finished model; no test changes them."""
    found = {}
    for kept, labels in OUTCOMES:
        site = site_of(tmp_path_factory.mktemp(kept), kept, labels)
        found[kept] = (site, finish(site.home, site.card, site.model))
    return found


@pytest.mark.parametrize(
    ("kept", "measure", "named"),
    [
        ("v19", "concordance", ["by 10 days", "by 30 days", "by 60 days"]),
        ("v20", "concordance", ["visits"]),
        ("v21", "macro AUC", list(LABELS)),
    ],
)
def test_it_ranks_this_hospitals_patients_better_and_its_risks_are_right_here(
    sites: Sites, kept: str, measure: str, named: list[str]
) -> None:
    _, made = sites[kept]
    assert (made.measure, made.values) == (measure, kept == "v20")
    assert made.trained + made.tested == COUNT
    assert made.finished.auc is not None
    assert made.published.auc is not None
    assert made.finished.auc > made.published.auc + 0.1
    for fit in made.fits.values():
        assert [one.of for one in fit.risks] == named
        for one in fit.risks:
            assert sum(records for *_, records in one.curve) == made.tested
    scale = 8 if kept == "v20" else 1  # 160 patients are held out
    for one in made.finished.risks:
        assert one.predicted == pytest.approx(one.observed, abs=0.15 * scale)
    for after, before in zip(made.finished.risks, made.published.risks, strict=True):
        if kept == "v19":
            assert after.error is None, "of times no error is known"
        else:
            assert (after.error or 0) < (before.error or 0)


@each_outcome
def test_what_is_observed_is_that_of_the_held_out_patients(
    sites: Sites, kept: str, labels: Labels
) -> None:
    site, made = sites[kept]
    table = held_out(site)
    observed = [one.observed for one in made.finished.risks]
    if kept == "v20":
        assert observed == pytest.approx([table["ill"].mean()])
    elif kept == "v21":
        assert observed == pytest.approx([(table["ill"] == name).mean() for name in LABELS])
    else:
        by_ten = ((table["days"] <= 10) & (table["ill"] == 1)).mean()
        assert observed[0] == pytest.approx(by_ten), "nobody is lost before the first horizon"
        assert observed == sorted(observed, key=lambda share: share or 0)


@each_outcome
def test_predict_writes_every_risk_and_no_band(
    sites: Sites, kept: str, labels: Labels, tmp_path: Path
) -> None:
    site, made = sites[kept]
    out = tmp_path / "scores.csv"
    ended = flo(
        *("model", "predict", made.name, "--data", data_file(site.home), "--out", out),
        *("--home", site.home.directory),
    )
    assert ended.returncode == 0, ended.stderr
    assert "not private" in ended.stdout
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == COUNT
    if kept == "v20":
        for row in rows:
            assert (row["low"], row["high"]) == ("", "")
            assert 0 <= float(row["p10"]) <= float(row["p90"]) <= 8
            assert row["p10"] == f"{int(float(row['p10']))}"
        mean = np.mean([float(row["expected"]) for row in rows])
        assert mean == pytest.approx(pd.read_csv(data_file(site.home))["ill"].mean(), rel=0.1)
        table = pd.read_csv(data_file(site.home))
        low, high = (np.array([float(row[name]) for row in rows]) for name in ("p10", "p90"))
        assert ((low <= table["ill"]) & (table["ill"] <= high)).mean() >= 0.8
        return
    names = HORIZONS if kept == "v19" else LABELS
    for row in rows:
        risks = [float(row[f"risk_{name}"]) for name in names]
        assert all(row[f"{end}_{name}"] == "" for name in names for end in ("low", "high"))
        if kept == "v19":
            assert risks == sorted(risks)
        else:
            assert sum(risks) == pytest.approx(1, abs=1e-4)
            for name in names:
                assert float(row[f"score_{name}"]) == pytest.approx(float(row[f"risk_{name}"]))


@pytest.mark.slow
@each_outcome
def test_only_the_training_side_shapes_it(tmp_path: Path, kept: str, labels: Labels) -> None:
    site = site_of(tmp_path, kept, labels)
    first = site.finish()
    table = pd.read_csv(data_file(site.home))
    own = table["patient_id"].isin(held_out(site)["patient_id"])
    table.loc[own, "ill"] = table.loc[own, "ill"].sample(frac=1, random_state=1).to_numpy()
    table.to_csv(data_file(site.home), index=False)
    second = site.finish()
    assert second.weights == first.weights
    assert second.finished != first.finished


@each_outcome
def test_the_screen_says_how_right_it_is_here_and_that_it_is_not_private(
    tmp_path: Path, kept: str, labels: Labels
) -> None:
    site = site_of(tmp_path, kept, labels)
    ended = flo("model", "finish", site.card, "--home", site.home.directory, "--json", "-")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["model"] == finished_names(site.home)[0]
    shown = " ".join(ended.stderr.split())
    assert "NOT PRIVATE" in shown
    words = {
        "v19": ("concordance", "by 30 days: mean", "risk: by 60 days", "gain over alone"),
        "v20": ("typical error", "mean value", "visits"),
        "v21": ("macro AUC", "severe: Brier", "risk: worst"),
    }
    for said in words[kept]:
        assert said in shown


@pytest.mark.slow
def test_no_risk_is_stated_at_a_horizon_to_which_nobody_here_was_followed(tmp_path: Path) -> None:
    """Follow-up that ended after 40 days says nothing of 60, and must not look as if it did."""
    site = site_of(tmp_path, "v19", followed)
    table = pd.read_csv(data_file(site.home))
    late = table["days"] > 40
    table.loc[late, ["days", "ill"]] = [40.0, 0]
    table.to_csv(data_file(site.home), index=False)
    shown = flo("model", "finish", site.card, "--home", site.home.directory)
    assert shown.returncode == 0, shown.stderr
    said = " ".join(shown.stdout.split())
    assert "risk by 60 days: this hospital's patients were not followed so long" in said
    (name,) = finished_names(site.home)
    made = FinishedModel.load(site.home, name)
    assert made.known == 2
    for fit in (made.finished, made.alone):
        assert (fit.risks[2].predicted, fit.risks[2].observed) == (None, None)
    assert made.published.risks[2].predicted is not None
    assert made.published.risks[2].observed is None
    for one in made.finished.risks[:2]:
        assert one.predicted == pytest.approx(one.observed, abs=0.15)
    out = tmp_path / "scores.csv"
    asked = ("--data", data_file(site.home), "--out", out, "--home", site.home.directory)
    assert flo("model", "predict", name, *asked).returncode == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["risk_60"] for row in rows} == {""}
    assert all(0 < float(row["risk_10"]) <= float(row["risk_30"]) < 1 for row in rows)


def test_a_hospital_that_followed_nobody_to_the_first_horizon_is_refused(tmp_path: Path) -> None:
    site = site_of(tmp_path, "v19", followed)
    table = pd.read_csv(data_file(site.home))
    table.loc[table["days"] > 9, ["days", "ill"]] = [9.0, 0]
    table.to_csv(data_file(site.home), index=False)
    with pytest.raises(
        DataError, match="fewer than 10 were followed to 10 days, the first horizon"
    ):
        site.finish()


@pytest.mark.processes
def test_the_desk_plots_each_risk_beside_the_ideal(tmp_path: Path) -> None:
    titles = {
        "v19": ["Observed by predicted risk by 60 days, for"],
        "v20": ["Observed by predicted value visits, for", "predicted value in visits"],
        "v21": ["Observed by predicted risk worst, for", "worst: Brier score"],
    }
    for kept, labels in OUTCOMES:
        site = site_of(tmp_path / kept, kept, labels)
        site.finish()
        with serving(site.home) as desk:
            page = open_by_link(desk).get("/models")
        for said in (*titles[kept], "Gain over alone", "Not private"):
            assert said in page, (kept, said)
