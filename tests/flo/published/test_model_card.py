"""A model far away from its coordinator: all of it is as the coordinator signed it, or refused."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from safetensors.numpy import load, save

from flo.documents import canonical
from flo.errors import FloError, MessageError, TrustError, UsageError
from flo.protocol.messages import LARGEST_WEIGHT
from flo.published import model_card
from flo.published.model_card import (
    MAX_CARD_BYTES,
    MAX_MODEL_BYTES,
    ModelCard,
    PublishedModel,
    paths_of,
    read_card,
)
from flo.study.models import flat, named
from tests.flo.continued import continuing
from tests.flo.published_models import (
    COORDINATOR,
    MALLORY,
    STUDIES,
    Made,
    made,
    signed_study,
    tensors_of,
    weights_of,
)

P384_ORDER = 2**384 - 1388124618062372383947042015309946732620727252194336364173
GOOD, CONTINUED, GATED = made(), made("continued"), made("gated")
STUDY, _ = signed_study()
Tensors = dict[str, npt.NDArray[Any]]
Way = tuple[str | int, ...]


# -- what is signed comes back ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", STUDIES)
def test_a_model_that_was_written_is_read_as_it_was(tmp_path: Path, kind: str) -> None:
    model = made(kind)
    opened = PublishedModel.open(model.write(tmp_path), COORDINATOR.fingerprint)
    study, _ = signed_study(kind)
    assert (opened.card, opened.study) == (model.card, study)
    assert opened.weights.tobytes() == weights_of(study).tobytes()


@pytest.mark.parametrize("suffix", [".card.json", ".safetensors", ""])
def test_either_file_names_the_model(tmp_path: Path, suffix: str) -> None:
    GOOD.write(tmp_path, "tiny-run-1")
    opened = PublishedModel.open(tmp_path / f"tiny-run-1{suffix}", COORDINATOR.fingerprint)
    assert opened.card == GOOD.card


@pytest.mark.parametrize("kind", STUDIES)
def test_weights_survive_as_named_tensors_bit_for_bit(kind: str) -> None:
    study = STUDIES[kind]
    weights = weights_of(study)
    weights[:4] = [-0.0, 5e-324, LARGEST_WEIGHT, -np.nextafter(1.0, 2.0)]
    again = flat(study, load(save(named(study, weights))))
    assert again.dtype == np.float64
    assert again.tobytes() == weights.tobytes()


def test_a_card_of_another_schema_than_its_study_has_is_refused() -> None:
    for kind, schema in (("logistic", 3), ("continued", 2), ("continued", 1)):
        changes: dict[str, Any] = {"life": None} | ({} if schema > 1 else {"calibration": None})
        with pytest.raises(TrustError, match="contradicts its study"):
            made(kind, schema_version=schema, **changes).open()
    with pytest.raises(ValueError, match="schema_version 1 or 2 has no life"):
        made("continued", schema_version=2)
    with pytest.raises(ValueError, match="schema_version 1 to 3 has no gate"):
        made("gated", schema_version=3)
    with pytest.raises(TrustError, match="contradicts its study"):
        made("gated", schema_version=3, gate=None).open()


def test_a_gate_whose_sums_are_not_of_its_study_is_refused() -> None:
    sums = GATED.document["gate"]
    for wrong in (
        sums | {"values": sums["values"][:3]},
        sums | {"hospitals": ["north"]},
        sums | {"hospitals": ["north", "north"]},
        sums | {"hospitals": ["north", "stranger"]},
    ):
        with pytest.raises(TrustError, match="contradicts its study"):
            made("gated", gate=wrong).open()
    with pytest.raises(TrustError, match="contradicts its study"):
        made("continued", schema_version=4, gate=sums).open()


def test_sums_of_an_evaluation_that_are_not_of_its_study_are_refused() -> None:
    sums = GATED.document["evaluated"]
    for wrong in (
        sums | {"values": sums["values"][:-1]},
        sums | {"hospitals": ["north"]},
        sums | {"hospitals": ["north", "north"]},
        sums | {"hospitals": ["north", "stranger"]},
    ):
        with pytest.raises(TrustError, match="contradicts its study"):
            made("gated", evaluated=wrong).open()
    half = len(sums["values"]) // 2
    turned = sums["values"][half:] + sums["values"][:half]  # positives and negatives exchanged
    for changes in (
        {"evaluated": sums | {"values": turned}, "evaluation": GATED.document["evaluation"]},
        {"evaluation": None, "gate": None, "calibration": None},
    ):
        with pytest.raises(TrustError, match="contradicts its study"):
            made("gated", **changes).open()
    with pytest.raises(ValueError, match="schema_version 1 to 4 has no sums"):
        made("gated", schema_version=4, evaluated=sums)
    assert made("gated", schema_version=4).open().card.evaluated is None


def test_golden_cases_that_are_not_of_the_study_are_refused() -> None:
    golden = GATED.document["golden"]
    for wrong in (
        golden | {name: golden[name][:-1] for name in ("log_odds", "risks")},
        golden | {"risks": None},
    ):
        with pytest.raises(TrustError, match="contradicts its study"):
            made("gated", golden=wrong).open()
    with pytest.raises(ValueError, match="1 risks of"):
        made("gated", golden=golden | {"risks": [0.5]})
    with pytest.raises(ValueError, match="has no gate, golden cases"):
        made("logistic", golden=golden)
    assert made("gated", golden=None).open().card.golden is None


def test_a_model_whose_run_ended_before_its_gate_has_none() -> None:
    assert made("gated", gate=None).open().card.gate is None
    with pytest.raises(ValueError, match="a gate without an evaluation"):
        made("gated", evaluation=None)


def test_a_card_of_a_study_whose_lineage_nobody_filled_in_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(STUDIES, "written", continuing())
    with pytest.raises(TrustError, match="contradicts its study"):
        made("written").open()


@pytest.mark.parametrize("change", [{"report": None}, {"without_extract": ["west"]}], ids=str)
def test_a_life_that_no_report_can_prove_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TrustError, match="contradicts its study"):
        made("continued", **change).open()
    made("continued", life=None, **change).open()


def test_a_card_is_named_by_the_digest_of_its_file(tmp_path: Path) -> None:
    path = CONTINUED.write(tmp_path)
    assert CONTINUED.card.digest == canonical.digest(path.read_bytes())
    assert read_card(path).digest == CONTINUED.card.digest
    assert GOOD.card.digest != CONTINUED.card.digest


def test_a_model_may_have_neither_evaluation_nor_report() -> None:
    bare = made(evaluation=None, subgroups={}, report=None, without_extract=["north", "south"])
    assert bare.open().card.evaluation is None


# -- one changed field -----------------------------------------------------------------------------


def leaves(value: Any, way: Way = ()) -> Iterator[Way]:
    """Where the single values of a document stand."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*way, key))
    else:
        yield way


def changed(document: Any, way: Way) -> Any:
    """The document with another valid value in one place."""
    if way:
        copy: Any = dict(document) if isinstance(document, dict) else list(document)
        copy[way[0]] = changed(document[way[0]], way[1:])
        if way == ("schema_version",):
            copy[way[0]] = 9
        if way == ("average_deviation",):
            copy[way[0]] = 0.5  # where noise and average have lists
        return copy
    if isinstance(document, str):
        if document.startswith("{"):
            return document.replace('"version":9', '"version":8')
        return document[:-1] + ("a" if document[-1] != "a" else "b")
    if isinstance(document, list):
        return ["west"]
    if document is None:  # of noise, which this model's card does not state
        return [0.0]
    return document + 1 if isinstance(document, int) else document * (1 - 1e-9)


LEAVES = sorted(leaves(GATED.document), key=str)


def test_the_walk_over_the_card_leaves_no_field_out() -> None:
    # Of other outcomes: tests/test_kept_{times,counts,classes}.py.
    others = {"earlier_horizons", "steps", "by_class"}
    fields = set(ModelCard.model_fields) - others
    assert {way[0] for way in LEAVES} == fields
    assert {way[0] for way in leaves(GOOD.document)} == fields - {
        "life",
        "gate",
        "evaluated",
        "golden",
        "noise",
        "average",
        "average_deviation",
    }
    assert {way[1:] for way in LEAVES if way[0] == "subgroups"} == {
        ("ward=a", name) for name in model_card.Quality.model_fields
    }


@pytest.mark.parametrize("way", LEAVES, ids=lambda way: ".".join(map(str, way)))
def test_a_field_that_was_changed_after_signing_is_refused(way: Way) -> None:
    document = changed(GATED.document, way)
    assert document != GATED.document
    if way in (("schema_version",), ("golden", "cases")):
        with pytest.raises(ValueError, match=way[-1]):
            ModelCard.model_validate(document)
        return
    card = ModelCard.model_validate(document)  # it is the signature that refuses, not the form
    with pytest.raises(TrustError):
        card.check(COORDINATOR.fingerprint)


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation": None, "calibration": None},
        {"calibration": None},
        {"report": None},
        {"subgroups": {}},
        {"subgroups": {**GOOD.document["subgroups"], "ward=b": GOOD.document["evaluation"]}},
        {"without_extract": []},
        {"without_extract": ["west", "north"]},
        {"signature": ""},
    ],
    ids=str,
)
def test_something_left_out_or_added_after_signing_is_refused(change: dict[str, Any]) -> None:
    card = ModelCard.model_validate(GOOD.document | change)
    with pytest.raises(TrustError, match="signature of this model-card"):
        card.check(COORDINATOR.fingerprint)


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"schema_version": 9},
        {"file": "AB" * 32},
        {"coordinator": "xy"},
        {"epsilon": 0},
        {"delta": 1},
        {"rounds": -1},
        {"run": "../run"},
        {"made": "x" * 501},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_card_of_another_form_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = GOOD.write(tmp_path)
    path.write_text(json.dumps(GOOD.document | change))
    with pytest.raises(UsageError, match=next(iter(change))):
        read_card(path)


# -- whose signature -------------------------------------------------------------------------------


def test_another_coordinators_model_is_refused_with_a_way_out() -> None:
    with pytest.raises(TrustError, match=MALLORY.fingerprint[:16]) as refusal:
        made(signer=MALLORY).open()
    assert "telephone" in refusal.value.hint


def test_a_forged_signature_under_the_coordinators_name_is_refused() -> None:
    forged = MALLORY.sign("model-card", GOOD.card._statement())
    with pytest.raises(TrustError, match="signature of this model-card"):
        GOOD.card.model_copy(update={"signature": forged}).check(COORDINATOR.fingerprint)


def test_the_other_form_of_the_signature_is_refused_in_cards_of_new_studies() -> None:
    """Anybody can make it, and the bytes of a signed document are one."""
    r, s = decode_dss_signature(bytes.fromhex(GOOD.card.signature))
    other = GOOD.card.model_copy(
        update={"signature": encode_dss_signature(r, P384_ORDER - s).hex()}
    )
    with pytest.raises(TrustError, match="smaller s"):
        other.check(COORDINATOR.fingerprint)


def test_a_signature_for_another_purpose_is_refused() -> None:
    borrowed = COORDINATOR.sign("study", GOOD.card._statement())
    with pytest.raises(TrustError, match="signature of this model-card"):
        GOOD.card.model_copy(update={"signature": borrowed}).check(COORDINATOR.fingerprint)


def test_a_study_that_another_key_signed_is_refused() -> None:
    with pytest.raises(TrustError, match="signature of this study"):
        made(study_signature=MALLORY.sign("study", STUDY.canonical_bytes)).open()


def test_a_model_of_one_study_cannot_name_another() -> None:
    other, signature = signed_study("mlp")
    document = other.canonical_bytes.decode()
    with pytest.raises(TrustError, match="do not fit"):
        made(study=document, study_signature=signature).open()


# -- the tensors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 7, 8, 40, -8, -1])
def test_one_changed_bit_of_the_tensors_is_refused(place: int) -> None:
    data = bytearray(GOOD.tensors)
    data[place] ^= 1
    with pytest.raises(TrustError, match="not the ones that the model card names"):
        Made(GOOD.card, bytes(data)).open()


def renamed(tensors: Tensors) -> Tensors:
    return {name.replace("weight", "weights"): tensor for name, tensor in tensors.items()}


def with_weight(value: float) -> Tensors:
    weights = weights_of(STUDY)
    weights[2] = value
    return dict(named(STUDY, weights))


ALL: Tensors = dict(tensors_of(STUDY))
UNFIT: dict[str, Tensors] = {
    "of another study": dict(tensors_of(STUDIES["mlp"])),
    "one missing": {"0.weight": ALL["0.weight"]},
    "one too many": {**ALL, "1.weight": ALL["0.bias"]},
    "renamed": renamed(ALL),
    "none": {},
    "float32": {name: tensor.astype(np.float32) for name, tensor in ALL.items()},
    "one float32": {**ALL, "0.bias": ALL["0.bias"].astype(np.float32)},
    "integers": {name: tensor.astype(np.int64) for name, tensor in ALL.items()},
    "too short": {**ALL, "0.weight": ALL["0.weight"][:, :-1].copy()},
    "another shape of the same size": {**ALL, "0.weight": ALL["0.weight"].T.copy()},
    "the bias as a single number": {**ALL, "0.bias": ALL["0.bias"].reshape(())},
}


@pytest.mark.parametrize("tensors", UNFIT.values(), ids=UNFIT.keys())
def test_tensors_that_are_not_the_studys_are_refused_though_they_are_signed(
    tensors: Tensors,
) -> None:
    with pytest.raises(TrustError, match="do not fit the study's model"):
        made(tensors=tensors).open()


@pytest.mark.parametrize(
    "value", [np.nan, np.inf, -np.inf, np.nextafter(1e6, 2e6), -np.nextafter(1e6, 2e6)]
)
def test_weights_that_no_model_of_ours_can_have_are_refused(value: float) -> None:
    with pytest.raises(TrustError, match="beyond"):
        made(tensors=with_weight(value)).open()


@pytest.mark.parametrize("value", [LARGEST_WEIGHT, -LARGEST_WEIGHT])
def test_the_largest_weights_are_accepted(value: float) -> None:
    assert made(tensors=with_weight(value)).open().weights[2] == value


def harmless(path: str) -> None:
    Path(path).touch()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return harmless, (str(self.path),)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    path = tmp_path / "ran"
    data = pickle.dumps(Bomb(path))
    pickle.loads(data)
    assert path.exists()  # so it would
    path.unlink()
    with pytest.raises(TrustError, match="header has"):
        made(tensors=data).open()
    assert not path.exists()


HEADER = json.dumps({"0.weight": {"dtype": "F64", "shape": [1, 5], "data_offsets": [0, 40]}})
GARBAGE = {
    "nothing": b"",
    "text": b"not a model",
    "a huge header": struct.pack("<Q", 2**63) + b"{}",
    "a header that is no JSON": struct.pack("<Q", 4) + b"\xff\xfe{}",
    "cut off": GOOD.tensors[:-1],
    "more at its end": GOOD.tensors + b"\0",
    "offsets beyond the end": struct.pack("<Q", len(HEADER)) + HEADER.encode() + bytes(8),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_refused_though_it_is_signed(data: bytes) -> None:
    with pytest.raises(TrustError, match=r"do not fit|header has \d+ bytes, limit"):
        made(tensors=data).open()


def test_a_header_of_a_million_tensors_is_refused_before_it_is_parsed() -> None:
    names = ",".join(
        f'"{i}":{{"dtype":"F64","shape":[0],"data_offsets":[0,0]}}' for i in range(10**5)
    )
    header = f"{{{names}}}".encode()
    data = struct.pack("<Q", len(header)) + header
    with pytest.raises(TrustError, match=f"header has {len(header)} bytes, limit 1048576"):
        made(tensors=data).open()


def half_precision() -> bytes:
    """Tensors of the right names and shapes in bfloat16, which numpy does not know."""
    places = {"0.bias": [0, 2], "0.weight": [2, 12]}
    header = json.dumps(
        {
            name: {
                "dtype": "BF16",
                "shape": [1, 5] if name == "0.weight" else [1],
                "data_offsets": place,
            }
            for name, place in places.items()
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + bytes(12)


def test_tensors_of_a_type_that_numpy_does_not_know_are_refused() -> None:
    with pytest.raises(TrustError, match="do not fit"):
        made(tensors=half_precision()).open()


# -- in which order --------------------------------------------------------------------------------


def test_nothing_of_the_tensors_is_parsed_before_signature_and_digest_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads: list[bytes] = []

    def watched(data: bytes) -> Any:
        loads.append(data)
        return load(data)

    monkeypatch.setattr(safetensors.numpy, "load", watched)
    for bad in (
        made(signer=MALLORY),
        Made(GOOD.card.model_copy(update={"rounds": 4}), GOOD.tensors),
        made(study_signature=MALLORY.sign("study", STUDY.canonical_bytes)),
        Made(GOOD.card, made("mlp").tensors),
    ):
        with pytest.raises(TrustError):
            bad.open()
    assert loads == []
    GOOD.open()
    assert loads == [GOOD.tensors]


# -- sizes, and files that are not there -----------------------------------------------------------


def test_a_card_above_its_limit_is_refused(tmp_path: Path) -> None:
    path = GOOD.write(tmp_path)
    path.write_bytes(GOOD.card.to_bytes() + b" " * MAX_CARD_BYTES)
    with pytest.raises(MessageError, match=f"limit {MAX_CARD_BYTES}"):
        read_card(path)


def test_tensors_above_their_limit_are_refused_unread(tmp_path: Path) -> None:
    path = GOOD.write(tmp_path)
    os.truncate(paths_of(path)[1], MAX_MODEL_BYTES + 1)  # takes no room on the disk
    with pytest.raises(UsageError, match=f"larger than {MAX_MODEL_BYTES}"):
        PublishedModel.open(path, COORDINATOR.fingerprint)


@pytest.mark.parametrize("lost", [0, 1], ids=["card", "tensors"])
def test_half_a_model_is_none(tmp_path: Path, lost: int) -> None:
    path = GOOD.write(tmp_path)
    paths_of(path)[lost].unlink()
    with pytest.raises(UsageError, match=r"no model card|is missing"):
        PublishedModel.open(path, COORDINATOR.fingerprint)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"run": 1, "run": 1}', b"\x80", b"NaN"])
def test_a_card_that_is_none_is_refused(tmp_path: Path, text: bytes) -> None:
    path = GOOD.write(tmp_path)
    path.write_bytes(text)
    with pytest.raises(FloError):
        read_card(path)
