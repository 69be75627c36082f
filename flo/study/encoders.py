"""Frozen encoders: networks that turn an image or a note into numbers, which a model trains on.

An encoder is an ONNX file: data and no code. A study names it by the file's digest, so that every
hospital runs the same one, and a hospital allows it in its ``policy.toml``. It is never trained in
the study and nothing of it travels. ``flo.clients.data_process.encoding`` runs it, on one image or
note at a time, in a process without network and files.

The privacy guarantee needs nothing of an encoder but that a record's features depend on no other
patient: whatever the features are, the patient's gradient is clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer

from flo.arrays import Floats
from flo.documents.document import Document
from flo.errors import StudyError
from flo.study.names import Words

if TYPE_CHECKING:
    from flo.study.columns import EncodedColumn
    from flo.study.document import Study

LARGEST_ENCODED_IMAGE = 1 << 20  # pixels, of all channels
MOST_FEATURES = 32_768
MOST_TOKENS = 8192
LONGEST_NOTE = 1 << 17  # characters: some normalizers make 18 of one

_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Encoder(Document):
    """The encoder of an image column.

    ``name``: what people call it. ``file``: SHA-256 of its ONNX file. ``features``: how many
    numbers a record becomes. ``scaled``: whether these are brought to a mean square of 1 for each
    record; a pack with frozen layers may need them as they are.
    """

    name: Words
    file: _Digest
    features: Annotated[int, Field(ge=1, le=MOST_FEATURES)]
    scaled: bool = True

    @model_serializer(mode="wrap")
    def _as_before_scaled(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``scaled`` out unless it is false, so that earlier digests stay."""
        document: dict[str, Any] = dump(self)
        if document.get("scaled"):
            del document["scaled"]
        return document

    @property
    def files(self) -> tuple[str, ...]:
        """Digests of all files that a hospital installs for it."""
        return (self.file,)


class NoteEncoder(Encoder):
    """The encoder of a note column.

    ``tokenizer``: SHA-256 of the ``tokenizer.json`` that turns a text into whole numbers, its
    tokens. ``tokens``: how many of a note's tokens the network gets, the first ones.
    """

    tokenizer: _Digest
    tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)]

    @property
    def files(self) -> tuple[str, ...]:
        """Digests of all files that a hospital installs for it."""
        return self.file, self.tokenizer


class Encoders(Protocol):
    """What runs encoders on images and notes."""

    def features(self, column: EncodedColumn, records: Floats | Sequence[str | None]) -> Floats:
        """Return the encoder's output (n, features).

        ``records``: pixels (n, pixels) in the column's unit, or the n notes. Features are all NaN
        where a note is None.

        Raises DataError or UsageError: the encoder is not here, or cannot encode these records.
        """

    def frozen(self, study: Study) -> bytes:
        """Return the file of the study's frozen layers, after ``flo.study.frozen.learn``; b"" if it
        has none.

        Raises UsageError, TrustError or StudyError: the file is not here, or not the study's.
        """


def require_no_encoder(study: Study, what: str) -> None:
    """Raise StudyError if the study has an encoder. ``what``: what cannot run it."""
    for column, encoder in study.data.encoders.items():
        raise StudyError(
            f"{study.name}, version {study.version}, turns {column} into numbers by the encoder "
            f"{encoder.name!r}, which {what} does not run",
            hint="flo model predict does, where the encoder is installed",
        )
