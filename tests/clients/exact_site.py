"""A site whose releases have no noise, so that they show which patients are in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from flo.clients.data_process.trainer import Trainer
from flo.clients.home.site_home import SiteHome
from flo.clients.quality.check import encode_checked
from flo.clients.records.snapshot import Snapshot
from flo.clients.sources.files import open_file
from flo.documents import canonical
from flo.privacy.patients.split import is_held_out
from flo.study.document import Study
from flo.study.models import initial_weights
from flo.study.terms import Purpose
from tests.builders import NoNoise, data_file
from tests.clients.approved_site import Site, approved_site

PATIENTS = [f"north{i:04d}" for i in range(40)]


class Exact:
    """Releases what the approved frozen snapshot holds, as the data process would but for noise."""

    def warm_up(self, *_: Any) -> None:
        """Ready."""

    def unload(self, study: str) -> None:
        """Nothing is kept."""

    def release(
        self, study: Study, snapshot: Path, digest: str, purpose: Purpose, weights: Any, size: int
    ) -> npt.NDArray[np.int64]:
        return exact(study, Snapshot.read(snapshot, digest), purpose)


def exact(study: Study, snapshot: Snapshot, purpose: Purpose) -> npt.NDArray[np.int64]:
    weights = np.zeros(0) if study.statistics else initial_weights(study)
    return Trainer(study, snapshot, noise=NoNoise()).release(purpose, weights, 3)


def exact_site(folder: Path, **how: Any) -> Iterator[Site]:
    """As ``approved_site``, releasing what is in the frozen snapshot."""
    for site in approved_site(folder, **how):
        site.releaser = cast(Any, Exact())
        site.restart()
        yield site


def one_of(home: SiteHome, *, held_out: bool) -> str:
    key = home.open_split_key()
    return next(name for name in PATIENTS if is_held_out(key, name, 0.3) == held_out)


def frozen_without(home: SiteHome, study: Study, *gone: str) -> Snapshot:
    """What would be frozen if the hospital's file did not know these patients."""
    lines = data_file(home).read_text().splitlines(keepends=True)
    path = home.directory / "fewer.csv"
    path.write_text("".join(line for line in lines if line.split(",")[0] not in gone))
    checked = encode_checked(open_file(path, "patient_id"), study.data, "patient_id")
    path.unlink()
    return Snapshot.of(checked, home.open_split_key(), 0.3)


def frozen(home: SiteHome) -> list[Snapshot]:
    """The patients of every frozen copy that there is, without the copy's salt."""
    paths = (home.directory / "snapshots").glob("*.npz")
    copies = [Snapshot.read(path, canonical.digest(path.read_bytes())) for path in paths]
    return [replace(copy, salt=b"") for copy in copies]


def counts(snapshot: Snapshot) -> int:
    return snapshot.training.count + snapshot.held_out.count
