"""Which models a study may continue, and what it then says of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.errors import FloError, StudyError, TrustError
from flo.keys.identity import Identity
from flo.published.model_card import MAX_CARD_BYTES, ModelCard
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.maintenance.key_rotation import replace_key
from flo.server.store.hospitals import Member
from flo.server.store.store import Store
from flo.server.studies import validation
from flo.server.studies.erase import shred
from flo.server.studies.own_models import OwnModels, earlier_model
from flo.server.studies.signing import StudySigner
from flo.study.document import Study, from_document
from flo.study.models import parameter_count
from flo.study.usual import worth
from tests.builders import HOSPITALS, study_document
from tests.flo.published_models import MALLORY
from tests.server.continued import publish


class Scene:
    """A coordinator with enrolled hospitals, which signs studies and has published models."""

    def __init__(self, home: CoordinatorHome, store: Store) -> None:
        self.home, self.store, self.signer = home, store, StudySigner(home, store)

    def study(self, version: int, *models: ModelCard, **changes: Any) -> Study:
        """As a person writes it, with the keys that signing adds."""
        document = study_document(schema_version=4, version=version)
        if models:
            document["continues"] = {"models": [card.digest for card in models]}
        return from_document(document | changes).with_fingerprints(self.store.keys())

    def published(self, version: int, *models: ModelCard, **changes: Any) -> ModelCard:
        return publish(self.home, self.signer.filled_in(self.study(version, *models)), **changes)

    def files(self, card: ModelCard) -> tuple[Path, Path]:
        """Its card and tensors."""
        (path,) = (
            path
            for path in (self.home.directory / "models").glob("*.card.json")
            if path.read_bytes() == card.to_bytes()
        )
        return path, path.with_name(path.name.replace(".card.json", ".safetensors"))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    home = CoordinatorHome.create(tmp_path / "home", CoordinatorConfig())
    with closing(home.open_store()) as store:
        for name in HOSPITALS:
            key = Identity.new()
            store.add_invitation(name, name)
            store.enrol(name, Member(name, key.public, key.fingerprint, name, False, None))
        yield Scene(home, store)


def test_a_study_states_all_that_its_models_learnt_from(scene: Scene) -> None:
    first = scene.published(1)
    second = scene.published(2, first)
    beside = scene.published(3)
    asked = scene.study(4, second, beside)
    offer = scene.signer.offer(asked, "Ada")
    assert [one.version for one in offer.study.lineage] == [1, 2, 3]
    assert [one.card for one in offer.study.lineage] == [
        card.digest for card in (first, second, beside)
    ]
    for one, card in zip(offer.study.lineage, (first, second, beside), strict=True):
        study = card.check(scene.home.open_identity().fingerprint)
        assert (one.study, one.epsilon, one.delta) == (study.digest, card.epsilon, card.delta)
        assert one.worth == worth(study) == pytest.approx(0.75 * 120 * 0.9**2)
    assert scene.signer.complete(asked) == offer.study, "what a dry run says is what is signed"
    assert scene.signer.filled_in(offer.study) == offer.study


def test_models_are_combined_by_what_all_their_studies_are_worth(scene: Scene) -> None:
    size = parameter_count(scene.study(1))
    first = scene.published(1)
    second = scene.published(2, first, weights=np.full(size, 3.0))
    beside = scene.published(3, weights=np.full(size, -3.0))
    asked = scene.signer.filled_in(scene.study(4, second, beside))
    found = earlier_model(asked, OwnModels(scene.home))
    assert found is not None
    assert found.weights == pytest.approx(3.0 * 2 / 3 - 3.0 / 3)
    assert found.worth == pytest.approx(3 * worth(asked))
    assert earlier_model(scene.study(5), OwnModels(scene.home)) is None


def test_models_that_earlier_keys_signed_are_continued(scene: Scene) -> None:
    first = scene.published(1)
    replace_key(scene.home)
    signed = scene.signer.offer(scene.study(2, first), "Ada").study
    assert [one.card for one in signed.lineage] == [first.digest]


# -- refused, before anything is signed ------------------------------------------------------------


def refused(scene: Scene, study: Study, why: str, error: type[FloError] = StudyError) -> None:
    with pytest.raises(error, match=why):
        scene.signer.offer(study, "Ada")
    assert scene.store.offers() == []
    assert scene.store.count_events()["offered"] == 0


def test_an_unknown_model_is_refused(scene: Scene) -> None:
    other = scene.published(1).model_copy(update={"run": "run-2"})
    refused(scene, scene.study(2, other), f"published no model whose card is {other.digest[:12]}")


def test_a_model_of_another_coordinator_is_refused(scene: Scene) -> None:
    card = scene.published(1, signer=MALLORY)
    refused(scene, scene.study(2, card), "signed by another coordinator", TrustError)


def test_a_card_that_nobody_signed_is_refused(scene: Scene) -> None:
    card = scene.published(1)
    path, _ = scene.files(card)
    unsigned = card.model_copy(update={"epsilon": card.epsilon / 2})
    path.write_bytes(unsigned.to_bytes())
    refused(scene, scene.study(2, unsigned), "signature of this model-card", TrustError)


def test_tensors_that_were_changed_are_refused(scene: Scene) -> None:
    card = scene.published(1)
    _, tensors = scene.files(card)
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    refused(scene, scene.study(2, card), "not the tensors that the model card names", TrustError)


def test_a_model_that_was_erased_is_refused(scene: Scene) -> None:
    card = scene.published(1)
    _, tensors = scene.files(card)
    tensors.unlink()
    refused(scene, scene.study(2, card), "were erased, or moved away")


def test_an_unfinished_model_is_refused(scene: Scene) -> None:
    card = scene.published(1, rounds=2)
    refused(scene, scene.study(2, card), "version 1, is unfinished: 2 of 3 rounds")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"label": "dead"}, "label is 'ill' there, and 'dead' here"),
        ({"columns": [("maximum", 120)]}, "column 'age' is .*maximum=100.* there, .*maximum=120"),
        ({"columns": [("name", "years")]}, "its columns are age, ward"),
        ({"records_per_patient": "many"}, "records_per_patient is 'one' there"),
    ],
    ids=["label", "bounds", "name", "records"],
)
def test_a_model_of_other_inputs_is_refused(
    scene: Scene, changed: dict[str, Any], why: str
) -> None:
    card, data = scene.published(1), study_document()["data"]
    for name, value in changed.pop("columns", []):
        data["columns"][0][name] = value
    refused(scene, scene.study(2, card, data=data | changed), f"other inputs.*{why}")


def test_a_model_of_another_kind_is_refused(scene: Scene) -> None:
    network = scene.study(2, scene.published(1), model={"kind": "mlp", "hidden": [3]})
    refused(scene, network, r"has another \[model\]: kind='logistic', and this study kind='mlp'")


def test_a_study_that_would_count_twice_is_refused(scene: Scene) -> None:
    first = scene.published(1)
    second, third = scene.published(2, first), scene.published(3, first)
    for models in ((first, second), (second, third)):
        refused(scene, scene.study(4, *models), "learnt from tiny, version 1 .* count twice")


def test_another_lineage_than_the_models_have_is_refused(scene: Scene) -> None:
    filled = scene.signer.filled_in(scene.study(2, scene.published(1)))
    cheaper = [one.model_copy(update={"epsilon": 0.1}) for one in filled.lineage]
    refused(scene, filled.with_lineage(cheaper), "another lineage than that of its models")


def test_a_study_that_its_lineage_makes_too_large_is_refused(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once signed it could not be read again, and no page or run would go on."""
    asked = scene.study(2, scene.published(1))
    size = len(scene.signer.filled_in(asked).canonical_bytes)
    monkeypatch.setattr(validation, "MAX_STUDY_BYTES", size - 1)
    refused(scene, asked, f"with keys and lineage the study has {size} bytes, limit {size - 1}")
    monkeypatch.setattr(validation, "MAX_STUDY_BYTES", size)
    scene.signer.offer(asked, "Ada")


def test_more_hospitals_than_can_run_together_are_refused(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scene.study(2, scene.published(1))
    most = len(asked.hospitals)
    monkeypatch.setattr(validation, "MOST_CONNECTED", most - 1)
    refused(scene, asked, f"has {most} hospitals, and at most {most - 1} run one together")
    monkeypatch.setattr(validation, "MOST_CONNECTED", most)
    scene.signer.offer(asked, "Ada")


def test_what_is_no_card_in_the_folder_is_passed_over(scene: Scene) -> None:
    card = scene.published(1)
    folder = scene.home.directory / "models"
    (folder / "a.card.json").symlink_to(folder / "nowhere")
    (folder / "b.card.json").mkdir()
    (folder / "c.card.json").write_bytes(bytes(MAX_CARD_BYTES + 1))
    assert scene.signer.complete(scene.study(2, card)).lineage[0].card == card.digest


def test_a_study_that_continues_nothing_opens_no_key(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CoordinatorHome, "fingerprints", None)
    scene.signer.filled_in(scene.study(1))


# -- erased under way ------------------------------------------------------------------------------


def test_a_model_is_not_erased_while_a_study_continues_it(scene: Scene) -> None:
    first = scene.signer.offer(scene.study(1), "Ada")
    card = publish(scene.home, first.study)
    scene.store.set_status(first.study.digest, "done")
    second = scene.signer.offer(scene.study(2, card), "Ada").study
    offer = scene.store.offer(first.study.digest)
    assert offer is not None
    salt = scene.store.salt(first.study.digest)
    with pytest.raises(StudyError, match="tiny, version 2, is offered and continues"):
        shred(scene.home, scene.store, offer, "Ada", None)
    assert scene.store.salt(first.study.digest) == salt
    scene.store.set_status(second.digest, "stopped")
    shred(scene.home, scene.store, offer, "Ada", None)
