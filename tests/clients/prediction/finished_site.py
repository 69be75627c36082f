"""A site that holds a published model and enough patients to finish it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction.finish import finish
from flo.clients.records.finished_model import FinishedModel
from flo.privacy.patients.split import is_held_out
from flo.published.model_card import PublishedModel
from tests.builders import data_file, make_site, pretend_enrolled
from tests.flo.published_models import COORDINATOR, made

COUNT = 240


@dataclass(frozen=True)
class FinishingSite:
    """``card``: of the published model, as it was fetched."""

    home: SiteHome
    card: Path

    @property
    def model(self) -> PublishedModel:
        return PublishedModel.open(self.card, COORDINATOR.fingerprint)

    def finish(self) -> FinishedModel:
        return finish(self.home, self.card, self.model)

    def held_out(self, patient: str) -> bool:
        population = self.home.read_config().population(None)
        return is_held_out(self.home.open_split_key(), patient, population.hold_out)

    def change(self, *, held_out: bool) -> None:
        """Turn the label of every patient on one side."""
        table = pd.read_csv(data_file(self.home))
        turned = [self.held_out(name) == held_out for name in table["patient_id"]]
        table["ill"] = np.where(turned, 1 - table["ill"], table["ill"])
        table.to_csv(data_file(self.home), index=False)


def patients_csv(prefix: str, file: Path) -> None:
    """Write ``COUNT`` patients of ``small_study`` whose label age and ward predict in part."""
    generator = np.random.default_rng(5)
    age, ward = generator.uniform(20, 90, COUNT), generator.choice(["a", "b", "c"], COUNT)
    risk = expit((age - 60) / 12 + (ward == "b"))
    pd.DataFrame(
        {
            "patient_id": [f"{prefix}{number:04d}" for number in range(COUNT)],
            "age": age.round(1),
            "ward": ward,
            "ill": (generator.random(COUNT) < risk).astype(int),
        }
    ).to_csv(file, index=False)


def finishing_site(
    folder: Path, kind: str = "logistic", *, keystore: dict[str, str] | None = None
) -> FinishingSite:
    home = make_site(folder / "east", "east", keystore=keystore)  # no partner of the study
    pretend_enrolled(home, COORDINATOR)
    patients_csv("east", data_file(home))
    return FinishingSite(home, made(kind).write(folder / "models"))
