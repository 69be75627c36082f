"""The study: what is refused, and that one document has one digest."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from flo import canonical
from flo.errors import MessageError, StudyError, UsageError
from flo.settings import read_toml
from flo.study import (
    MAX_STUDY_BYTES,
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
        pytest.param("schema_version", 2, "schema_version 2", id="unknown schema version"),
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
        small_study().digest == "70fa96de236e7fbbf4e1b001aa157d9b2666992f6cc558cd9d285159d79be757"
    )


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
