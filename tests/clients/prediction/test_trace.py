"""From any prediction back to the model, the study, the approval and the ledger's rows."""

from __future__ import annotations

import csv
import json
from contextlib import closing
from pathlib import Path

import pytest

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction.predict import predict
from flo.clients.prediction.trace import record_path, trace
from flo.errors import TrustError, UsageError
from flo.host.environment import code_digest
from flo.published.model_card import PublishedModel
from tests.builders import csv_text, make_site
from tests.commands import flo
from tests.flo.published_models import made

MODEL = made("gated").open()


def scored(folder: Path, patients: int = 40, model: PublishedModel = MODEL) -> Path:
    data, out = folder / "patients.csv", folder / "scores.csv"
    data.write_text(csv_text(patients))
    predict(model, data, out, "patient_id")
    return out


def test_each_of_500_predictions_leads_to_the_card_study_and_code(tmp_path: Path) -> None:
    """The record covers the whole file: no row can be exchanged for another."""
    out = scored(tmp_path, 500)
    home = make_site(tmp_path / "site")
    found = trace(home, out)
    assert found.record.records == 500
    assert found.record.card == MODEL.card.digest
    assert found.record.study == MODEL.study.digest
    assert found.record.file == MODEL.card.file
    assert found.record.code == code_digest()
    assert found.approval is None, "a model of other hospitals"
    assert found.rows == ()
    with out.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert len(rows) == 500
    for number in range(500):
        changed = [list(row) for row in rows]
        place = header.index("score")
        changed[number][place] = "0.123456" if rows[number][place] != "0.123456" else "0.654321"
        text = "\n".join(",".join(row) for row in [header, *changed]) + "\n"
        out.write_text(text)
        with pytest.raises(TrustError, match="was changed since it was written"):
            trace(home, out)


def test_scores_without_their_record_are_not_traced(tmp_path: Path) -> None:
    out = scored(tmp_path)
    home = make_site(tmp_path / "site")
    record_path(out).unlink()
    with pytest.raises(UsageError, match=r"scores\.csv\.record\.json is missing"):
        trace(home, out)


def test_a_record_holds_nothing_of_a_patient_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = record_path(scored(tmp_path))
    assert path.stat().st_mode & 0o077 == 0
    document = json.loads(path.read_text())
    assert set(document) == {
        *("schema_version", "made", "scores", "records", "study", "run", "card", "file"),
        *("finished", "rule", "code"),
    }
    assert document["finished"] is None


def test_the_command_says_that_this_hospital_took_no_part(tmp_path: Path) -> None:
    out = scored(tmp_path)
    home: SiteHome = make_site(tmp_path / "site")
    done = flo("model", "trace", out, "--home", home.directory)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert MODEL.card.digest in "".join(done.stdout.split())
    assert "took no part in the study" in said
    assert "none: this hospital took no part" in said
    with closing(home.open_ledger()) as ledger:
        assert len(list(ledger.rows())) == 1
