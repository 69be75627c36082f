"""A study that breaks a rule is refused, and the refusal names the rule."""

from __future__ import annotations

from typing import Any

import pytest

from flo.errors import StudyError
from flo.study.document import from_document
from tests.builders import small_study, study_document
from tests.flo.studies import (
    AGE,
    DISTRIBUTED,
    GONE,
    IMAGE,
    INF,
    NAN,
    NUMBER,
    PACK,
    SURVEY,
    WARD,
    changed,
    hospitals,
    imaging,
)

LINEAR = PACK["layers"][:1]
WIDE = [{"kind": "Linear", "sizes": [4096, 4096]}, {"kind": "Linear", "sizes": [4096, 1]}]


def two_columns(name: str) -> list[dict[str, Any]]:
    columns: list[dict[str, Any]] = study_document()["data"]["columns"]
    columns[1]["name"] = name
    return columns


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        pytest.param("mechanism.delta", 1.01e-6, "delta", id="delta above 1e-6"),
        pytest.param("hospitals", hospitals(40, 40, 20_000), "delta", id="delta above 1/(100n)"),
        pytest.param("mechanism.delta", 0, "mechanism.delta", id="delta 0"),
        pytest.param("mechanism.delta", NAN, "mechanism.delta", id="delta NaN"),
        pytest.param("mechanism.epsilon", 0, "mechanism.epsilon", id="epsilon 0"),
        pytest.param("mechanism.epsilon", -0.5, "mechanism.epsilon", id="epsilon negative"),
        pytest.param("mechanism.epsilon", INF, "mechanism.epsilon", id="epsilon infinite"),
        pytest.param("mechanism.epsilon", NAN, "mechanism.epsilon", id="epsilon NaN"),
        pytest.param("mechanism.clip", INF, "mechanism.clip", id="clip infinite"),
        pytest.param("mechanism.clip", 0, "mechanism.clip", id="clip 0"),
        pytest.param("mechanism.steps", 0, "mechanism.steps", id="no steps"),
        pytest.param("mechanism.steps", 1.5, "mechanism.steps", id="half a step"),
        pytest.param("mechanism.retry_allowance", -1, "retry_allowance", id="negative allowance"),
        pytest.param("mechanism.momentum", 1, "mechanism.momentum", id="momentum 1"),
        pytest.param("mechanism.noise", "none", "mechanism.noise", id="no noise"),
        pytest.param("mechanism.seed", 1, "mechanism.seed", id="unknown key, nested"),
        pytest.param("evaluation.bins", 4, "leave out bins", id="bins of schema 2"),
        pytest.param("evaluation.epsilon", NAN, "evaluation.epsilon", id="evaluation NaN"),
        pytest.param("hospitals.0.declared_size", 123, "write 120", id="unrounded size"),
        pytest.param(
            "hospitals.0.declared_size", 9, "hospitals 'north'.declared_size", id="tiny size"
        ),
        pytest.param("hospitals.0.id", "south", "hospital id appears twice", id="same hospital"),
        pytest.param(
            "hospitals.0.id", "../north", "hospitals '../north'.id", id="path traversal in id"
        ),
        pytest.param("hospitals.0.id", "North", "hospitals 'North'.id", id="upper case in id"),
        pytest.param("hospitals.0.id", "north\n", ".id: 1 to 63 lower", id="newline in id"),
        pytest.param("hospitals.0.id", "", "hospitals ''.id", id="empty id"),
        pytest.param(
            "hospitals", hospitals(40, 40, fingerprint="a" * 64), "fingerprint", id="same key"
        ),
        pytest.param("hospitals.0.fingerprint", "A" * 64, "fingerprint", id="malformed key"),
        pytest.param("hospitals", [], "hospitals", id="nobody"),
        pytest.param("name", "../../etc/passwd", "name", id="path traversal in name"),
        pytest.param("name", "a/b", "name", id="slash in name"),
        pytest.param("version", 0, "version", id="version 0"),
        pytest.param("expires", "soon", "expires", id="no date"),
        pytest.param("purpose", "  ", "purpose", id="no purpose"),
        pytest.param("purpose", "\ud800", "purpose", id="lone surrogate"),
        pytest.param("legal_basis", GONE, "legal_basis", id="no legal basis"),
        pytest.param("surprise", 1, "surprise", id="unknown key"),
        pytest.param("schema_version", 0, "schema_version 0", id="schema version 0"),
        pytest.param("schema_version", 5, "schema_version 5", id="later schema version"),
        pytest.param("schema_version", "2", "schema_version '2'", id="schema version as text"),
        pytest.param("schema_version", [2], "schema_version [2]", id="schema version in a list"),
        pytest.param("schema_version", None, "schema_version None", id="no schema version"),
        pytest.param("data.columns", two_columns("age"), "name appears twice", id="same column"),
        pytest.param("data.label", "age", "label 'age'", id="label among the columns"),
        pytest.param("data.columns", [], "data.columns", id="no columns"),
        pytest.param(f"{AGE}.maximum", 0, "age: minimum", id="bounds equal"),
        pytest.param(f"{AGE}.maximum", -1, "age: minimum", id="bounds reversed"),
        pytest.param(f"{AGE}.maximum", NAN, "maximum", id="bound NaN"),
        pytest.param(f"{AGE}.minimum", -INF, "minimum", id="bound infinite"),
        pytest.param(f"{AGE}.missing", "indicator", "age: missing_value is", id="no constant"),
        pytest.param(f"{AGE}.missing_value", 50, "age: missing_value is", id="needless constant"),
        pytest.param(
            AGE,
            {**NUMBER, "missing": "indicator", "missing_value": 2},
            "x: missing_value lies outside",
            id="constant outside the bounds",
        ),
        pytest.param(
            f"{AGE}.name", "../age", "data.columns '../age'.name", id="traversal in a column"
        ),
        pytest.param(f"{AGE}.kind", "text", "data.columns 'age'", id="unknown kind of column"),
        pytest.param(f"{WARD}.codes", ["a"], "codes", id="one code"),
        pytest.param(f"{WARD}.codes", ["a", "a"], "code appears twice", id="same code"),
        pytest.param("limits.minimum_cohort", 4, "minimum_cohort 4", id="cohort above hospitals"),
        pytest.param("limits.minimum_cohort", 0, "minimum_cohort", id="empty cohort"),
        pytest.param("limits.deadline_seconds", INF, "deadline_seconds", id="endless deadline"),
        pytest.param("mechanism.sampling", 0, "mechanism.sampling", id="nobody sampled"),
        pytest.param("mechanism.sampling", 0.00099, "mechanism.sampling", id="hardly sampled"),
        pytest.param("mechanism.sampling", 1.01, "mechanism.sampling", id="sampled too often"),
        pytest.param("mechanism.sampling", NAN, "mechanism.sampling", id="sampling NaN"),
        pytest.param(
            "mechanism", {**DISTRIBUTED, "sampling": 0.5}, "sampling = 1 only", id="sampled sum"
        ),
        pytest.param(
            "mechanism", {**DISTRIBUTED, "sampling": 0.999}, "sampling = 1 only", id="nearly all"
        ),
        pytest.param("evaluation.subgroups", ["age"], "'age' is not a category", id="by a number"),
        pytest.param("evaluation.subgroups", ["ill"], "'ill' is not a category", id="by the label"),
        pytest.param("evaluation.subgroups", ["sex"], "'sex' is not a category", id="by nothing"),
        pytest.param("evaluation.subgroups", ["ward=a"], "subgroups", id="by a code"),
        pytest.param("evaluation.subgroups", ["ward"] * 2, "subgroup appears twice", id="by twice"),
        pytest.param("evaluation.subgroups", ["ward"] * 11, "subgroups", id="eleven subgroups"),
        pytest.param("evaluation.subgroups", "ward", "subgroups", id="subgroups as text"),
        pytest.param("model", {"kind": "mlp"}, "hidden", id="mlp without layers"),
        pytest.param("model", {"kind": "mlp", "hidden": []}, "hidden", id="mlp of no layers"),
        pytest.param("model", {"kind": "mlp", "hidden": [8] * 9}, "hidden", id="mlp of nine"),
        pytest.param("model", {"kind": "mlp", "hidden": [8, 0]}, "hidden", id="layer of nothing"),
        pytest.param("model", {"kind": "mlp", "hidden": [4097]}, "hidden", id="layer too wide"),
        pytest.param("model", {"kind": "mlp", "hidden": [1.5]}, "hidden", id="half a unit"),
        pytest.param("model", {"kind": "logistic", "hidden": [8]}, "hidden", id="hidden logistic"),
        pytest.param("model", {"kind": "cnn"}, "a cnn needs an image", id="cnn without image"),
        pytest.param("model", {"kind": "resnet"}, "model", id="unknown model"),
        pytest.param("model", {"kind": "cnn", "pretrained": True}, "pretrained", id="unknown key"),
        pytest.param(AGE, IMAGE, "must be the only column", id="an image beside a number"),
        pytest.param("model", {**PACK, "layers": []}, "layers", id="pack of no layers"),
        pytest.param("model", {**PACK, "layers": LINEAR * 513}, "layers", id="pack of 513 layers"),
        pytest.param("model", {**PACK, "name": "../x"}, "name", id="pack with a path for a name"),
        pytest.param("model", {**PACK, "code": "import os"}, "code", id="pack with code"),
        pytest.param("model", {**PACK, "layers": [{"kind": "Dropout"}]}, "kind", id="dropout"),
        pytest.param(
            "model", {**PACK, "layers": [{"kind": "os.system"}]}, "kind", id="an import for a layer"
        ),
        pytest.param(
            "model", {**PACK, "layers": LINEAR}, "has shape (8,)", id="pack of eight outputs"
        ),
        *(
            pytest.param(
                "model",
                {**PACK, "layers": [{"kind": kind}, *LINEAR]},
                f"{kind.rstrip('12d')} layers are not supported",
                id=kind,
            )
            for kind in ("BatchNorm2d", "Dropout")
        ),
        *(
            pytest.param("model", {**PACK, "layers": layers}, told, id=told)
            for layers, told in (
                (
                    [*LINEAR, {"kind": "Linear", "of": ["more"]}],
                    "takes 'more', and no layer before",
                ),
                ([{**LINEAR[0], "name": "a"}, {"kind": "Tanh", "name": "a"}], "'a' is used twice"),
                ([{**LINEAR[0], "name": "record"}], "the name 'record' is used twice"),
                ([{**LINEAR[0], "by": 2}], "by: of Scale and Shift, and needed there"),
                ([*LINEAR, {"kind": "Scale"}], "by: of Scale and Shift, and needed there"),
                ([{**LINEAR[0], "of": ["../x"]}], "1 to 63 lower-case letters"),
                ([*LINEAR, {"kind": "Scale", "by": 1e9}], "by: "),
            )
        ),
        pytest.param(
            "model",
            {**PACK, "layers": PACK["layers"][1:]},
            "layer 1: Linear",
            id="pack that lacks one",
        ),
        pytest.param(
            "model",
            {**PACK, "layers": [{"kind": "Linear", "sizes": [5, 4096]}, *WIDE]},
            "parameters, limit 4000000",
            id="pack too large",
        ),
        pytest.param("survey", {**SURVEY, "epsilon": 0}, "survey.epsilon", id="survey epsilon 0"),
        pytest.param("survey", {**SURVEY, "epsilon": 11}, "survey.epsilon", id="survey epsilon 11"),
        pytest.param("survey", {**SURVEY, "columns": []}, "survey.columns", id="survey of nothing"),
        pytest.param(
            "survey", {**SURVEY, "columns": ["sex"]}, "survey: columns", id="unknown in survey"
        ),
        pytest.param(
            "survey", {**SURVEY, "columns": ["ill"]}, "survey: columns", id="label in survey"
        ),
        pytest.param(
            "survey", {**SURVEY, "columns": ["age"] * 2}, "each once", id="twice in survey"
        ),
        pytest.param("survey", {**SURVEY, "bins": 1}, "survey.bins", id="survey of one bin"),
        pytest.param("survey", {**SURVEY, "bins": 51}, "survey.bins", id="survey of 51 bins"),
        pytest.param("survey", {"epsilon": 0.5}, "survey.columns", id="survey without columns"),
        pytest.param("survey", {**SURVEY, "exact": True}, "survey.exact", id="exact survey"),
        pytest.param(
            "survey", {**SURVEY, "retry_allowance": -1}, "retry_allowance", id="survey retries"
        ),
        pytest.param(
            "mechanism",
            {**DISTRIBUTED, "colluders": 2, "dropouts": 1},
            "3 - 1 > 2",
            id="K - d <= b",
        ),
        pytest.param("mechanism", {**DISTRIBUTED, "colluders": 3}, "> colluders", id="all collude"),
    ],
)
def test_a_study_that_breaks_a_rule_is_refused(path: str, value: Any, field: str) -> None:
    with pytest.raises(StudyError) as refusal:
        from_document(changed(path, value))
    assert field in str(refusal.value)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        pytest.param(imaging(height=7), "height", id="too low"),
        pytest.param(imaging(width=7), "width", id="too narrow"),
        pytest.param(imaging(height=1025), "height", id="too high"),
        pytest.param(imaging(width=1025), "width", id="too wide"),
        pytest.param(imaging(channels=0), "channels", id="no channel"),
        pytest.param(imaging(channels=17), "channels", id="too many channels"),
        pytest.param(imaging(minimum=255), "px: minimum", id="bounds equal"),
        pytest.param(imaging(minimum=256), "px: minimum", id="bounds reversed"),
        pytest.param(imaging(maximum=INF), "maximum", id="bound infinite"),
        pytest.param(imaging(missing="indicator"), "missing", id="an image may not be missing"),
        pytest.param(imaging(name="../px"), "name", id="traversal"),
        pytest.param(imaging(label="px"), "label 'px' is also", id="label is the image"),
        pytest.param(imaging(scattering=2), "multiples of 4", id="sides that no wavelet halves"),
        pytest.param(imaging(scattering=0), "scattering", id="no scale"),
        pytest.param(imaging(width=8, scattering=2), "a cnn needs", id="a cnn of wavelets"),
    ],
)
def test_an_image_column_that_breaks_a_rule_is_refused(
    document: dict[str, Any], field: str
) -> None:
    with pytest.raises(StudyError) as refusal:
        from_document(document)
    assert field in str(refusal.value)


@pytest.mark.parametrize("other", [NUMBER, {**IMAGE, "name": "second"}], ids=["number", "image"])
def test_a_cnn_with_a_second_column_is_refused(other: dict[str, Any]) -> None:
    document = imaging()
    for columns in ([*document["data"]["columns"], other], [other, *document["data"]["columns"]]):
        document["data"]["columns"] = columns
        with pytest.raises(StudyError, match="must be the only column"):
            from_document(document)


@pytest.mark.parametrize("label", ["px_0", "px_71"])
def test_a_label_that_is_also_a_pixel_is_refused(label: str) -> None:
    with pytest.raises(StudyError, match="label"):
        from_document(imaging(label=label))


def test_distributed_noise_with_one_hospital_is_refused() -> None:
    with pytest.raises(StudyError, match="at least two hospitals"):
        small_study(
            hospitals=hospitals(40),
            mechanism=DISTRIBUTED,
            limits={"deadline_seconds": 10, "minimum_cohort": 1},
        )


@pytest.mark.parametrize("document", [None, [], "study", 1])
def test_what_is_no_table_is_no_study(document: Any) -> None:
    with pytest.raises(StudyError):
        from_document(document)


def test_every_problem_is_named_not_only_the_first() -> None:
    document = study_document(name="A", version=0)
    with pytest.raises(StudyError, match=r"(?s)name: .*version: "):
        from_document(document)


def test_an_error_names_the_column_and_not_its_place_in_the_file() -> None:
    for path, value, said in (
        (f"{AGE}.unit", GONE, "data.columns 'age'.unit: Field required"),
        (f"{WARD}.codes", ["a"], "data.columns 'ward'.codes: "),
        (f"{AGE}.name", "Größe", "data.columns 'Größe'.name: up to 100 letters without accents"),
        ("hospitals.1.id", "Köln", "hospitals 'Köln'.id: 1 to 63 lower-case letters"),
        ("hospitals.1.declared_size", "many", "hospitals 'south'.declared_size: "),
    ):
        with pytest.raises(StudyError) as refused:
            from_document(changed(path, value))
        assert said in str(refused.value)


def test_a_name_that_is_no_text_or_very_long_leaves_the_error_readable() -> None:
    for name in (["age"], {"a": 1}, "x" * 5000, "a\x1b[2J"):
        with pytest.raises(StudyError) as refused:
            from_document(changed(f"{AGE}.name", name))
        assert len(str(refused.value)) < 500
        assert "\x1b" not in str(refused.value)
