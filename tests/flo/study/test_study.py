"""A study says what it allows, and one document has one digest."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from flo.bench.made_up import study_of
from flo.documents import canonical
from flo.documents.document import MAX_TOML_BYTES, read_toml
from flo.errors import MessageError, StudyError, UsageError
from flo.study.columns import ImageColumn
from flo.study.document import MAX_STUDY_BYTES, Study, from_document
from flo.study.loading import from_canonical, load
from flo.study.terms import largest_delta, round_size
from tests.builders import small_study, study_document, surveyed
from tests.flo.studies import AGE, HEART, SURVEY, WARD, changed, hospitals, imaging


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
    asked = surveyed(planned, **SURVEY)
    assert asked == from_document(study_document(name="tiny-survey", survey=SURVEY))


def test_only_category_columns_of_the_study_are_found_by_name() -> None:
    schema = small_study().data
    assert schema.category("ward") is schema.columns[1]
    for name in ("age", "ill", "nowhere", ""):
        with pytest.raises(ValueError, match="not a category column"):
            schema.category(name)


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
        small_study().digest == "e603e15bff06afb854b8d21b39a18129acd7d17b51bad63e921546493b2960b0"
    )
    assert (
        small_study(schema_version=2).digest
        == "da6b297c4117c92bf2a75ab89d0e66e165ddeeb576ed4d3794bb1b7c2a056ff7"
    )
    assert (
        small_study(schema_version=1).digest
        == "70fa96de236e7fbbf4e1b001aa157d9b2666992f6cc558cd9d285159d79be757"
    )


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
    "start_within": "24h",
    "expires": "2098-01-01",
    "record": "visit",
    "records_per_patient": "many",
    "masking": "on",
    "fingerprint": "b" * 64,
    "colluders": 1,
    "dropouts": 0,
    "declared_size": 50,
    "minimum_cohort": 1,
    "delta": 1e-7,
    "momentum": 0.25,
    "sampling": 0.5,
    "survey": SURVEY,
    "aggregation": "median",
    "algorithm": "least-squares",
}
PLAIN = small_study().model_dump(mode="json")
FIXED = {"schema_version", "model.kind", f"{AGE}.kind", f"{WARD}.kind", "evaluation.bins"}
# Of images only: tests/privacy/gradients/test_augmentation.py.
# Of studies of schema 4 only: see below, and test_lineage.py.
NEWER = {
    "continues",
    "statistics",
    "gate",
    "monitor",  # tests/privacy/releases/test_monitor.py
    "data.outcome",  # test_outcome.py
    "data.sequence",  # test_sequence.py
    f"{AGE}.changeable_to",  # test_wording.py
    f"{AGE}.changeable_from",
    f"{WARD}.changeable_to",
    *(f"hospitals.{number}.expected" for number in range(3)),
}
COUPLED = {*(f"{AGE}.missing", f"{AGE}.missing_value", "mechanism.noise", "mechanism.augmentation")}


def expecting(expected: int | None, schema: int = 4) -> Study:
    document = {**copy.deepcopy(PLAIN), "schema_version": schema}
    document["hospitals"][0]["expected"] = expected
    document["evaluation"].pop("bins")
    return from_document(document)


def test_the_expected_number_of_patients_is_part_of_a_study() -> None:
    assert len({expecting(number).digest for number in (None, 20, 40)}) == 3
    assert b"expected" not in expecting(None).canonical_bytes
    assert from_canonical(expecting(20).canonical_bytes) == expecting(20)
    assert [one.planned for one in expecting(20).hospitals] == [20, 40, 40]


@pytest.mark.parametrize(
    ("expected", "schema", "why"),
    [
        (41, 4, "expected = 41 patients, and the declared size is 40"),
        (9, 4, "greater than or equal to 10"),
        (20, 3, "schema_version = 4"),
    ],
)
def test_an_expected_number_that_cannot_be(expected: int, schema: int, why: str) -> None:
    with pytest.raises(StudyError, match=re.escape(why)):
        expecting(expected, schema)


@pytest.mark.parametrize("path", sorted(set(leaves(PLAIN)) - FIXED - COUPLED - NEWER))
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
    if name == "aggregation":
        document["limits"]["minimum_cohort"] = PLAIN["limits"]["minimum_cohort"] = 3
    if name == "algorithm":
        document["mechanism"] |= {"steps": 1, "learning_rate": 0.0, "momentum": 0.0}
    assert place[last] != old
    assert from_document(document).digest != from_document(PLAIN).digest


def test_who_adds_the_noise_and_whether_sums_are_masked_changes_the_digest() -> None:
    masked = small_study().with_mechanism(masking="on")
    distributed = masked.with_mechanism(noise="distributed")
    assert len({small_study().digest, masked.digest, distributed.digest}) == 3


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
    path.write_bytes(HEART.read_bytes() + b"#" * MAX_TOML_BYTES)
    with pytest.raises(UsageError, match="larger than 4 MiB"):
        load(path)


def test_ten_thousand_hospitals_are_one_study_to_simulate(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        tomli_w.dumps(study_of(10_000, steps=1).model_dump(mode="json", exclude_none=True))
    )
    assert len(load(path).hospitals) == 10_000
    with pytest.raises(StudyError, match="at most 10000"):
        study_of(10_001, steps=1)


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load(tmp_path / "study.toml")
    (tmp_path / "study.toml").write_text("name = ")
    with pytest.raises(UsageError, match="not valid TOML"):
        load(tmp_path / "study.toml")


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_toml_can_say_nan_and_a_study_cannot(tmp_path: Path, number: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(HEART.read_text().replace("clip = 0.08", f"clip = {number}"))
    with pytest.raises(StudyError, match=r"mechanism\.clip"):
        load(path)
