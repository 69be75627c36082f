"""The study: what is refused, and that one document has one digest."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from flo import canonical
from flo.errors import MessageError, StudyError, UsageError
from flo.settings import read_toml
from flo.study import (
    MAX_STUDY_BYTES,
    ImageColumn,
    Study,
    from_canonical,
    from_document,
    largest_delta,
    load,
    round_size,
)
from tests.builders import small_study, study_document

HEART = Path(__file__).resolve().parents[2] / "examples" / "heart" / "study.toml"
INF, NAN = float("inf"), float("nan")
GONE = object()


def changed(path: str, value: Any) -> dict[str, Any]:
    """The small study with one place changed (``a.0.b``), or without it (GONE)."""
    document = study_document()
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = document
    for step in way:
        place = place[step]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return document


def two_columns(name: str) -> list[dict[str, Any]]:
    columns: list[dict[str, Any]] = study_document()["data"]["columns"]
    columns[1]["name"] = name
    return columns


def hospitals(*sizes: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"h{i}", "declared_size": size, **more} for i, size in enumerate(sizes)]


def imaging(model: str = "cnn", label: str = "ill", **image: Any) -> dict[str, Any]:
    """A study of one image column, in which ``image`` changes keys."""
    document = study_document(model={"kind": model})
    document["data"]["label"] = label
    document["data"]["columns"] = [{**IMAGE, **image}]
    return document


IMAGE = {"kind": "image", "name": "px", "height": 8, "width": 9, "minimum": 0, "maximum": 255}
SURVEY = {"epsilon": 0.5, "columns": ["age", "ward"]}
NUMBER = {"kind": "number", "name": "x", "unit": "u", "minimum": 0, "maximum": 1}
AGE, WARD = "data.columns.0", "data.columns.1"
DISTRIBUTED = {**study_document()["mechanism"], "noise": "distributed"}


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
        pytest.param("evaluation.bins", 9, "evaluation.bins", id="too many bins"),
        pytest.param("evaluation.epsilon", NAN, "evaluation.epsilon", id="evaluation NaN"),
        pytest.param("hospitals.0.declared_size", 123, "write 120", id="unrounded size"),
        pytest.param("hospitals.0.declared_size", 9, "hospitals.0.declared_size", id="tiny size"),
        pytest.param("hospitals.0.id", "south", "hospital id stands twice", id="same hospital"),
        pytest.param("hospitals.0.id", "../north", "hospitals.0.id", id="path traversal in id"),
        pytest.param("hospitals.0.id", "North", "hospitals.0.id", id="upper case in id"),
        pytest.param("hospitals.0.id", "north\n", "hospitals.0.id", id="newline in id"),
        pytest.param("hospitals.0.id", "", "hospitals.0.id", id="empty id"),
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
        pytest.param("schema_version", 3, "schema_version 3", id="later schema version"),
        pytest.param("schema_version", "2", "schema_version '2'", id="schema version as text"),
        pytest.param("schema_version", [2], "schema_version [2]", id="schema version in a list"),
        pytest.param("schema_version", None, "schema_version None", id="no schema version"),
        pytest.param("data.columns", two_columns("age"), "column stands twice", id="same column"),
        pytest.param("data.label", "age", "label 'age'", id="label among the columns"),
        pytest.param("data.columns", [], "data.columns", id="no columns"),
        pytest.param(f"{AGE}.maximum", 0, "age: minimum", id="bounds equal"),
        pytest.param(f"{AGE}.maximum", -1, "age: minimum", id="bounds reversed"),
        pytest.param(f"{AGE}.maximum", NAN, "maximum", id="bound NaN"),
        pytest.param(f"{AGE}.minimum", -INF, "minimum", id="bound infinite"),
        pytest.param(f"{AGE}.missing", "indicator", "age: give missing_value", id="no constant"),
        pytest.param(f"{AGE}.missing_value", 50, "age: give missing_value", id="needless constant"),
        pytest.param(
            AGE,
            {**NUMBER, "missing": "indicator", "missing_value": 2},
            "x: missing_value lies outside",
            id="constant outside the bounds",
        ),
        pytest.param(f"{AGE}.name", "../age", f"{AGE}.number.name", id="traversal in a column"),
        pytest.param(f"{AGE}.kind", "text", AGE, id="unknown kind of column"),
        pytest.param(f"{WARD}.codes", ["a"], "codes", id="one code"),
        pytest.param(f"{WARD}.codes", ["a", "a"], "same code stands twice", id="same code"),
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
        pytest.param("evaluation.subgroups", ["ward"] * 2, "subgroup stands twice", id="by twice"),
        pytest.param("evaluation.subgroups", ["ward"] * 11, "subgroups", id="eleven subgroups"),
        pytest.param("evaluation.subgroups", "ward", "subgroups", id="subgroups as text"),
        pytest.param("model", {"kind": "mlp"}, "hidden", id="mlp without layers"),
        pytest.param("model", {"kind": "mlp", "hidden": []}, "hidden", id="mlp of no layers"),
        pytest.param("model", {"kind": "mlp", "hidden": [8] * 9}, "hidden", id="mlp of nine"),
        pytest.param("model", {"kind": "mlp", "hidden": [8, 0]}, "hidden", id="layer of nothing"),
        pytest.param("model", {"kind": "mlp", "hidden": [4097]}, "hidden", id="layer too wide"),
        pytest.param("model", {"kind": "mlp", "hidden": [1.5]}, "hidden", id="half a unit"),
        pytest.param("model", {"kind": "logistic", "hidden": [8]}, "hidden", id="hidden logistic"),
        pytest.param("model", {"kind": "cnn"}, "a cnn needs one image", id="cnn without image"),
        pytest.param("model", {"kind": "resnet"}, "model", id="unknown model"),
        pytest.param("model", {"kind": "cnn", "pretrained": True}, "pretrained", id="unknown key"),
        pytest.param(AGE, IMAGE, "other models need none", id="an image for a logistic model"),
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
        pytest.param(imaging("logistic"), "other models need none", id="logistic"),
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
        with pytest.raises(StudyError, match="one image column and no other"):
            from_document(document)


@pytest.mark.parametrize("label", ["px_0", "px_71"])
def test_a_label_that_is_also_a_pixel_is_refused(label: str) -> None:
    with pytest.raises(StudyError, match="label"):
        from_document(imaging(label=label))


def test_an_image_names_its_pixels_as_the_file_does() -> None:
    (column,) = from_document(imaging(channels=3)).data.columns
    assert isinstance(column, ImageColumn)
    assert column.pixels == tuple(f"px_{i}" for i in range(3 * 8 * 9))


@pytest.mark.parametrize("sampling", [0.001, 0.5, 0.999, 1])
def test_a_study_may_sample_any_share_of_patients_under_local_noise(sampling: float) -> None:
    study = from_document(changed("mechanism.sampling", sampling))
    assert study.mechanism.sampling == sampling
    assert small_study().mechanism.sampling == 1


@pytest.mark.parametrize(
    "model",
    [
        {"kind": "logistic"},
        {"kind": "mlp", "hidden": [1]},
        {"kind": "mlp", "hidden": [4096] * 8},
    ],
    ids=["logistic", "smallest mlp", "largest mlp"],
)
def test_these_models_can_be_named(model: dict[str, Any]) -> None:
    assert small_study(model=model).model.model_dump(mode="json") == model


def test_a_survey_is_the_planned_study_with_a_survey_in_it() -> None:
    survey = from_document(study_document(survey=SURVEY))
    assert survey.purposes == ("survey",)
    assert survey.largest_epsilon == 0.5
    planned = small_study()
    assert planned.purposes == ("training", "evaluation")
    asked = planned.with_survey(**SURVEY)
    assert asked == from_document(study_document(name="tiny-survey", survey=SURVEY))


def test_only_category_columns_of_the_study_are_found_by_name() -> None:
    schema = small_study().data
    assert schema.category("ward") is schema.columns[1]
    for name in ("age", "ill", "nowhere", ""):
        with pytest.raises(ValueError, match="not a category column"):
            schema.category(name)


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


@pytest.mark.parametrize(
    ("size", "delta"), [(40, 1e-6), (10_000, 1e-6), (20_000, 5e-7), (1_000_000, 1e-8)]
)
def test_delta_is_the_smaller_of_a_millionth_and_a_hundredth_of_a_patient(
    size: int, delta: float
) -> None:
    assert largest_delta(size) == pytest.approx(delta, rel=1e-12)
    mechanism = {**study_document()["mechanism"], "delta": largest_delta(size)}
    small_study(hospitals=hospitals(40, size), mechanism=mechanism)


@pytest.mark.parametrize(
    ("size", "rounded"),
    [(10, 10), (99, 99), (101, 100), (303, 300), (1999, 1900), (123456, 120000)],
)
def test_a_size_is_rounded_down_to_two_digits(size: int, rounded: int) -> None:
    assert round_size(size) == rounded
    assert round_size(rounded) == rounded


def test_a_third_may_collude_and_one_of_four_may_drop_out_unless_the_study_says_otherwise() -> None:
    three, seven = small_study(), small_study(hospitals=hospitals(*[40] * 7))
    assert (three.colluders, three.dropouts) == (1, 0)
    assert (seven.colluders, seven.dropouts) == (2, 1)
    chosen = three.with_mechanism(colluders=2, dropouts=0)
    assert (chosen.colluders, chosen.dropouts) == (2, 0)


# -- one document, one digest --------------------------------------------------------------------


def test_canonical_bytes_read_back_as_the_same_study() -> None:
    study = small_study()
    assert from_canonical(study.canonical_bytes) == study
    assert from_canonical(study.canonical_bytes).digest == study.digest
    assert study.digest == canonical.digest(study.canonical_bytes)


def test_the_digest_of_a_study_never_changes_between_versions_of_flo() -> None:
    # Approvals at sites are bound to it: another value needs another schema_version.
    assert (
        small_study().digest == "729b5e863fc768931af86e12a889626fdcefc8be4746f06210c46229ab715652"
    )
    assert (
        small_study(schema_version=1).digest
        == "70fa96de236e7fbbf4e1b001aa157d9b2666992f6cc558cd9d285159d79be757"
    )


# -- studies that FLO 0.1 wrote --------------------------------------------------------------------

# Fields of schema_version 1, as flo/study.py of FLO 0.1.0 declared them; it wrote all of them.
FIELDS_1: dict[str, list[str]] = {
    "": [
        *("schema_version", "name", "version", "purpose", "legal_basis", "expires", "hospitals"),
        *("data", "model", "mechanism", "evaluation", "limits"),
    ],
    "data": ["record", "records_per_patient", "label", "columns"],
    "model": ["kind"],
    "mechanism": [
        *("noise", "epsilon", "delta", "clip", "steps", "learning_rate", "momentum"),
        *("retry_allowance", "colluders", "dropouts"),
    ],
    "evaluation": ["epsilon", "bins", "retry_allowance"],
    "limits": ["deadline_seconds", "minimum_cohort"],
}
COLUMNS_1 = {
    "number": ["kind", "name", "unit", "minimum", "maximum", "missing", "missing_value"],
    "category": ["kind", "name", "codes", "missing"],
}


def bytes_as_flo_0_1_wrote_them(study: Study) -> bytes:
    """What FLO 0.1 encoded: every field it had, defaults too, in canonical JSON."""

    def plain(value: Any) -> Any:
        return value.isoformat() if isinstance(value, date) else value

    document = {name: plain(getattr(study, name)) for name in FIELDS_1[""]}
    for room in ("data", "model", "mechanism", "evaluation", "limits"):
        document[room] = {name: getattr(getattr(study, room), name) for name in FIELDS_1[room]}
    document["data"]["columns"] = [
        {name: getattr(column, name) for name in COLUMNS_1[column.kind]}
        for column in study.data.columns
    ]
    document["hospitals"] = [
        {name: getattr(hospital, name) for name in ("id", "declared_size", "fingerprint")}
        for hospital in study.hospitals
    ]
    return canonical.encode(document)


VERSION_1 = {
    "small": study_document(schema_version=1),
    "heart": read_toml(HEART) | {"schema_version": 1},
    "distributed": study_document(
        schema_version=1, mechanism={**DISTRIBUTED, "colluders": 1, "dropouts": 0}
    ),
    "with keys": study_document(
        schema_version=1, hospitals=[{"id": "a", "declared_size": 40, "fingerprint": "a" * 64}]
    )
    | {"limits": {"minimum_cohort": 1}},
}
every_old = pytest.mark.parametrize("document", VERSION_1.values(), ids=VERSION_1.keys())


@every_old
def test_an_old_study_keeps_its_bytes_and_so_its_signatures(document: dict[str, Any]) -> None:
    study = from_document(document)
    assert study.canonical_bytes == bytes_as_flo_0_1_wrote_them(study)
    assert from_canonical(study.canonical_bytes) == study
    assert from_canonical(study.canonical_bytes).schema_version == 1
    assert b"sampling" not in study.canonical_bytes
    assert b"survey" not in study.canonical_bytes
    assert b"subgroups" not in study.canonical_bytes


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        # Computed by FLO 0.1.0 itself, before schema_version 2 existed.
        ("small", "70fa96de236e7fbbf4e1b001aa157d9b2666992f6cc558cd9d285159d79be757"),
        ("distributed", "16ce66fa30a9e69ed4d8192e33740c1e9ba4ccaa6c1b377b4f763b18ee9369b2"),
    ],
)
def test_an_old_study_keeps_its_digest(name: str, digest: str) -> None:
    assert from_document(VERSION_1[name]).digest == digest


@every_old
def test_the_same_study_in_the_new_schema_is_another_agreement(document: dict[str, Any]) -> None:
    new = from_document({**document, "schema_version": 2})
    assert new.digest != from_document(document).digest
    assert from_canonical(new.canonical_bytes) == new


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("mechanism.sampling", 0.5),
        ("evaluation.subgroups", ["ward"]),
        ("survey", SURVEY),
        ("model", {"kind": "mlp", "hidden": [4]}),
    ],
    ids=["sampling", "subgroups", "survey", "mlp"],
)
def test_an_old_study_with_what_is_new_is_refused(path: str, value: Any) -> None:
    document = changed(path, value)
    from_document(document)
    with pytest.raises(StudyError, match="schema_version 1 knows logistic models and full batches"):
        from_document({**document, "schema_version": 1})


def test_an_old_study_of_images_is_refused() -> None:
    with pytest.raises(StudyError, match="schema_version 1"):
        from_document({**imaging(), "schema_version": 1})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"retry_allowance":0},"expires"', b'"retry_allowance":0,"subgroups":[]},"expires"'),
        (b'"retry_allowance":1,"steps"', b'"retry_allowance":1,"sampling":1.0,"steps"'),
        (b'"schema_version":1,', b'"schema_version":1,"survey":null,'),
    ],
    ids=["subgroups", "sampling", "survey"],
)
def test_old_bytes_that_spell_out_a_new_default_are_not_canonical(old: bytes, new: bytes) -> None:
    data = small_study(schema_version=1).canonical_bytes
    assert data.count(old) == 1
    with pytest.raises(StudyError, match="not in canonical form"):
        from_canonical(data.replace(old, new))


def test_an_old_study_stays_old_when_keys_or_settings_are_filled_in() -> None:
    old = small_study(schema_version=1)
    assert old.with_fingerprints({"north": "a" * 64}).schema_version == 1
    assert old.with_epsilon(0.3).schema_version == 1
    assert old.with_mechanism(steps=5).schema_version == 1
    with pytest.raises(StudyError, match="schema_version 1"):
        old.with_mechanism(sampling=0.5)


def test_a_survey_of_an_old_study_is_a_new_document() -> None:
    asked = small_study(schema_version=1).with_survey(**SURVEY)
    assert asked == small_study().with_survey(**SURVEY)


def test_a_study_without_a_schema_version_is_of_the_newest() -> None:
    document = study_document()
    del document["schema_version"]
    assert from_document(document) == small_study()


# -- every field counts ----------------------------------------------------------------------------


def leaves(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{path}.{number}")
    else:
        yield path[1:]


OTHER = {
    "expires": "2098-01-01",
    "record": "visit",
    "records_per_patient": "many",
    "noise": "distributed",
    "fingerprint": "b" * 64,
    "colluders": 1,
    "dropouts": 0,
    "declared_size": 50,
    "minimum_cohort": 1,
    "delta": 1e-7,
    "momentum": 0.25,
    "sampling": 0.5,
    "survey": SURVEY,
}
PLAIN = small_study().model_dump(mode="json")
FIXED = {"schema_version", "model.kind", f"{AGE}.kind", f"{WARD}.kind"}
COUPLED = {f"{AGE}.missing", f"{AGE}.missing_value"}


@pytest.mark.parametrize("path", sorted(set(leaves(PLAIN)) - FIXED - COUPLED))
def test_a_change_of_any_field_changes_the_digest(path: str) -> None:
    name = path.split(".")[-1]
    document: Any = copy.deepcopy(PLAIN)
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = document
    for step in way:
        place = place[step]
    old = place[last]
    if name == "missing":
        place[last] = "refuse"
    elif name in OTHER:
        place[last] = OTHER[name]
    else:
        place[last] = old + 1 if isinstance(old, int) else f"{old}x" if name != "x" else old
        if isinstance(old, float):
            place[last] = old + 0.125
    assert place[last] != old
    assert from_document(document).digest != small_study().digest


def test_every_field_of_models_images_surveys_and_subgroups_changes_the_digest() -> None:
    images: list[dict[str, Any]] = [
        *({}, {"name": "qx"}, {"height": 10}, {"width": 10}),
        *({"channels": 2}, {"minimum": 1}, {"maximum": 256}),
    ]
    surveys: list[dict[str, Any]] = [
        *({}, {"epsilon": 0.4}, {"columns": ["age"]}, {"columns": ["ward", "age"]}),
        *({"bins": 6}, {"retry_allowance": 1}),
    ]
    documents = [
        *(changed("model", {"kind": "mlp", "hidden": hidden}) for hidden in ([4], [5], [4, 4])),
        changed("evaluation.subgroups", ["ward"]),
        *(imaging(**image) for image in images),
        *(changed("survey", {**SURVEY, **survey}) for survey in surveys),
    ]
    digests = {from_document(document).digest for document in [study_document(), *documents]}
    assert len(digests) == len(documents) + 1


def test_the_rule_for_missing_values_changes_the_digest() -> None:
    document = changed(AGE, {**study_document()["data"]["columns"][0], "missing": "indicator"})
    digests = {small_study().digest}
    for constant in (40, 50):
        document["data"]["columns"][0]["missing_value"] = constant
        digests.add(from_document(document).digest)
    assert len(digests) == 3


def test_the_order_of_hospitals_and_columns_is_part_of_the_agreement() -> None:
    document = study_document()
    document["hospitals"].reverse()
    assert from_document(document).digest != small_study().digest


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data + b"\n", id="newline"),
        pytest.param(lambda data: data.replace(b'":', b'": ', 1), id="space"),
        pytest.param(lambda data: data.replace(b'"version":1', b'"version":1.0'), id="1.0"),
        pytest.param(lambda data: data.replace(b'"version":1', b'"version":"1"'), id="text"),
        pytest.param(lambda data: data.replace(b'"colluders":null,', b""), id="default left out"),
        pytest.param(lambda data: data.replace(b"Test", b"\\u0054est"), id="escape"),
        pytest.param(lambda data: data[:-1] + b',"name":"tiny"}', id="duplicate key"),
        pytest.param(lambda data: data[:-5], id="cut off"),
        pytest.param(lambda data: data + b" " * MAX_STUDY_BYTES, id="oversized"),
        pytest.param(lambda data: b"{}", id="empty"),
        pytest.param(lambda data: b"", id="nothing"),
    ],
)
def test_bytes_that_are_not_canonical_are_refused(change: Any) -> None:
    data = small_study().canonical_bytes
    assert change(data) != data
    with pytest.raises((StudyError, MessageError)):
        from_canonical(change(data))


def test_a_hospital_without_a_fingerprint_takes_it_from_enrolment() -> None:
    study = small_study().with_fingerprints({"north": "a" * 64, "stranger": "c" * 64})
    assert [h.fingerprint for h in study.hospitals] == ["a" * 64, "", ""]
    again = study.with_fingerprints({"north": "d" * 64, "south": "b" * 64})
    assert [h.fingerprint for h in again.hospitals] == ["a" * 64, "b" * 64, ""]
    assert len({small_study().digest, study.digest, again.digest}) == 3


def test_one_key_for_two_hospitals_is_refused_at_enrolment_too() -> None:
    with pytest.raises(StudyError, match="same fingerprint"):
        small_study().with_fingerprints({"north": "a" * 64, "south": "a" * 64})


def test_a_study_knows_its_own_hospitals_only() -> None:
    assert small_study().hospital("north").declared_size == 40
    with pytest.raises(StudyError, match="does not name hospital 'stranger'; it names north"):
        small_study().hospital("stranger")


# -- files ---------------------------------------------------------------------------------------


def test_the_heart_study_names_four_hospitals() -> None:
    study = load(HEART)
    assert [h.id for h in study.hospitals] == [
        *("cleveland", "hungary", "switzerland", "va-long-beach")
    ]
    assert study.mechanism.epsilon < 1
    assert study.evaluation.epsilon < 1


def test_the_digest_does_not_depend_on_how_the_toml_is_written(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    document = dict(reversed(read_toml(HEART).items()))
    document["mechanism"]["delta"] = 0.000001
    document["data"]["columns"][0]["minimum"] = 18.0
    other.write_text("# a comment\n\n" + tomli_w.dumps(document, multiline_strings=True))
    assert other.read_bytes() != HEART.read_bytes()
    assert load(other).digest == load(HEART).digest


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(HEART.read_bytes() + b"#" * MAX_STUDY_BYTES)
    with pytest.raises(StudyError, match=f"limit {MAX_STUDY_BYTES}"):
        load(path)


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load(tmp_path / "study.toml")
    (tmp_path / "study.toml").write_text("name = ")
    with pytest.raises(UsageError, match="not valid TOML"):
        load(tmp_path / "study.toml")


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_toml_can_say_nan_and_a_study_cannot(tmp_path: Path, number: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(HEART.read_text().replace("clip = 0.25", f"clip = {number}"))
    with pytest.raises(StudyError, match=r"mechanism\.clip"):
        load(path)
