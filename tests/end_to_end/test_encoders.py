"""Images and notes behind a frozen encoder: from launch to scores that anybody can compute."""

from __future__ import annotations

import csv
import functools
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.special import expit

from flo.arrays import Floats
from flo.clients.home.site_home import SiteHome
from flo.errors import StudyError
from flo.published.compile import compiled
from flo.published.model_card import PublishedModel
from flo.study.packs import Pack
from tests import encoders, notes
from tests.commands import flo
from tests.end_to_end.test_gate import said
from tests.end_to_end.whole_run import finishes_at_home, rewritten, whole_run
from tests.flo.studies import imaging
from tests.lab.own_networks import exported, tail

pytestmark = pytest.mark.slow


def with_images(file: Path, site: SiteHome) -> None:
    """Give the site images, whose upper half is brighter in the ill, and install the encoder."""
    dice = np.random.default_rng(len(site.directory.name))

    def image(number: int, _: bool) -> dict[str, object]:
        ill = number % 2  # enough of each for a finish at home, however they are split
        pixels = dice.integers(0, 150, size=(8, 9))
        pixels[:4] += 100 * ill
        found: dict[str, object] = {f"px_{i}": int(v) for i, v in enumerate(pixels.ravel())}
        return found | {"ill": ill}

    rewritten(site, image)
    (population,) = site.read_config().populations
    toml = site.directory / "site.toml"
    toml.write_text(toml.read_text().replace("ignore = []", 'ignore = ["age", "ward"]'))
    assert population.file is not None
    at_home = ("--home", site.directory)
    assert "no encoder is installed" in said(flo("site", "encoder", *at_home))
    installed = said(flo("site", "encoder", file, *at_home))
    assert "an image of 1 × 8 × 9 becomes 6 numbers" in installed
    digest = installed.split("installed: ")[1].split()[0]
    assert f"{digest} not allowed by policy.toml" in said(flo("site", "encoder", *at_home))
    policy = site.directory / "policy.toml"
    policy.write_text(f'encoders = ["{digest}"]\n' + policy.read_text())
    said(flo("site", "policy", "--sign", *at_home))
    assert f"{digest} allowed by policy.toml" in said(flo("site", "encoder", *at_home))


def test_from_launch_to_scores_of_images_behind_an_encoder(tmp_path: Path) -> None:
    data = encoders.encoder()
    file = tmp_path / "six.onnx"
    file.write_bytes(data)
    stated = encoders.kept(tmp_path / "told", data)
    assert f'file = "{stated["file"]}"' in said(flo("study", "encoder", file, "--name", "six"))
    document = imaging("logistic", encoder=stated) | {"schema_version": 4}
    document["data"]["columns"][0]["name"] = "px"
    prepare = functools.partial(with_images, file)
    seen = "becomes 6 numbers by the frozen encoder 'six numbers'"
    card, trusted, sites = whole_run(tmp_path, document, prepare, seen)
    model, home = PublishedModel.open(card, trusted), ("--home", sites[0].directory)

    (population,) = sites[0].read_config().populations
    assert population.file is not None
    out = tmp_path / "scores.csv"
    predict = ("model", "predict", card, "--data", population.file, "--out", out)
    said(flo(*predict, *home))
    with out.open() as scored, population.file.open() as patients:
        found = [float(row["score"]) for row in csv.DictReader(scored)]
        rows = list(csv.DictReader(patients))
    pixels = np.array([[float(row[f"px_{i}"]) for i in range(72)] for row in rows])
    features = encoders.expected(data, (2 * pixels / 255 - 1).reshape(-1, 1, 8, 9))
    inputs = features / np.sqrt((features**2).mean(axis=1, keepdims=True))
    truth = expit(inputs @ model.weights[:-1] + model.weights[-1])
    assert found == pytest.approx(truth, abs=2e-6)
    assert len(set(found)) > 20
    for row in finishes_at_home(card, sites[0], population.file, "AUC"):
        assert 0 < float(row["score"]) < 1
    assert "as published" in said(flo("model", "check", card, *home))

    assert "it has images" in flo("model", "explain", card, *home).stderr
    with pytest.raises(StudyError, match=r"encoder 'six numbers', which a compiled model does not"):
        compiled(model)
    for path in list((sites[0].directory / "encoders").iterdir()):
        path.unlink()
    refused = flo(*predict, *home)
    assert refused.returncode != 0
    assert f"the encoder 'six numbers', {stated['file']}, is not installed here" in refused.stderr


LETTERS = ("the patient has chest pain and fever.", "no cough and no fever", "a painful cough")


def with_notes(network: Path, tokenizer: Path, site: SiteHome) -> None:
    """Give the site notes, most of which tell who is ill, and install both files."""

    def letter(number: int, _: bool) -> dict[str, object]:
        ill = number % 2
        told = LETTERS[number % 3] if number % 5 else ("chest pain" if ill else "a cough")
        return {"letter": told if number % 7 else "", "ill": ill}

    rewritten(site, letter)
    toml = site.directory / "site.toml"
    toml.write_text(toml.read_text().replace("ignore = []", 'ignore = ["ward"]'))
    at_home, policy = ("--home", site.directory), site.directory / "policy.toml"
    digests = [
        said(flo("site", "encoder", file, *at_home)).split("installed: ")[1].split()[0]
        for file in (network, tokenizer)
    ]
    policy.write_text(f'encoders = ["{digests[0]}", "{digests[1]}"]\n' + policy.read_text())
    said(flo("site", "policy", "--sign", *at_home))


def test_from_launch_to_scores_of_notes_behind_an_encoder(tmp_path: Path) -> None:
    network, tokenizer = tmp_path / "five.onnx", tmp_path / "tokenizer.json"
    network.write_bytes(notes.encoder())
    tokenizer.write_bytes(notes.tokenizer())
    refused = flo("study", "encoder", network, "--name", "five numbers")
    assert "takes the tokens of notes, and no tokenizer is given" in refused.stderr
    words = ("--name", "five numbers", "--tokenizer", tokenizer)
    stated = tomllib.loads(flo("study", "encoder", network, *words).stdout)["encoder"]
    assert stated == notes.kept(tmp_path / "told", notes.encoder(), notes.tokenizer())
    document = imaging("logistic") | {"schema_version": 4}
    age = {"kind": "number", "name": "age", "unit": "years", "minimum": 0, "maximum": 120}
    letter = {"kind": "note", "name": "letter", "missing": "indicator", "encoder": stated}
    document["data"]["columns"] = [age, letter]
    prepare = functools.partial(with_notes, network, tokenizer)
    seen = "free text names patients: it is read at the hospital only, and no word leaves it"
    card, trusted, sites = whole_run(tmp_path, document, prepare, seen)
    model, home = PublishedModel.open(card, trusted), ("--home", sites[0].directory)

    (population,) = sites[0].read_config().populations
    assert population.file is not None
    out = tmp_path / "scores.csv"
    predict = ("model", "predict", card, "--data", population.file, "--out", out)
    said(flo(*predict, *home))
    with out.open() as scored, population.file.open() as patients:
        found = [float(row["score"]) for row in csv.DictReader(scored)]
        rows = list(csv.DictReader(patients))
    ages = np.array([float(row["age"]) for row in rows])
    there = np.array([bool(row["letter"]) for row in rows])
    assert 0 < there.sum() < len(rows)
    features = notes.expected([row["letter"] for row in rows])
    features /= np.sqrt((features**2).mean(axis=1, keepdims=True))
    features[~there] = 0
    inputs = np.column_stack([ages / 60 - 1, features, ~there])
    truth = expit(inputs @ model.weights[:-1] + model.weights[-1])
    assert found == pytest.approx(truth, abs=2e-6)
    for row in finishes_at_home(card, sites[0], population.file, "AUC"):
        assert 0 < float(row["score"]) < 1
    assert "as published" in said(flo("model", "check", card, *home))
    assert "it has images or notes" in flo("model", "explain", card, *home).stderr
    for site in sites:  # no word of a note is kept but in the hospital's own file
        for path in site.directory.rglob("*"):
            if path.is_file() and path != population.file and path.suffix != ".csv":
                assert b"chest pain and" not in path.read_bytes(), path


def test_from_launch_to_scores_of_a_frozen_tail_with_adapters(tmp_path: Path) -> None:
    data, network, numbers = (
        tmp_path / name for name in ("six.onnx", "tail.onnx", "t.safetensors")
    )
    data.write_bytes(encoders.encoder())
    network.write_bytes(exported(tail, 6))
    printed = flo(
        *("study", "pack", network, "--name", "tail", "--numbers", numbers),
        *("--train", "2", "--adapt", "0", "--rank", "2"),
    ).stdout
    stated = encoders.kept(tmp_path / "told", data.read_bytes()) | {"scaled": False}
    document = imaging(encoder=stated) | {"schema_version": 4}
    document["model"] = tomllib.loads(printed)["model"]
    document["data"]["columns"][0]["name"] = "px"
    pack = Pack.model_validate(document["model"])

    def prepare(site: SiteHome) -> None:
        with_images(data, site)
        at_home = ("--home", site.directory)
        policy = site.directory / "policy.toml"
        policy.write_text(f'packs = ["{pack.digest}"]\n' + policy.read_text())
        said(flo("site", "policy", "--sign", *at_home))
        assert "numbers of frozen layers" in said(flo("site", "encoder", numbers, *at_home))
        listed = said(flo("site", "encoder", *at_home))
        assert f"{pack.numbers} numbers of frozen layers, allowed with the pack" in listed

    seen = "6 × 8, frozen"
    card, trusted, sites = whole_run(tmp_path, document, prepare, seen, trained={})
    model, home = PublishedModel.open(card, trusted), ("--home", sites[0].directory)
    assert len(model.weights) == 6 * 2 + 2 + 2 * 8 + 8 + 8 + 1
    assert model.card.golden is None

    (population,) = sites[0].read_config().populations
    assert population.file is not None
    out = tmp_path / "scores.csv"
    predict = ("model", "predict", card, "--data", population.file, "--out", out)
    said(flo(*predict, *home))
    with out.open() as scored, population.file.open() as patients:
        found = [float(row["score"]) for row in csv.DictReader(scored)]
        rows = list(csv.DictReader(patients))
    pixels = np.array([[float(row[f"px_{i}"]) for i in range(72)] for row in rows])
    features = encoders.expected(data.read_bytes(), (2 * pixels / 255 - 1).reshape(-1, 1, 8, 9))
    assert found == pytest.approx(
        truth_of_tail(numbers, model.weights.astype(np.float64), features), abs=2e-5
    )
    for row in finishes_at_home(card, sites[0], population.file, "AUC"):
        assert 0 < float(row["score"]) < 1

    (kept,) = (sites[0].directory / "encoders").glob("*.safetensors")
    changed = bytearray(kept.read_bytes())
    changed[-1] ^= 1
    kept.write_bytes(changed)
    assert "is not the file of that digest any more" in flo(*predict, *home).stderr
    kept.unlink()
    assert f"frozen numbers, {pack.numbers}, is not installed here" in flo(*predict, *home).stderr


def truth_of_tail(numbers: Path, weights: Floats, features: Floats) -> Floats:
    """Scores by a hand-written network: what is frozen from the file, what is trained from FLO."""
    frozen = load_file(numbers)
    (weight,), (bias,) = (
        [one for name, one in frozen.items() if name.endswith(part)] for part in ("weight", "bias")
    )
    parts = np.split(weights, np.cumsum([12, 2, 16, 8, 8]))
    down, down_bias, up, up_bias, last, last_bias = parts
    adapter = (features @ down.reshape(2, 6).T + down_bias) @ up.reshape(8, 2).T + up_bias
    hidden = np.tanh(features @ weight.T + bias + adapter)
    assert np.abs(adapter).max() > 1e-3
    return np.asarray(expit(hidden @ last + last_bias))
