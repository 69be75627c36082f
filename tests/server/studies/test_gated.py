"""The models that a gate compares are this coordinator's, of the study's columns, and few."""

from __future__ import annotations

from typing import Any

import pytest

from flo.errors import StudyError
from flo.published.model_card import ModelCard
from flo.server.studies.gated import described, refuse_more_attempts, with_models
from flo.study.document import Study, from_document
from flo.study.gate_draft import draft
from tests.builders import small_study, study_document
from tests.flo.studies import frozen_study

OLD, NEW = "ab" * 32, "cd" * 32
DATA: dict[str, Any] = study_document()["data"]


def gated(**terms: Any) -> Study:
    return small_study(schema_version=4, gate={"epsilon": 0.5, "current": OLD} | terms)


def of(study: Study) -> Any:
    """A coordinator whose only model is of this study."""

    def card_of(digest: str) -> tuple[ModelCard | None, Study]:
        assert digest == OLD
        return None, study

    return card_of


def test_signing_adds_how_patients_become_the_inputs_of_the_models() -> None:
    old = small_study(name="old", version=3, model={"kind": "mlp", "hidden": [4]})
    found = with_models(gated(), of(old))
    assert found.gate is not None
    (model,) = found.gate.models
    assert (model.card, model.title, model.model.kind) == (OLD, "old, version 3", "mlp")
    assert model.columns == ("age", "ward")
    assert with_models(found, of(old)) == found


def test_a_study_that_describes_other_models_than_it_names_is_refused() -> None:
    found = with_models(gated(), of(small_study(name="old")))
    with pytest.raises(StudyError, match="describes other models"):
        with_models(found, of(small_study(name="other")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"label": "dead"},
            "has the label 'dead' and records_per_patient = 'one'; this study has 'ill'",
        ),
        ({"records_per_patient": "many"}, "records_per_patient = 'many'"),
        (
            {"columns": [*DATA["columns"], {**DATA["columns"][0], "name": "weight"}]},
            "has a column 'weight', and this study has none of that name",
        ),
        (
            {"columns": [{**DATA["columns"][0], "maximum": 120}]},
            "has another column 'age'",
        ),
    ],
    ids=["label", "records", "a column more", "other bounds"],
)
def test_a_model_of_other_inputs_or_another_outcome_cannot_be_compared(
    changes: dict[str, Any], said: str
) -> None:
    old = small_study(name="old", data=DATA | changes)
    with pytest.raises(StudyError, match=said):
        with_models(gated(), of(old))


def test_a_model_with_frozen_layers_is_not_compared() -> None:
    """Its numbers are not everybody's who would score with it."""
    with pytest.raises(StudyError, match="has frozen layers, with which a gate does not score"):
        with_models(gated(), of(frozen_study()))


def test_gates_of_one_current_model_share_their_error() -> None:
    fifth = [gated(attempts=5, epsilon=0.1 + n / 100) for n in range(6)]
    refuse_more_attempts(fifth[4], fifth[:4])
    with pytest.raises(StudyError, match="5 gates of this current model have used 100% of"):
        refuse_more_attempts(fifth[5], fifth[:5])
    with pytest.raises(StudyError, match="have used 20% of the 5% error"):
        refuse_more_attempts(gated(), fifth[:1])
    refuse_more_attempts(fifth[0], [fifth[0], *fifth[1:5]])  # signed before: the same one
    refuse_more_attempts(gated(current=NEW), fifth)  # of another model


def test_a_draft_has_the_columns_of_both_models_and_nothing_of_training() -> None:
    more = {**DATA["columns"][0], "name": "weight"}
    new = small_study(name="new", data=DATA | {"columns": [*DATA["columns"], more]})
    old = small_study(name="old", data=DATA | {"columns": [DATA["columns"][1]]})
    wide = small_study(name="wide", data=DATA | {"columns": [more, *DATA["columns"]]})
    terms: dict[str, Any] = {"epsilon": 0.3, "prevalence": 0.2, "subgroups": ("ward",)}
    for one, other in ((new, old), (old, wide)):
        drafted = draft((NEW, one), (OLD, other), **terms)
        assert not {"model", "evaluation", "statistics"} & set(drafted)
        study = from_document(drafted)
        assert study.compares
        assert {column.name for column in study.data.columns} >= {
            column.name for which in (one, other) for column in which.data.columns
        }
        study.with_compared([described(NEW, one), described(OLD, other)])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": "dead"}, "the candidate predicts 'ill', the current model 'dead'"),
        ({"columns": [{**DATA["columns"][0], "maximum": 120}]}, "two meanings of column 'age'"),
    ],
    ids=["label", "bounds"],
)
def test_models_that_cannot_be_compared_are_not_drafted(changes: dict[str, Any], said: str) -> None:
    old = small_study(name="old", data=DATA | changes)
    with pytest.raises(StudyError, match=said):
        draft((NEW, small_study()), (OLD, old), epsilon=0.3, prevalence=0.2)
