"""Studies from TOML and from canonical bytes, of every schema version."""

from __future__ import annotations

from pathlib import Path

from flo.documents import canonical
from flo.documents.document import parse_toml, read_toml
from flo.errors import StudyError
from flo.study.document import MAX_STUDY_BYTES, Study, from_document


def load(path: Path) -> Study:
    """Read a study from TOML. Raises UsageError or StudyError.

    The file may be larger than a study that is signed: one of thousands of hospitals can only be
    simulated.
    """
    return from_document(read_toml(path), what=str(path))


def from_toml(text: str, *, what: str = "study") -> Study:
    """Read a study from the text of a TOML file. Raises UsageError or StudyError."""
    size = len(text.encode())
    if size > MAX_STUDY_BYTES:
        raise StudyError(f"{what} has {size} bytes, limit {MAX_STUDY_BYTES}")
    return from_document(parse_toml(text, what), what=what)


def from_canonical(data: bytes) -> Study:
    """Read a study from its canonical bytes. Raises MessageError or StudyError."""
    study = from_document(canonical.decode(data, limit=MAX_STUDY_BYTES, what="study"))
    if study.canonical_bytes != data:
        raise StudyError("the study's bytes are not in canonical form")
    return study
