"""Encoders run in a confined process, on one image at a time, and only the file of the study."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flo.arrays import Floats
from flo.clients.data_process import child_process, encoding
from flo.clients.data_process.encoding import InstalledEncoders, TriedEncoders, encoder_path
from flo.clients.quality.check import EncodedTable, encode_checked, require_clean
from flo.clients.sources.dicom import DicomFolder
from flo.clients.sources.files import open_file
from flo.errors import DataError, FloError, RefusedError, StudyError, TrustError, UsageError
from flo.study.columns import ImageColumn
from flo.study.schema import Schema
from tests import encoders
from tests.clients.sources.images import MAPPING, SCHEMA, write
from tests.flo.studies import IMAGE

pytestmark = pytest.mark.processes


def column(folder: Path, data: bytes, **changes: object) -> ImageColumn:
    return ImageColumn.model_validate(IMAGE | {"encoder": encoders.kept(folder, data) | changes})


def pixels(count: int) -> Floats:
    return np.random.default_rng(3).integers(0, 256, size=(count, 72)).astype(np.float64)


def test_features_are_what_onnxruntime_computes_and_progress_is_told(tmp_path: Path) -> None:
    data, images, told = encoders.encoder(), pixels(50), list[tuple[int, int]]()
    found = InstalledEncoders(tmp_path, progress=lambda *one: told.append(one)).features(
        column(tmp_path, data), images
    )
    truth = encoders.expected(data, (2 * images / 255 - 1).reshape(-1, 1, 8, 9))
    np.testing.assert_allclose(found, truth, atol=1e-6)
    assert told == [*((done, 50) for done in range(4, 50, 4)), (50, 50)]
    assert InstalledEncoders(tmp_path).features(column(tmp_path, data), images[:0]).shape == (0, 6)


def test_an_image_that_was_encoded_is_not_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So an approval encodes before it takes the lock for which opt-outs wait."""
    told = list[tuple[int, int]]()
    runs = InstalledEncoders(tmp_path, progress=lambda *one: told.append(one))
    of, images = column(tmp_path, encoders.encoder()), pixels(9)
    first = runs.features(of, images)
    assert told == [(4, 9), (8, 9), (9, 9)]
    again = runs.features(of, np.vstack([images[::-1], pixels(11)[9:]]))
    np.testing.assert_array_equal(again[:9], first[::-1])
    assert told[3:] == [(2, 2)]
    monkeypatch.setattr(child_process, "start", None)
    np.testing.assert_array_equal(runs.features(of, images), first)


@pytest.mark.parametrize("other", [np.nan, 1e38, 0.0, -np.inf], ids=str)
def test_no_image_changes_the_features_of_another_by_one_bit(tmp_path: Path, other: float) -> None:
    runs, of = InstalledEncoders(tmp_path), column(tmp_path, encoders.encoder())
    images = pixels(40)
    whole = runs.features(of, images)
    for alone in (0, 17, 39):
        np.testing.assert_array_equal(runs.features(of, images[alone : alone + 1])[0], whole[alone])
    order = np.random.default_rng(4).permutation(40)
    np.testing.assert_array_equal(runs.features(of, images[order]), whole[order])
    images[5] = other
    if not np.isfinite(other):
        with pytest.raises(DataError, match="no finite numbers of 1 records, the first in row 6"):
            runs.features(of, images)
        return
    kept = np.arange(40) != 5
    np.testing.assert_array_equal(runs.features(of, images)[kept], whole[kept])


def test_a_changed_or_missing_file_and_other_sizes_are_refused(tmp_path: Path) -> None:
    data, other = encoders.encoder(), encoders.encoder(height=10)
    of, images = column(tmp_path, data), pixels(3)
    cases: list[tuple[ImageColumn, type[FloError], str]] = [
        (column(tmp_path, data, features=5), StudyError, "features 5, and .* features 6"),
        (column(tmp_path, other), StudyError, "height 8, .* and .* height 10, width"),
        (column(tmp_path, data, file="0" * 64), UsageError, "is not installed here; it would be"),
        (column(tmp_path, encoders.encoder(encoders.drawn)), UsageError, "RandomNormalLike"),
        (column(tmp_path, encoders.encoder(encoders.elsewhere)), UsageError, "in another file"),
    ]
    for refused, kind, told in cases:
        for runs in (InstalledEncoders(tmp_path), TriedEncoders(tmp_path)):
            with pytest.raises(kind, match=told):
                runs.features(refused, images)
    assert of.encoder is not None
    encoder_path(tmp_path, of.encoder.file).write_bytes(other)
    with pytest.raises(TrustError, match="is not the file of that digest any more"):
        InstalledEncoders(tmp_path).features(of, images)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (encoders.blind, "a made-up image and its negative become the same features"),
        (encoders.endless, "made-up records become numbers that are not finite"),
        (encoders.elsewhere, "its tensor 'filters' is kept in another file"),
    ],
)
def test_an_encoder_is_tried_out_before_it_is_installed(change: encoders.Change, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        encoding.examine(encoders.encoder(change))
    assert encoding.examine(encoders.encoder()).features == 6


def test_a_layer_that_does_not_hold_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Callable[..., dict[str, bool]] = child_process.read_layers
    monkeypatch.setattr(
        child_process, "read_layers", lambda child: read(child) | {"landlock": False}
    )
    with pytest.raises(RefusedError, match="is not confined by landlock"):
        InstalledEncoders(tmp_path).features(column(tmp_path, encoders.encoder()), pixels(2))


def test_a_process_that_is_killed_is_said_and_the_next_run_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, images = column(tmp_path, encoders.encoder()), pixels(40)
    sent = child_process.write_frame

    def killed(pipe: object, header: dict[str, object], body: bytes = b"") -> None:
        for child in children():
            os.kill(child, signal.SIGKILL)
        sent(pipe, header, body)  # type: ignore[arg-type]

    with monkeypatch.context() as deadly:
        deadly.setattr(encoding, "write_frame", killed)
        with pytest.raises(RefusedError, match="the process that runs the encoder ended"):
            InstalledEncoders(tmp_path).features(of, images)
    assert children() == []
    assert InstalledEncoders(tmp_path).features(of, images).shape == (40, 6)


def children() -> list[int]:
    """Encoders' processes that this one started."""
    own = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [
        int(one) for one in own if b"encoder_child" in Path(f"/proc/{one}/cmdline").read_bytes()
    ]


def test_a_patient_at_the_source_changes_nobody_else_and_sources_give_the_same(
    tmp_path: Path,
) -> None:
    """The same images as DICOM and as a table; then with another patient among them."""
    encoder = encoders.kept(tmp_path / "encoders", encoders.encoder(height=8, width=8))
    (column,) = SCHEMA.columns
    of = Schema.model_validate(
        SCHEMA.model_dump() | {"columns": [column.model_dump() | {"encoder": encoder}]}
    )
    runs = InstalledEncoders(tmp_path / "encoders")

    def from_dicom(patients: int, folder: Path) -> EncodedTable:
        folder.mkdir()
        source = DicomFolder(*write(folder, patients), "PatientID")
        return require_clean(source, of, "PatientID", MAPPING, encoders=runs)

    many, fewer = from_dicom(6, tmp_path / "six"), from_dicom(5, tmp_path / "five")
    assert many.inputs.shape == (6, 6)
    np.testing.assert_array_equal(many.inputs[:5], fewer.inputs)

    plain = require_clean(
        DicomFolder(*write(tmp_path, 6), "PatientID"), SCHEMA, "PatientID", MAPPING
    )
    assert isinstance(column, ImageColumn)
    middle, half = (column.maximum + column.minimum) / 2, (column.maximum - column.minimum) / 2
    table = pd.DataFrame(middle + half * plain.inputs, columns=list(column.pixels))
    table.insert(0, "PatientID", plain.patient_ids)
    table[SCHEMA.label] = plain.labels.astype(int)
    table.to_csv(tmp_path / "same.csv", index=False)
    source = open_file(tmp_path / "same.csv", "PatientID")
    found = encode_checked(source, of, "PatientID", (), runs)
    np.testing.assert_allclose(found.inputs, many.inputs, atol=1e-6)
    with pytest.raises(UsageError, match="by the encoder 'six numbers', which this command does"):
        encode_checked(source, of, "PatientID")


@pytest.mark.parametrize("part", [b"\x2a\x00", b"\x0a\x00"], ids=["tensors", "nodes"])
def test_a_file_that_unpacks_to_a_hundred_times_its_size_ends_in_its_own_process(
    part: bytes,
) -> None:
    """Twelve million empty parts take gigabytes once they are parsed."""

    def field(tag: bytes, body: bytes) -> bytes:
        size, length = len(body), b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        return tag + length + bytes([size]) + body

    graph = field(b"\x0a", b"\x22\x04Relu") + part * 12_000_000
    with pytest.raises(UsageError, match="it is not ONNX, or too large to read"):
        encoding.examine(b"\x08\x09" + field(b"\x3a", graph))
