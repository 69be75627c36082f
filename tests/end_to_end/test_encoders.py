"""Images behind a frozen encoder: from launch to scores that anybody can compute again."""

from __future__ import annotations

import csv
import functools
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from flo.clients.home.site_home import SiteHome
from flo.errors import StudyError
from flo.published.compile import compiled
from flo.published.model_card import PublishedModel
from tests import encoders
from tests.commands import flo
from tests.end_to_end.test_gate import said
from tests.end_to_end.whole_run import finishes_at_home, rewritten, whole_run
from tests.flo.studies import imaging

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
