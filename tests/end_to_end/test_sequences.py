"""A recurrent network over patients' events, at three hospitals that have them in a table."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path

import pytest
import tomli_w

from flo.clients.home.site_home import SiteHome
from flo.published.model_card import PublishedModel
from flo.published.onnx import onnx_scores
from flo.study.synthetic import made_up_inputs
from tests.builders import study_document
from tests.commands import flo
from tests.end_to_end.test_gate import said
from tests.end_to_end.whole_run import finishes_at_home, rewritten, whole_run
from tests.flo.studies import history

pytestmark = pytest.mark.slow
DAY = "2026-03-01"


def with_events(site: SiteHome) -> None:
    """Write the site's events beside its patients, and name them in site.toml."""
    # As many are ill as not: enough of each for a finish at home, however they are split.
    rewritten(site, lambda number, ill: {"visited": DAY, "ill": number // 2 % 2})
    (population,) = site.read_config().populations
    assert population.file is not None
    with population.file.open() as file:
        people = list(csv.DictReader(file))
    events = population.file.with_name("events.csv")
    with events.open("w") as file:
        file.write("patient_id,day,code,value\n")
        for number, one in enumerate(people):
            pulse = 60 + 4 * int(one["ill"]) + number % 9
            file.write(f"{one['patient_id']},2026-02-{1 + number % 27:02d},pulse,{pulse}\n")
            file.write(f"{one['patient_id']},2025-12-2{number % 9},room,{'xy'[number % 2]}\n")
    policy = site.directory / "policy.toml"
    policy.write_text('models = ["gru"]\n' + policy.read_text())
    said(flo("site", "policy", "--sign", "--home", site.directory))
    toml = site.directory / "site.toml"
    document = tomllib.loads(toml.read_text())
    document["populations"][0]["events"] = {"file": str(events), "record_day": "visited"}
    toml.write_text(tomli_w.dumps(document))


def test_from_launch_to_scores_of_patients_with_events(tmp_path: Path) -> None:
    document = study_document(schema_version=4, model={"kind": "gru", "hidden": 4})
    document["data"] |= {"sequence": history()}
    trained = {"clip": 0.25, "steps": 3, "learning_rate": 0.5, "momentum": 0.9}
    seen = "each of the last 4 periods of 30 days"
    card, trusted, sites = whole_run(tmp_path, document, with_events, seen, trained)
    model, home = PublishedModel.open(card, trusted), ("--home", sites[0].directory)
    explained = flo("model", "explain", card, *home)
    assert "not known how noise moves its weights" in explained.stderr

    (population,) = sites[0].read_config().populations
    assert population.file is not None
    place = tmp_path / "new.toml"
    place.write_text(
        f"file = {json.dumps(str(population.file))}\n[events]\n"
        f'file = "{population.file.with_name("events.csv")}"\nrecord_day = "visited"\n'
    )
    out = tmp_path / "scores.csv"
    said(flo("model", "predict", card, "--data", place, "--out", out, *home))
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert len({row["score"] for row in rows}) > 20
    said(flo("model", "export", card, "--out", tmp_path / "m.onnx", *home))
    inputs = made_up_inputs(model.study.data)[:50]
    exported = onnx_scores((tmp_path / "m.onnx").read_bytes(), model.study)(inputs)
    assert exported == pytest.approx(model.scores(inputs)[:, 0], abs=1e-4)
    for row in finishes_at_home(card, sites[0], place, "AUC"):
        assert 0 < float(row["score"]) < 1

    refused = flo("model", "predict", card, "--data", population.file, "--out", out, *home)
    assert refused.returncode != 0
    assert "column 'pulse_1': is missing from the file" in refused.stderr
