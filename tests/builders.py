"""Small, valid things for tests: a study, patients, sites with keys and ledgers, quiet noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flo.clients.connection.offers import Offered
from flo.clients.home.site_config import make_config
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.errors import RefusedError
from flo.keys.identity import Identity
from flo.storage.files import write_public
from flo.study.document import Study, from_document
from tests import made_once
from tests.partners import partner

if TYPE_CHECKING:
    from flo.clients.quality.check import EncodedTable

HOSPITALS = ("north", "south", "west")
WHITENED: dict[str, Any] = {
    **{"algorithm": "whitened", "clip": 0.2, "steps": 4},
    **{"learning_rate": 2.0, "momentum": 0.0},
}


def study_document(**changes: Any) -> dict[str, Any]:
    """A study of three hospitals and two columns, as parsed TOML. ``changes`` replace top keys."""
    document: dict[str, Any] = {
        "schema_version": 3,
        "name": "tiny",
        "version": 1,
        "purpose": "Test the machinery.",
        "legal_basis": "None needed: made-up patients.",
        "expires": "2099-12-31",
        "hospitals": [{"id": name, "declared_size": 40} for name in HOSPITALS],
        "data": {
            "record": "patient",
            "records_per_patient": "one",
            "label": "ill",
            "columns": [
                {"kind": "number", "name": "age", "unit": "years", "minimum": 0, "maximum": 100},
                {
                    "kind": "category",
                    "name": "ward",
                    "codes": ["a", "b", "c"],
                    "missing": "indicator",
                },
            ],
        },
        "model": {"kind": "logistic"},
        "mechanism": {
            "noise": "local",
            "masking": "off",  # most tests look at one hospital's numbers
            "epsilon": 0.9,
            "delta": 1e-6,
            "clip": 0.5,
            "steps": 3,
            "learning_rate": 0.5,
            "momentum": 0.5,
            "retry_allowance": 1,
        },
        "evaluation": {"epsilon": 0.9, "retry_allowance": 0},
        "limits": {"deadline_seconds": 10, "minimum_cohort": 2},
    }
    document.update(changes)
    return document


def counting(study: Study, epsilon: float, columns: Sequence[str]) -> Study:
    """A study of statistics that counts by these columns, as ``flo study survey`` asks it."""
    table = {"kind": "table", "name": "counts", "columns": list(columns), "bins": 5}
    return study.with_questions("survey", epsilon, table)


def surveyed(study: Study, **survey: Any) -> Study:
    """A survey of a planned study, as FLO 0.2 made them; ledgers and reports still have some."""
    nothing = {"continues": None, "statistics": None}
    changes = {"schema_version": max(2, study.schema_version), "survey": survey, **nothing}
    document = study.model_dump(mode="json") | changes
    document["name"] = f"{study.name[:56]}-survey"
    return from_document(document)


def small_study(**changes: Any) -> Study:
    return from_document(study_document(**changes))


def csv_text(patients: int = 40, prefix: str = "p") -> str:
    """A file that fits ``small_study``: id, age, ward, ill."""
    rows = ["patient_id,age,ward,ill"]
    for i in range(patients):
        rows.append(f"{prefix}{i:04d},{20 + i % 60},{'abc'[i % 3]},{int(i % 60 > 30)}")
    return "\n".join(rows) + "\n"


def make_site(
    folder: Path,
    hospital: str = "north",
    *,
    epsilon: float = 0.9,
    keystore: dict[str, str] | None = None,
    copied: bool = True,
) -> SiteHome:
    """A site with keys, data and a ledger with one population ``main``; not enrolled.

    ``copied=False``: with keys that no site of another test has.
    """

    def make(place: Path) -> SiteHome:
        place.mkdir(parents=True, exist_ok=True)
        data = place / "patients.csv"
        data.write_text(csv_text(prefix=hospital))
        config = make_config(
            hospital,
            file=data,
            id_column="patient_id",
            epsilon=epsilon,
            declared_size=40,
            hold_out=0.3,
            keystore=keystore,
        )
        return SiteHome.create(place / "site", config)

    if keystore or not copied:
        return make(folder)
    return made_once.new_site((hospital, epsilon), folder, make)


for _name in HOSPITALS:
    made_once.declare((_name, 0.9), partial(make_site, hospital=_name))


def data_file(home: SiteHome) -> Path:
    """The file that a made site reads its patients from."""
    file = home.read_config().population(None).file
    assert file is not None
    return file


def pretend_enrolled(home: SiteHome, coordinator: Identity) -> None:
    """Write what enrolment leaves at a site, for tests that need no network."""
    info = {"schema_version": 1, "url": "https://127.0.0.1:1", "public": coordinator.public.hex()}
    write_public(home.directory / "coordinator.json", canonical.encode(info))


def offered(study: Study, homes: list[SiteHome], coordinator: Identity) -> Offered:
    """The signed study; hospitals without a home get made-up keys."""
    prints = {home.read_config().hospital: home.open_identity().fingerprint for home in homes}
    for hospital in study.hospitals:
        prints.setdefault(hospital.id, partner(hospital.id).fingerprint)
    complete = study.with_fingerprints(prints)
    return Offered(complete, coordinator.sign("study", complete.canonical_bytes))


class SilentApi:
    """The coordinator's calls for tests without a network: remembers, has seen no head."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def call(self, name: str, body: Any) -> Any:
        self.calls.append((name, body))
        return {"head": None} if name == "heads" else {}


def encoded_table(
    inputs: npt.NDArray[np.float64], labels: npt.NDArray[np.float64], ids: list[str]
) -> EncodedTable:
    """Records that fit some study, with these model inputs (n, d)."""
    from flo.clients.quality.check import EncodedTable  # imports pandas, which few tests need
    from flo.clients.quality.inputs import Inputs

    made_of = Inputs(inputs.shape[1], [inputs.__getitem__], np.arange(len(inputs)))
    return EncodedTable(made_of, labels, ids)


@dataclass
class NoNoise:
    """Noise of zero and coins that always fall on yes, for tests that look at exact sums."""

    def sample(self, variance: int, size: int) -> npt.NDArray[np.int64]:
        return np.zeros(size, dtype=np.int64)

    def choose(self, probability: float, count: int) -> npt.NDArray[np.bool_]:
        return np.ones(count, dtype=np.bool_)


class CountingReleaser:
    """Stands in for the warm child where a test is about the ledger: a new vector every time."""

    def __init__(self, length: int, *, ready: bool = True) -> None:
        self.length, self.ready, self.loads, self.calls = length, ready, True, 0

    def warm_up(self, *_: Any) -> None:
        if not self.loads:
            raise RefusedError("not ready")

    def unload(self, study: str) -> None:
        """Nothing is kept."""

    def release(self, *_: Any) -> npt.NDArray[np.int64]:
        if not self.ready:
            raise RefusedError("not ready")
        self.calls += 1
        return np.full(self.length, self.calls, dtype=np.int64)
