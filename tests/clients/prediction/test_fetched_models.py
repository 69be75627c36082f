"""Models from elsewhere: ``fetch`` keeps what checks, ``flo model`` trusts one key only."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction.fetched_models import fetch
from flo.documents import canonical
from flo.errors import (
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_TRUST,
    EXIT_USAGE,
    FloError,
    MessageError,
    UsageError,
)
from flo.keys.identity import format_fingerprint
from flo.published.model_card import MAX_CARD_BYTES, PublishedModel, paths_of
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.study.document import Study, from_document
from tests.builders import csv_text, make_site, offered, pretend_enrolled
from tests.commands import flo
from tests.flo.published_models import COORDINATOR, MALLORY, Made, made, signed_study

GOOD = made()
STUDY, SIGNATURE = signed_study()


class ToldApi:
    """A coordinator that lists these studies and answers ``models`` as it is told."""

    def __init__(
        self, answer: dict[str, Any] | FloError, studies: dict[Study, str] | None = None
    ) -> None:
        self.answer, self.wishes = answer, list[Any]()
        self.studies = [(STUDY, "done")] if studies is None else list(studies.items())

    def call(self, name: str, body: Any) -> Any:
        if name == "studies":
            return [
                {
                    "study": study.canonical_bytes.decode(),
                    "signature": SIGNATURE,
                    "status": status,
                }
                for study, status in self.studies
            ]
        assert name == "models"
        self.wishes.append(body)
        if isinstance(self.answer, FloError):
            raise self.answer
        return self.answer


def answer_of(model: Made) -> dict[str, Any]:
    return {
        "card": model.card.to_bytes().decode(),
        "tensors": base64.b64encode(model.tensors).decode(),
    }


ANSWER = answer_of(GOOD)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteHome:
    home = make_site(tmp_path_factory.mktemp("north"))
    pretend_enrolled(home, COORDINATOR)
    return home


def fetched(site: SiteHome, told: ToldApi, out: Path, wanted: str = "tiny") -> Path:
    return fetch(site, cast(CoordinatorApi, told), wanted, out)


# -- fetch -----------------------------------------------------------------------------------------


def test_a_model_that_checks_is_kept_byte_for_byte(site: SiteHome, tmp_path: Path) -> None:
    told = ToldApi(ANSWER)
    path = fetched(site, told, tmp_path / "deep" / "models")
    assert path == tmp_path / "deep" / "models" / "tiny-run-1.card.json"
    card, tensors = paths_of(path)
    assert (card.read_bytes(), tensors.read_bytes()) == (GOOD.card.to_bytes(), GOOD.tensors)
    assert sorted(path.parent.iterdir()) == [card, tensors]
    assert told.wishes == [{"study": STUDY.digest}]
    assert PublishedModel.open(path, COORDINATOR.fingerprint).study == STUDY


@pytest.mark.parametrize("wanted", [STUDY.digest, STUDY.digest[:8]], ids=["whole", "its start"])
def test_a_study_may_be_named_by_its_digest(site: SiteHome, tmp_path: Path, wanted: str) -> None:
    assert fetched(site, ToldApi(ANSWER), tmp_path, wanted).exists()


NEWER = from_document(STUDY.model_dump(mode="json") | {"version": 2})


@pytest.mark.parametrize(
    "wanted",
    ["other", "tin", "TINY", STUDY.digest[:8].upper() + "X"],
    ids=["another", "cut", "capitals", "no digest"],
)
def test_no_such_study_is_refused_before_anything_is_asked(
    site: SiteHome, tmp_path: Path, wanted: str
) -> None:
    told = ToldApi(ANSWER)
    with pytest.raises(UsageError, match="no study of this hospital called"):
        fetched(site, told, tmp_path, wanted)
    assert told.wishes == []


@pytest.mark.parametrize("status", ["done", "offered"])
def test_of_several_studies_of_a_name_one_must_be_named_by_digest(
    site: SiteHome, tmp_path: Path, status: str
) -> None:
    told = ToldApi(ANSWER, {STUDY: status, NEWER: status})
    with pytest.raises(UsageError, match=r"several studies match: .*:1 .*:2 ") as refusal:
        fetched(site, told, tmp_path)
    assert "digest" in refusal.value.hint
    assert told.wishes == []
    assert fetched(site, told, tmp_path, STUDY.digest[:8]).exists()


def test_a_version_is_named_where_a_name_has_several(site: SiteHome, tmp_path: Path) -> None:
    told = ToldApi(ANSWER, {STUDY: "ended", NEWER: "running"})
    assert fetched(site, told, tmp_path, f"{STUDY.name}:{STUDY.version}").exists()
    assert told.wishes == [{"study": STUDY.digest}]


def of_another_study() -> dict[str, Any]:
    """The same coordinator's good model of the next version of the study."""
    other = offered(NEWER, [], COORDINATOR)
    text = other.study.canonical_bytes.decode()
    return answer_of(made(study=text, study_signature=other.signature))


def without(answer: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != name}


TENSORS = str(ANSWER["tensors"])
LIES: dict[str, tuple[dict[str, Any], str]] = {
    "signed by another": (answer_of(made(signer=MALLORY)), "another coordinator"),
    "a changed card": (
        {**ANSWER, "card": ANSWER["card"].replace('"rounds":3', '"rounds":4')},
        "signature of this model-card",
    ),
    "of another study": (of_another_study(), "model of another study"),
    "of another kind": (answer_of(made("mlp")), "model of another study"),
    "others' tensors": (answer_of(Made(GOOD.card, made("mlp").tensors)), "not the ones"),
    "base64 with a space": ({**ANSWER, "tensors": f" {TENSORS}"}, "has no valid model"),
    "base64 cut off": ({**ANSWER, "tensors": TENSORS.rstrip("=")[:-1]}, "has no valid model"),
    "base64 with ü": ({**ANSWER, "tensors": f"ü{TENSORS}"}, "has no valid model"),
    "nothing": ({**ANSWER, "tensors": ""}, "not the ones"),
    "no card": (without(ANSWER, "card"), "card: Field required"),
    "no tensors": (without(ANSWER, "tensors"), "tensors: Field required"),
    "more": ({**ANSWER, "run": "me"}, "run: Extra inputs"),
    "a card that is none": ({**ANSWER, "card": "{"}, "not valid JSON"),
    "a card too large": ({**ANSWER, "card": " " * (MAX_CARD_BYTES + 1)}, "card: .* at most"),
}


@pytest.mark.parametrize(("answer", "why"), LIES.values(), ids=LIES.keys())
def test_a_lying_coordinators_model_is_refused_and_nothing_is_kept(
    site: SiteHome, tmp_path: Path, answer: dict[str, Any], why: str
) -> None:
    with pytest.raises(FloError, match=why) as refusal:
        fetched(site, ToldApi(answer), tmp_path / "models")
    assert refusal.value.exit_code in (EXIT_TRUST, EXIT_USAGE)
    assert not (tmp_path / "models").exists()


def test_a_refused_model_leaves_the_one_of_before_alone(site: SiteHome, tmp_path: Path) -> None:
    path = fetched(site, ToldApi(ANSWER), tmp_path)
    for answer, _ in LIES.values():
        with pytest.raises(FloError):
            fetched(site, ToldApi(answer), tmp_path)
    assert PublishedModel.open(path, COORDINATOR.fingerprint).card == GOOD.card
    assert len(list(tmp_path.iterdir())) == 2


def test_a_model_that_is_not_published_is_not_kept(site: SiteHome, tmp_path: Path) -> None:
    with pytest.raises(MessageError, match="no published model yet"):
        fetched(site, ToldApi(MessageError("no published model yet")), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_site_that_is_not_enrolled_trusts_nobody(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not enrolled"):
        fetched(make_site(tmp_path / "new"), ToldApi(ANSWER), tmp_path / "models")


# -- the command line: whose models count ----------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path) -> Path:
    GOOD.write(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture(scope="module")
def coordinators_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coordinator") / "home"
    home = CoordinatorHome.create(folder, CoordinatorConfig())
    COORDINATOR.save(home.key_path, home.open_keystore())
    return folder


def wrong(done: subprocess.CompletedProcess[str], exit_code: int, *words: str) -> None:
    """The command ended as an expected failure, with these words and no result."""
    shown = " ".join(done.stderr.split())
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in shown
    assert "bug in FLO" not in shown
    assert all(word in shown for word in words), shown


def shown_by(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == EXIT_OK, done.stderr
    return " ".join(done.stdout.split())


def test_a_site_trusts_the_coordinator_it_enrolled_with(site: SiteHome, models: Path) -> None:
    card = models / "tiny-run-1.card.json"
    shown = shown_by(flo("model", "show", card, "--home", site.directory))
    assert format_fingerprint(COORDINATOR.fingerprint)[:39] in shown
    quality = "0.750, 0.500 to 0.875 (95 % interval)"
    for fact in (STUDY.digest, GOOD.card.file, "0.9000", quality, "west"):
        assert fact in shown
    assert "score 0.119 6 to 25 %" in shown  # log odds -2


def test_a_card_without_a_calibration_says_that_scores_are_no_risks(
    site: SiteHome, tmp_path: Path
) -> None:
    card = made(calibration=None).write(tmp_path, "old-run-1")
    shown = shown_by(flo("model", "show", card, "--home", site.directory))
    assert "calibration none: scores rank patients, and are no risks" in shown


def test_a_coordinator_trusts_itself(coordinators_folder: Path, models: Path) -> None:
    tensors = models / "tiny-run-1.safetensors"
    shown = shown_by(flo("model", "show", tensors, "--home", coordinators_folder))
    assert STUDY.digest in shown


def test_a_fingerprint_counts_as_it_is_read_out_and_before_any_folder(
    models: Path, tmp_path: Path
) -> None:
    other = make_site(tmp_path / "other")
    pretend_enrolled(other, MALLORY)
    card = models / "tiny-run-1.card.json"
    aloud = f" {format_fingerprint(COORDINATOR.fingerprint).upper()}\n"
    shown = shown_by(flo("model", "show", card, "--coordinator", aloud, "--home", other.directory))
    assert STUDY.digest in shown
    wrong(flo("model", "show", card, "--home", other.directory), EXIT_TRUST, "another coordinator")


@pytest.mark.parametrize("command", ["list", "show", "predict"])
def test_without_a_coordinator_to_trust_nothing_is_opened(
    models: Path, tmp_path: Path, command: str
) -> None:
    data = tmp_path / "patients.csv"
    data.write_text(csv_text())
    more: dict[str, list[str | Path]] = {
        "list": [models],
        "show": [models / "tiny-run-1.card.json"],
        "predict": [models / "tiny-run-1.card.json", "--data", data, "--out", tmp_path / "scores"],
    }
    done = flo("model", command, *more[command], "--home", tmp_path / "nowhere")
    wrong(done, EXIT_USAGE, "cannot check signatures", "--home SITE, or --coordinator FINGERPRINT")
    assert done.stdout == ""
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    "fingerprint", ["", "0" * 64, COORDINATOR.fingerprint[:-1]], ids=["none", "zeros", "cut"]
)
def test_no_other_fingerprint_opens_a_model(models: Path, fingerprint: str) -> None:
    done = flo("model", "show", models / "tiny-run-1.card.json", "--coordinator", fingerprint)
    wrong(done, EXIT_TRUST, "another coordinator", "telephone")
    assert done.stdout == ""


# -- the command line: list ------------------------------------------------------------------------


def test_a_forged_card_is_listed_as_refused_beside_the_good_ones(models: Path) -> None:
    made("mlp", evaluation=None).write(models, "another-run-2")
    made(signer=MALLORY).write(models, "forged-run-3")
    Made(GOOD.card, made("mlp").tensors).write(models, "swapped-run-4")
    (models / "broken-run-5.card.json").write_text("[red]{")
    shown = shown_by(flo("model", "list", models, "--coordinator", COORDINATOR.fingerprint))
    assert shown.count("refused:") == 3
    assert shown.count("0.9000") == 2  # ε of the two good ones
    for name in ("tiny-run-1", "another-run-2", "forged-run-3", "swapped-run-4", "broken-run-5"):
        assert name in shown


def test_an_empty_folder_says_how_to_get_a_model(tmp_path: Path) -> None:
    shown = shown_by(flo("model", "list", tmp_path, "--coordinator", COORDINATOR.fingerprint))
    assert "no models in" in shown
    assert "flo model fetch" in shown


def test_a_file_is_listed_under_its_own_name(models: Path) -> None:
    made(signer=MALLORY).write(models, "x[bold]y")
    shown = shown_by(flo("model", "list", models, "--coordinator", COORDINATOR.fingerprint))
    assert "x[bold]y" in shown


# -- the command line: predict and fetch -----------------------------------------------------------


def test_patients_are_scored_from_the_command_line(
    site: SiteHome, models: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "patients.csv", tmp_path / "scores.csv"
    data.write_text(csv_text(5))
    model = models / "tiny-run-1.safetensors"
    done = flo("model", "predict", model, "--data", data, "--out", out, "--home", site.directory)
    assert "5 records scored" in shown_by(done)
    lines = out.read_text().splitlines()
    assert lines[0] == "row,patient_id,score,risk,low,high"
    assert [line.split(",")[1] for line in lines[1:]] == [f"p{i:04d}" for i in range(5)]
    cells = {cell for line in lines[1:] for cell in line.split(",")[2:] if cell}
    assert len(cells) > 5
    assert not any(cell in done.stdout for cell in cells)


@pytest.mark.parametrize("case", ["forged", "bad data", "over the data"])
def test_a_refused_prediction_ends_in_its_exit_code_and_writes_nothing(
    site: SiteHome, models: Path, tmp_path: Path, case: str
) -> None:
    model, data, out = models / "tiny-run-1.card.json", tmp_path / "p.csv", tmp_path / "s.csv"
    data.write_text(csv_text(5))
    if case == "forged":
        document = json.loads(model.read_bytes()) | {"rounds": 4}
        model.write_bytes(canonical.encode(document))
        exit_code, word = EXIT_TRUST, "signature of this model-card"
    elif case == "bad data":
        data.write_text(csv_text(5).replace("20,a", "98765,a"))
        exit_code, word = EXIT_REFUSED, "'age': must lie within"
    else:
        out = data
        exit_code, word = EXIT_USAGE, "would overwrite the data"
    before = sorted(tmp_path.iterdir()), data.read_bytes()
    done = flo("model", "predict", model, "--data", data, "--out", out, "--home", site.directory)
    wrong(done, exit_code, word)
    assert "98765" not in done.stdout + done.stderr
    assert (sorted(tmp_path.iterdir()), data.read_bytes()) == before


def test_fetch_needs_a_sites_folder(tmp_path: Path) -> None:
    done = flo("model", "fetch", "tiny", "--home", tmp_path / "nowhere", "--out", tmp_path / "m")
    wrong(done, EXIT_USAGE, "is not a site's folder", "flo site init")
