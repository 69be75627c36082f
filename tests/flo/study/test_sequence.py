"""A sequence's columns are columns of the schema, stated once; its steps begin with the oldest."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from flo.errors import StudyError
from flo.study import networks
from flo.study.document import Study, from_document
from flo.study.features import input_names
from flo.study.gate import ComparedModel
from flo.study.gate_draft import draft
from flo.study.loading import from_canonical
from flo.study.models import build, initial_weights, layers, log_odds
from flo.study.synthetic import made_up_inputs
from tests.builders import small_study, study_document
from tests.flo.studies import history, with_history

PULSE, ROOM = history()["columns"]


def study(model: dict[str, Any] | None = None, **sequence: Any) -> Study:
    data = study_document()["data"] | {"sequence": history(**sequence)}
    return small_study(schema_version=4, data=data, model=model or {"kind": "logistic"})


def test_each_step_has_its_columns_from_the_oldest_to_the_latest() -> None:
    names = [column.name for column in study().data.columns]
    assert names == [
        *("age", "ward"),
        *("pulse_4", "room_4", "pulse_3", "room_3", "pulse_2", "room_2", "pulse_1", "room_1"),
    ]
    visits = study(step="visit", steps=2).data.columns
    assert [one.name for one in visits[2:]] == [
        *("pulse_2", "room_2", "days ago_2", "pulse_1", "room_1", "days ago_1"),
    ]


def test_people_read_when_a_step_is() -> None:
    titles = [column.about for column in study().data.columns[2:]]
    assert titles[0] == "pulse, 90 to 119 days ago"
    assert titles[-1] == "room, 0 to 29 days ago"
    assert study(days=1).data.columns[-1].about == "room, on the day"
    visits = [column.about for column in study(step="visit").data.columns[2:]]
    assert visits[0] == "pulse, 3 visits before the latest"
    assert visits[-1] == "days ago, latest visit"
    assert study(days=1).data.columns[2].about == "pulse, 3 days ago"


def test_a_document_states_the_columns_once_and_comes_back_the_same() -> None:
    made = study({"kind": "gru", "hidden": 5})
    stated = json.loads(made.canonical_bytes)["data"]
    assert [one["name"] for one in stated["columns"]] == ["age", "ward"]
    assert [one["name"] for one in stated["sequence"]["columns"]] == ["pulse", "room"]
    assert from_canonical(made.canonical_bytes) == made
    assert from_document(made.model_dump(mode="json")) == made
    assert made.with_epsilon(0.3).data == made.data


@pytest.mark.parametrize(
    "change",
    [
        *({"steps": 5}, {"step": "visit"}, {"days": 31}, {"columns": [PULSE]}),
        {"columns": [PULSE | {"maximum": 221}, ROOM]},
        {"columns": [PULSE | {"name": "p"}, ROOM]},
    ],
)
def test_every_field_changes_the_digest(change: dict[str, Any]) -> None:
    assert study(**change).digest != study().digest


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 129}, "steps"),
        ({"days": 0}, "days"),
        ({"columns": []}, "columns"),
        ({"columns": [PULSE | {"about": "p" * 81}]}, "at most 80 characters"),
        ({"columns": [PULSE | {"name": "p" * 81}]}, "at most 80 characters"),
        ({"columns": [PULSE | {"missing": "refuse", "missing_value": None}]}, "pulse: a step may"),
        ({"columns": [ROOM | {"changeable_to": "x"}]}, "room: changeable_to is for values"),
        ({"columns": [PULSE | {"name": "days ago"}], "step": "visit"}, "has a column of this name"),
        ({"columns": [PULSE | {"name": "age"}]}, "a column name appears twice"),
        ({"columns": [PULSE | {"name": "ill"}]}, "also an input column"),
        ({"columns": [PULSE, PULSE]}, "a column name appears twice"),
        ({"columns": [PULSE | {"name": f"p{n}"} for n in range(41)], "steps": 128}, "5250 columns"),
    ],
)
def test_what_is_no_sequence_is_refused_by_name(change: dict[str, Any], why: str) -> None:
    with pytest.raises(StudyError, match=why):
        study(**change)


def test_a_column_that_identifies_patients_is_none_of_a_sequence_either() -> None:
    with pytest.raises(StudyError, match="column 'medical record number'"):
        study(columns=[PULSE | {"name": "medical record number"}]).refuse_identifying()


@pytest.mark.parametrize("kind", ["gru", "lstm", "attention"])
def test_a_model_over_steps_needs_a_sequence(kind: str) -> None:
    model = {"kind": kind, "width": 4} if kind == "attention" else {"kind": kind, "hidden": 4}
    with pytest.raises(StudyError, match=f"a model of kind {kind} needs"):
        small_study(model=model)
    with pytest.raises(StudyError, match="whitened trains a model of kind logistic or mlp"):
        study(model).with_mechanism(algorithm="whitened", momentum=0.0)
    with pytest.raises(StudyError, match="no multiple of heads"):
        study({"kind": "attention", "width": 5, "heads": 2})


@pytest.mark.parametrize(
    "model",
    [
        {"kind": "gru", "hidden": 5},
        {"kind": "lstm", "hidden": 5},
        {"kind": "attention", "width": 4},
    ],
)
@pytest.mark.parametrize("step", ["period", "visit"])
def test_a_networks_steps_are_the_columns_of_each(model: dict[str, Any], step: str) -> None:
    made = with_history(step, **model)
    names = input_names(made.data)
    first, *_ = layers(made)
    same, steps, each = first.sizes
    assert steps == 4
    assert names[:same] == ["age", "ward=a", "ward=b", "ward=c", "ward=missing"]
    assert {name.partition("_")[2][0] for name in names[same : same + each]} == {"4"}
    assert networks.output(layers(made), len(names)) == (1,)
    steps_layer = build(made)[0]
    import torch

    rows = torch.arange(2 * len(names), dtype=torch.float32).reshape(2, -1)
    found = steps_layer(rows)
    for step_ in range(4):
        own = rows[:, same + step_ * each : same + (step_ + 1) * each]
        assert torch.equal(found[:, step_, :same], rows[:, :same])
        assert torch.equal(found[:, step_, same:-1], own)
        assert found[0, step_, -1].item() == pytest.approx(-1 + 2 * step_ / 3)


@pytest.mark.parametrize("kind", ["gru", "attention"])
def test_the_order_of_steps_counts(kind: str) -> None:
    """Attention knows a step's place only from the number that each step has."""
    size = "width" if kind == "attention" else "hidden"
    model: dict[str, Any] = {"kind": kind, size: 4}
    made = with_history(**model)
    same, steps, each = layers(made)[0].sizes
    inputs = made_up_inputs(made.data)[:20]
    turned = inputs.copy()
    turned[:, same:] = inputs[:, same:].reshape(20, steps, each)[:, ::-1].reshape(20, -1)
    weights = initial_weights(made)
    assert np.abs(log_odds(made, weights, inputs) - log_odds(made, weights, turned)).max() > 1e-3


def test_only_a_study_of_the_fourth_schema_has_one() -> None:
    with pytest.raises(StudyError, match="only in a study of schema_version = 4"):
        small_study(data=study_document()["data"] | {"sequence": history()})


@pytest.mark.parametrize("steps", [1, 4])
def test_a_model_of_fewer_steps_is_scored_in_a_study_of_more(steps: int) -> None:
    """As a gate or a monitor does: steps are counted from the record's day."""
    model = {"kind": "gru", "hidden": 3}
    longer, other = study(), study(model, steps=steps)
    compared = ComparedModel(
        card="ab" * 32,
        name="other",
        version=1,
        model=other.model,
        columns=tuple(column.name for column in other.data.columns),
    )
    found = longer.in_form_of(compared)
    assert found.data.columns == other.data.columns
    assert layers(found) == layers(other)


def test_a_gate_is_drafted_between_models_of_other_numbers_of_steps() -> None:
    for new, old in ((4, 2), (2, 4), (3, 3)):
        models = ("ab" * 32, study(steps=new)), ("cd" * 32, study(steps=old))
        drafted = draft(*models, epsilon=0.5, prevalence=0.1)
        found = from_document(drafted)
        assert found.data.sequence is not None
        assert found.data.sequence.steps == max(new, old)
    with pytest.raises(StudyError, match="the models have other steps"):
        draft(("ab" * 32, study()), ("cd" * 32, study(days=7)), epsilon=0.5, prevalence=0.1)
