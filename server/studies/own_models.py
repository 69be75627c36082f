"""The models that this coordinator has published, as a later study finds and opens them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from flo.documents import canonical
from flo.errors import StudyError, TrustError
from flo.privacy.releases import asked_model, gate
from flo.published.model_card import MAX_CARD_BYTES, ModelCard, PublishedModel, paths_of, read_card
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.rounds.continuing import EarlierModel, mean_of
from flo.server.studies.ancestors import refuse_unfit
from flo.server.studies.gated import refuse_incomparable
from flo.study.document import Study
from flo.study.parameters import Vector
from flo.study.usual import worth


class OwnModels:
    """The models that a coordinator has published, by the SHA-256 of their cards."""

    def __init__(self, home: CoordinatorHome) -> None:
        self._home, self._folder = home, home.directory / "models"

    def card(self, digest: str) -> tuple[ModelCard, Study]:
        """Return a checked card and its study.

        Raises:
            StudyError: there is no such model here, or its tensors are gone. TrustError: the card
            is not signed by this coordinator.
        """
        card = read_card(self._path(digest))
        return card, card.check(*self._home.fingerprints())

    def check_tensors(self, digest: str) -> None:
        """Check a model's tensors in pieces, without loading them. Raises TrustError."""
        path = self._path(digest)
        card, tensors = read_card(path), paths_of(path)[1]
        with tensors.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != card.file:
                raise TrustError(f"{tensors.name}: not the tensors that the model card names")

    def open(self, digest: str) -> PublishedModel:
        """Return a model whose card and tensors were checked. Raises as ``card`` does."""
        return PublishedModel.open(self._path(digest), *self._home.fingerprints())

    def _path(self, digest: str) -> Path:
        for path in self._folder.glob("*.card.json"):
            if not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
                continue
            if canonical.digest(path.read_bytes()) == digest:
                if not paths_of(path)[1].is_file():
                    raise StudyError(
                        f"the tensors of the model with the card {digest[:12]} are not "
                        f"in {self._folder}: they were erased, or moved away",
                        hint=f"put {paths_of(path)[1].name} back, or name another model",
                    )
                return path
        raise StudyError(
            f"this coordinator has published no model whose card is {digest[:12]}",
            hint="`flo model show` and the console's page of a model state the digest of its card",
        )


def earlier_model(study: Study, models: OwnModels) -> EarlierModel | None:
    """Return what a study continues, from checked tensors. Raises as ``with_lineage`` does."""
    if study.continues is None:
        return None
    opened = [models.open(digest) for digest in study.continues.models]
    for model in opened:
        refuse_unfit(study, model.card, model.study)
    return mean_of([EarlierModel(model.weights, _whole_worth(model.study)) for model in opened])


def compared_models(study: Study, models: OwnModels) -> Vector:
    """Return what a request carries of the models published before, from checked tensors.

    The current model's scorer; in a study that only compares or watches, the whole request.

    Raises as ``flo.server.studies.gated.with_models`` does.
    """
    scorers = []
    for digest in study.published_models:
        model = models.open(digest)
        refuse_incomparable(study, model.study)
        scorers.append(asked_model.scorer(model.weights, model.card.calibration))
    if study.compares:
        assert study.gate is not None
        assert study.gate.prevalence is not None
        return gate.request(scorers[0], scorers[1], study.gate.prevalence)
    return scorers[0]


def _whole_worth(study: Study) -> float:
    return worth(study) + sum(ancestor.worth for ancestor in study.lineage)
