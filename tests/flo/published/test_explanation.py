"""What a model says of itself: exact for its weights, and silent where noise hides the sign."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from flo.arrays import Floats
from flo.errors import UsageError
from flo.privacy.releases import model_noise
from flo.published.card_plots import effects_plot
from flo.published.explanation import CERTAIN, Column, Effect, contributions, effects
from flo.published.model_card import PublishedModel
from flo.study.models import build, parameter_count
from flo.study.synthetic import made_up_inputs
from tests.builders import small_study
from tests.flo.published_models import STUDIES, made

STUDY = STUDIES["gated"]
P = parameter_count(STUDY)
AVERAGE = (0.1, 0.5, 0.25, 0.15, 0.1)  # age; ward = a, b, c, missing


def model_with(weights: list[float], noise: Floats, error: float = 0.0) -> PublishedModel:
    published = made("gated").open()
    stated = {
        "noise": tuple(model_noise.packed(noise).tolist()),
        "average": AVERAGE,
        "average_deviation": error,
    }
    card = published.card.model_copy(update=stated)
    return replace(published, card=card, weights=np.array(weights))


def test_contributions_add_up_to_the_distance_from_the_average_patient() -> None:
    model = model_with([2.0, 1.0, 0.5, -1.0, 0.25, -3.0], 0.01 * np.eye(P))
    inputs = made_up_inputs(STUDY.data)[:50]
    told = contributions(model, inputs)
    assert told.columns == ("age", "ward")
    average = model.log_odds(np.array([AVERAGE]))[0]
    np.testing.assert_allclose(told.values.sum(axis=1), model.log_odds(inputs) - average)
    np.testing.assert_allclose(told.values[:, 0], 2.0 * (inputs[:, 0] - 0.1))


def test_their_deviation_is_that_of_redrawn_weights() -> None:
    generator = np.random.default_rng(4)
    root = generator.normal(size=(P, P))
    noise = root @ root.T
    model = model_with([0.0] * P, noise)
    inputs = made_up_inputs(STUDY.data)[:5]
    weights = generator.multivariate_normal(np.zeros(P), noise, size=4000)
    redrawn = [contributions(replace(model, weights=one), inputs) for one in weights]
    found = np.std([one.values for one in redrawn], axis=0)
    np.testing.assert_allclose(contributions(model, inputs).deviations, found, rtol=0.1)


def test_reasons_are_those_whose_sign_noise_does_not_hide() -> None:
    patient = np.array([[0.6, 0.0, 0.0, 1.0, 0.0]])  # .5 older than the average, ward c
    certain = model_with([2.0, 0.0, 0.0, -1.0, 0.0, 0.0], 1e-4 * np.eye(P))
    told = contributions(certain, patient)
    (first, raised), (second, lowered) = told.reasons(0)
    assert (first, second) == ("age", "ward")
    assert raised == pytest.approx(1.0)
    assert lowered == pytest.approx(-0.85)
    hidden = np.diag([1e-4, 1.0, 1.0, 1.0, 1.0, 1.0])
    one_left = contributions(model_with([2.0, 0, 0, -1.0, 0, 0], hidden), patient)
    assert one_left.reasons(0) == [], "one reason alone is right too seldom"


def test_effects_name_each_edge_and_hide_what_noise_may_have_turned() -> None:
    model = model_with([2.0, 0.3, 0.0, -1.0, 0.0, 0.0], 0.01 * np.eye(P))
    age, ward = effects(model)
    assert (age.name, ward.name) == ("age", "ward"), "the most important first"
    low, high = age.effects
    assert (low.name, low.where, high.where) == ("at 0", "at 0 years", "at 100 years")
    assert low.value == pytest.approx(2.0 * -1.1)
    assert high.value == pytest.approx(2.0 * 0.9)
    assert low.is_certain
    assert low.interval[1] < 0
    words = {effect.name: effect for effect in ward.effects}
    assert set(words) == {"= a", "= b", "= c", "missing"}
    assert abs(words["= c"].value) > CERTAIN * words["= c"].deviation
    assert not words["= b"].is_certain


@pytest.mark.slow
def test_a_networks_contributions_are_integrated_gradients() -> None:
    """Against gradients at 2,000 points of the way, by torch alone."""
    model = network()
    inputs = made_up_inputs(STUDY.data)[:6]
    module = build(model.study).double()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(model.weights), module.parameters())
    baseline, ends = torch.tensor([AVERAGE], dtype=torch.float64), torch.from_numpy(inputs)
    total = torch.zeros_like(ends)
    for step in range(2000):
        point = (baseline + (step + 0.5) / 2000 * (ends - baseline)).requires_grad_()
        total += torch.autograd.grad(module(point).sum(), point)[0]
    exact = (total / 2000 * (ends - baseline)).numpy()
    told = contributions(model, inputs)
    np.testing.assert_allclose(told.values[:, 0], exact[:, 0], atol=1e-6)
    np.testing.assert_allclose(told.values[:, 1], exact[:, 1:].sum(axis=1), atol=1e-6)
    average = model.log_odds(np.array([AVERAGE]))[0]
    added = told.values.sum(axis=1)
    np.testing.assert_allclose(added, model.log_odds(inputs) - average, atol=1e-5)
    assert {column.name for column in effects(model)} == {"age", "ward"}


def test_explaining_a_network_names_the_extra_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UsageError, match="needs captum") as refused:
        contributions(network(), made_up_inputs(STUDY.data)[:1])
    assert "flo-federated[explain]" in refused.value.hint


def network() -> PublishedModel:
    """A network that bends, with the noise of a linear model."""
    study = small_study(model={"kind": "mlp", "hidden": [7, 3]})
    weights = np.random.default_rng(5).normal(size=parameter_count(study))
    return replace(model_with([0.0] * P, 0.01 * np.eye(P)), study=study, weights=weights)


def test_the_most_important_column_is_not_the_one_with_the_largest_noise() -> None:
    quiet = effects(model_with([1.0, 0, 0, 0, 0, 0], 100 * np.eye(P)))
    assert quiet[0].name == "age"
    assert not any(effect.is_certain for column in quiet for effect in column.effects)


def test_where_the_average_is_hardly_known_a_patient_near_it_has_no_reason() -> None:
    """Its noise may put the patient on the other side."""
    patient = np.array([[0.2, 0.0, 0.0, 1.0, 0.0]])  # .1 older than the average
    weights = [5.0, 0.0, 0.0, -1.0, 0.0, 0.0]
    known = contributions(model_with(weights, 1e-6 * np.eye(P)), patient)
    assert [name for name, _ in known.reasons(0)] == ["ward", "age"]
    vague = contributions(model_with(weights, 1e-6 * np.eye(P), error=0.05), patient)
    assert vague.deviations[0, 0] == pytest.approx(0.25, rel=0.01)
    assert vague.reasons(0) == []


def test_without_stated_noise_nothing_is_explained() -> None:
    with pytest.raises(UsageError, match="states no noise, so a reason cannot be told from chance"):
        contributions(made("gated").open(), np.zeros((1, P - 1)))


def test_effects_of_one_plot_are_never_called_alike() -> None:
    """A long title is cut, and what tells its effects apart is not."""
    names = ("= upsloping", "= flat", "= downsloping", "missing", "at 18 years")
    codes = ("= Non-Intersection_-_On_Roadway", "= Non-Intersection_-_On_Road_Shoulder")
    own = tuple(Effect(name, 1.0, 0.01) for name in names)
    long = "slope of the ST segment at peak exercise"
    places = Column("l", "location", 1.0, tuple(Effect(name, 1.0, 0.01) for name in codes))
    columns = [Column("slope", long, 1.0, own), Column("s", "s", 1.0, own[:1]), places]
    plot = effects_plot(columns)
    assert plot is not None
    shown = [row.name for row in plot.rows]
    assert len(set(shown)) == len(shown)
    assert "s = upsloping" in shown
    assert all(any(one.endswith(name) for one in shown) for name in names)
    assert all(any(one.endswith(name[-10:]) for one in shown) for name in codes)
    assert max(map(len, shown)) <= 32


@pytest.mark.filterwarnings("error")
def test_many_patients_of_a_network_are_explained_as_few_are() -> None:
    model, inputs = network(), made_up_inputs(STUDY.data)[:700]
    whole = contributions(model, inputs).values
    few = np.concatenate([contributions(model, inputs[i : i + 7]).values for i in range(0, 700, 7)])
    np.testing.assert_allclose(whole, few, atol=1e-12)
    assert contributions(model, inputs[:0]).values.shape == (0, 2)
