"""What a site approved under FLO 0.1 keeps its bytes, its digest and its signatures."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from flo.documents import canonical
from flo.documents.document import read_toml
from flo.errors import StudyError
from flo.study.document import Study, from_document
from flo.study.loading import from_canonical
from tests.builders import small_study, study_document, surveyed
from tests.flo.studies import DISTRIBUTED, HEART, SURVEY, changed, imaging

# Fields of schema_version 1, as flo/study/document.py of FLO 0.1.0 declared them; it wrote all of
# them.
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


def wordless(document: dict[str, Any]) -> dict[str, Any]:
    """A study as earlier versions wrote it, who had no words for columns."""
    for column in document["data"]["columns"]:
        for name in ("about", "changeable_to", "changeable_from"):
            column.pop(name, None)
    return document


VERSION_1 = {
    "small": study_document(schema_version=1),
    "heart": wordless(read_toml(HEART))
    | {"schema_version": 1, "mechanism": {**study_document()["mechanism"], "masking": "off"}},
    "distributed": study_document(
        schema_version=1,
        mechanism={**DISTRIBUTED, "masking": "off", "colluders": 1, "dropouts": 0},
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
    assert b"masking" not in study.canonical_bytes
    assert not study.masked


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
    masking = "on" if document["mechanism"]["noise"] == "distributed" else "off"
    mechanism = {**document["mechanism"], "masking": masking}
    new = from_document({**document, "schema_version": 2, "mechanism": mechanism})
    assert new.digest != from_document(document).digest
    assert from_canonical(new.canonical_bytes) == new


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("mechanism.masking", "on"),
        ("mechanism.sampling", 0.5),
        ("evaluation.subgroups", ["ward"]),
        ("survey", SURVEY),
        ("model", {"kind": "mlp", "hidden": [4]}),
    ],
    ids=["masking", "sampling", "subgroups", "survey", "mlp"],
)
def test_an_old_study_with_what_is_new_is_refused(path: str, value: Any) -> None:
    document = changed(path, value)
    from_document(document)
    with pytest.raises(StudyError, match="schema_version 1 supports only fedavgm"):
        from_document({**document, "schema_version": 1})


def test_an_old_study_of_images_is_refused() -> None:
    with pytest.raises(StudyError, match="schema_version 1"):
        from_document({**imaging(), "schema_version": 1})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"retry_allowance":0},"expires"', b'"retry_allowance":0,"subgroups":[]},"expires"'),
        (b'0.5,"momentum"', b'0.5,"masking":"off","momentum"'),
        (b'"retry_allowance":1,"steps"', b'"retry_allowance":1,"sampling":1.0,"steps"'),
        (b'"schema_version":1,', b'"schema_version":1,"survey":null,'),
    ],
    ids=["subgroups", "masking", "sampling", "survey"],
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
    asked = surveyed(small_study(schema_version=1), **SURVEY)
    assert asked == surveyed(small_study(schema_version=2), **SURVEY)


def test_a_study_without_a_schema_version_is_of_the_newest() -> None:
    document = study_document()
    del document["schema_version"]
    assert from_document(document) == small_study()
