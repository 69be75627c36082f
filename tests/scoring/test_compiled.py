"""A compiled model says of every record what the model itself says, and nothing of a wrong one."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flo.clients.prediction.flag_rule import FlagRule, GroupThreshold
from flo.clients.prediction.scorer import Scorer
from flo.clients.sources.mapping import MappedColumn, record_fields
from flo.published.compile import compiled
from flo.published.model_card import PublishedModel
from flo.published.onnx import places_of, to_onnx
from flo.scoring.compiled import CompiledModel, Scored
from flo.scoring.network import network
from flo.scoring.record import RecordEncoder
from flo.scoring.request import MAX_BODY, Answer, answer, answer_body
from flo.study.columns import CategoryColumn, ImageColumn, NumberColumn
from tests.flo.published_models import made

GATED = made("gated").open()


def rule_of(model: PublishedModel, *groups: float) -> FlagRule:
    names = ["a", "b", "c", "missing"]
    return FlagRule(
        name=model.study.name,
        version=model.study.version,
        study=model.study.digest,
        card=model.card.digest,
        threshold=0.4,
        column="ward" if groups else None,
        groups=tuple(
            GroupThreshold(group=name, risk=risk)
            for name, risk in zip(names, groups, strict=bool(groups))
        )
        if groups
        else (),
        judged="0" * 64 if groups else "",
        by="A. Steward",
        why="a test",
        time="2026-11-30T00:00:00+00:00",
    )


def given(rule: FlagRule | None) -> Any:
    if rule is None:
        return None
    return rule.column, [one.risk for one in rule.groups] or [rule.threshold]


def record(dice: random.Random, model: PublishedModel) -> dict[str, Any]:
    """A record whose cells are right, most of the time."""
    found: dict[str, Any] = {}
    for column in model.study.data.columns:
        right = dice.random() < 1 - 0.4 / len(model.study.data.columns)
        if isinstance(column, NumberColumn):
            cell: Any = dice.choice([column.minimum, column.maximum, None, "x", -1e9])
            if right:
                cell = dice.uniform(column.minimum, column.maximum)
        elif isinstance(column, CategoryColumn):
            cell = dice.choice(column.codes if right else [*column.codes, None, "z"])
        else:
            assert isinstance(column, ImageColumn)
            cell = [dice.uniform(column.minimum, column.maximum) for _ in column.pixels]
        found[column.name] = cell
    return found


def compare(model: PublishedModel, rule: FlagRule | None, own: CompiledModel, near: float) -> int:
    """How many of 500 random records have a score; all of them as the scorer has it."""
    dice, encoder = random.Random(5), RecordEncoder(model.study.data.columns)
    scorer, scored = Scorer(model, rule), 0
    for _ in range(500):
        cells = record(dice, model)
        encoded = encoder.encode(cells)
        said = answer(own, {"record": cells})
        if encoded.inputs is None:
            wrong = [{"column": own.words[name], "rule": rule} for name, rule in encoded.broken]
            assert said.status == 422
            assert said.said["wrong"] == wrong
            continue
        (expected,) = scorer.score(np.asarray(encoded.inputs)[None], explain=False)
        found = said.said
        assert (found["model"], found["card"]) == (model.study.name, model.card.digest)
        for name in ("score", "risk", "low", "high"):
            there, here = getattr(expected, name), found[name]
            assert (there is None) == (here is None)
            assert there is None or math.isclose(there, here, rel_tol=near, abs_tol=near)
        assert found["flagged"] == expected.flagged
        scored += 1
    return scored


@pytest.mark.parametrize(
    ("name", "groups"),
    [("logistic", None), ("gated", ()), ("gated", (0.2, 0.5, 0.7, 0.3))],
    ids=["no risk", "one threshold", "thresholds of groups"],
)
def test_a_linear_model_says_what_the_scorer_says(
    name: str, groups: tuple[float, ...] | None
) -> None:
    model = made(name).open()
    rule = None if groups is None else rule_of(model, *groups)
    document = compiled(model, rule=given(rule))
    assert compare(model, rule, CompiledModel(document), 1e-12) > 300


@pytest.mark.slow  # torch's exporter takes seconds
@pytest.mark.parametrize("name", ["mlp", "cnn", "gru", "lstm", "attention"])
def test_a_network_says_what_the_scorer_says(name: str) -> None:
    model = made(name).open()
    onnx = to_onnx(model)
    places = places_of(onnx, model.study)
    document = compiled(model, places=places, rule=(None, [0.4]))
    own = CompiledModel(document, network(onnx, places))
    assert own.score(own.encoder.encode(record(random.Random(1), model))).flagged in (True, False)
    document = compiled(model, places=places)
    assert compare(model, None, CompiledModel(document, network(onnx, places)), 1e-5) > 300


def test_a_row_of_the_hospitals_own_table_is_read_by_its_mapping() -> None:
    mapping = {
        "age": MappedColumn(field="AGE_M", unit="months", multiply=1 / 12),
        "ward": MappedColumn(field="WARD", codes={"1": "a", "2": "b", "3": "c"}),
    }
    own = CompiledModel(compiled(GATED, fields=record_fields(mapping)))
    row = answer(own, {"row": {"AGE_M": 600, "WARD": "2"}})
    assert row == answer(own, {"record": {"age": 50, "ward": "b"}})
    assert row.status == 200
    assert answer(CompiledModel(compiled(GATED)), {"row": {}}).status == 400


OWN = CompiledModel(compiled(GATED))


def test_a_risk_whose_band_is_too_wide_is_not_stated() -> None:
    curve = GATED.card.calibration
    assert curve is not None
    wide = curve.model_copy(update={"low": tuple(one / 1000 for one in curve.low)})
    card = GATED.card.model_copy(update={"calibration": wide, "golden": None})
    own = CompiledModel(compiled(replace(GATED, card=card), rule=(None, [0.0001])))
    found = own.score(own.encoder.encode({"age": 99, "ward": "b"}))
    assert found == Scored(found.score)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"record": {}, "record": {}}'),
        *(b'{"record": {"age": NaN}}', b'{"record": {"age": 50}, "other": 1}', b'{"record": 5}'),
        *(b'{"record": {}, "row": {}}', b'{"record": {"age": 50, "age": 60, "ward": "a"}}'),
        *(b'{"record": {"age": 50, "ward": "a"}, "explain": true}', b"{}"),
    ],
)
def test_a_request_of_another_form_has_no_score(body: bytes) -> None:
    found = answer_body(OWN, body)
    assert found.status == 400
    assert set(found.said) == {"error"}


def test_what_a_parser_let_through_is_refused() -> None:
    """Lambda's own parser takes NaN, which a table's reader would take for missing."""
    for cell in (math.nan, math.inf):
        assert answer(OWN, {"record": {"age": cell, "ward": "a"}}).status == 400
    assert answer_body(OWN, bytes(MAX_BODY + 1)).status == 413


def test_a_wrong_record_is_told_by_column_and_rule_and_no_value() -> None:
    found = answer_body(OWN, b'{"record": {"age": "Jane Doe", "ward": {"secret": 1}}}')
    assert found.status == 422
    assert [one["column"] for one in found.said["wrong"]] == ["age", "ward"]
    assert "Jane" not in str(found)
    assert "secret" not in str(found)
    assert answer(OWN, {"record": {}}) == Answer(
        422,
        {
            "error": "no score: the record does not fit the study",
            "wrong": [
                {"column": name, "rule": "is missing from the record"} for name in ("age", "ward")
            ],
        },
    )


def test_a_document_with_too_few_weights_has_no_score() -> None:
    document = compiled(GATED)
    short = CompiledModel({**document, "weights": document["weights"][1:]})
    with pytest.raises(ValueError, match="another number of inputs"):
        short.score(short.encoder.encode({"age": 50, "ward": "a"}))
