"""A study from launch to its card, at three real hospitals that agree to it."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flo.cli.coordinator.operator import Operator
from flo.clients.home.site_home import SiteHome
from flo.clients.records.finished_model import finished_names
from flo.study.document import from_document
from tests.builders import WHITENED
from tests.commands import flo
from tests.end_to_end.agents import agent
from tests.end_to_end.running import SITES
from tests.end_to_end.test_gate import published, said
from tests.server.real_coordinator import serving


def refuses_what_takes_yes_or_no(card: Path, site: SiteHome, foreseen: str) -> None:
    """A threshold and an export name what the study foresees, and do nothing."""
    exported = site.directory / "x.onnx"
    for command in (("fairness", card, "--threshold", "0.2"), ("export", card, "--out", exported)):
        refused = flo("model", *command, "--home", site.directory)
        assert refused.returncode != 0
        assert f"foresees {foreseen}" in refused.stderr
        assert "takes only an outcome of yes or no" in refused.stderr
    assert not exported.exists()


def finishes_at_home(card: Path, site: SiteHome, data: Path, measure: str) -> list[dict[str, str]]:
    """A partner finishes the model on its own patients; return the predictions of ``data``."""
    finished = flo("model", "finish", card, "--home", site.directory)
    assert finished.returncode == 0, finished.stderr
    assert "NOT PRIVATE" in finished.stdout
    assert measure in finished.stdout
    (name,) = finished_names(site)
    out = data.with_name("finished.csv")
    said(flo("model", "predict", name, "--data", data, "--out", out, "--home", site.directory))
    with out.open() as file:
        return list(csv.DictReader(file))


def relabelled(site: SiteHome, label: Callable[[int, bool], object]) -> None:
    """Give each of the site's patients the label of their row and of whether they were ill."""
    rewritten(site, lambda number, ill: {"ill": label(number, ill)})


def rewritten(site: SiteHome, cells: Callable[[int, bool], dict[str, object]]) -> None:
    """Give each of the site's patients the cells of their row and of whether they were ill."""
    (population,) = site.read_config().populations
    path = population.file
    assert path is not None
    with path.open() as file:
        old = list(csv.DictReader(file))
    rows = [row | cells(number, row["ill"] == "1") for number, row in enumerate(old)]
    with path.open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def whole_run(
    folder: Path,
    document: dict[str, Any],
    prepare: Callable[[SiteHome], None],
    reviewed: str,
    trained: dict[str, Any] = WHITENED,
) -> tuple[Path, str, list[SiteHome]]:
    """The card, the coordinator's fingerprint, and the sites. ``prepare``: writes a site's data.
    ``reviewed``: what every steward reads before agreeing. ``trained``: settings of training."""
    with serving(folder / "coordinator") as coordinator, contextlib.ExitStack() as stack:
        sites = [coordinator.enrol(folder / name, name) for name in SITES]
        for site in sites:
            prepare(site)
            stack.enter_context(agent(site))
        document["hospitals"] = [{"id": name, "declared_size": 40} for name in SITES]
        document["mechanism"] |= {
            **{"masking": "on", "noise": "distributed", "retry_allowance": 2, **trained},
        }
        study = from_document(document)
        with Operator(coordinator.home.directory) as operator:
            digest = str(operator.call("POST", "studies", body=study.canonical_bytes)["digest"])
        keys = [
            f"{name}={site.open_identity().fingerprint}"
            for name, site in zip(SITES, sites, strict=True)
        ]
        for site in sites:
            said(flo("site", "confirm", *keys, "--home", site.directory))
            assert reviewed in said(flo("site", "review", digest, "--home", site.directory))
            said(flo("site", "approve", digest, "--yes", "--home", site.directory))
        return published(coordinator, digest), coordinator.home.open_identity().fingerprint, sites
