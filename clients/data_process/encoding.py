"""Run the frozen encoders of a study's images and notes, in confined processes.

The encoders that a hospital installed are files of one folder, each named by its digest. A file is
read and compared with its digest, and sent to children without network and files
(``flo.clients.data_process.encoder_child``), one for each core. Each record is encoded alone, so
its features depend on no other patient.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from tempfile import NamedTemporaryFile
from typing import Any, cast

import numpy as np

from flo.arrays import Floats
from flo.clients.data_process import child_process
from flo.clients.data_process.child_process import (
    LONGEST_SECONDS,
    Child,
    ended_after,
    read_frame,
    write_frame,
)
from flo.clients.data_process.encoder_file import (
    MOST_BYTES,
    EncoderFacts,
    TakesImage,
)
from flo.clients.data_process.tokenizer_file import TokenizerFacts
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.documents.text import escape_for_terminal
from flo.errors import DataError, MessageError, RefusedError, StudyError, TrustError, UsageError
from flo.storage.files import write_private
from flo.study import frozen, models, networks
from flo.study.columns import EncodedColumn, ImageColumn
from flo.study.document import Study
from flo.study.encoders import NoteEncoder
from flo.study.features import scale

REQUIRED = ("no_new_privs", "seccomp", "landlock")  # layers, where no policy names them
_NO_NOTE = b""  # the name of a record without a note
_CHUNK = 4  # records in a request
_MOST_NUMBERS = 1 << 28  # of all records together: 2 GiB, of which an approval holds a few copies
_MOST_CHILDREN = 8  # each holds the whole encoder
_TOGETHER = 1 << 30  # bytes of the files, in all of them

Progress = Callable[[int, int], None]  # records encoded, of how many
Records = Floats | Sequence[str | None]  # pixels (n, pixels), or n notes


@dataclass(frozen=True)
class _Files:
    """The files of an encoder: its ``network``, and the ``tokenizer`` if it takes notes."""

    network: bytes
    tokenizer: bytes = b""


def encoder_path(folder: Path, file: str) -> Path:
    """Return where an installed encoder is kept. ``file``: its digest."""
    return folder / f"{file}.onnx"


def tokenizer_path(folder: Path, file: str) -> Path:
    """Return where an installed tokenizer is kept. ``file``: its digest."""
    return folder / f"{file}.json"


def frozen_path(folder: Path, file: str) -> Path:
    """Return where the installed numbers of a pack's frozen layers are kept. ``file``: their
    digest."""
    return folder / f"{file}.safetensors"


def read_encoder(path: Path) -> bytes:
    """Return a file. Raises UsageError: it cannot be read, or is too large."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise UsageError(f"{path} has {size} bytes, limit {MOST_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def examine(
    data: bytes, required: Collection[str] = REQUIRED, tokenizer: bytes = b""
) -> EncoderFacts:
    """Try an encoder's file out in a confined process, and return what it states.

    ``required``: layers of confinement that must hold. ``tokenizer``: the file that goes with it.

    Raises:
        UsageError: the file is no encoder that FLO runs; says why. RefusedError: a layer is
        missing, or the process ended.
    """
    with _child(required, None) as child:
        return _opened(child, _Files(data, tokenizer))


def examine_tokenizer(data: bytes, required: Collection[str] = REQUIRED) -> TokenizerFacts:
    """Try a tokenizer's file out in a confined process. Raises what ``examine`` raises."""
    refuse_without_tokenizers()
    with _child(required, None) as child:
        return TokenizerFacts.model_validate(_tried(child, _Files(b"", data)))


def in_words(facts: EncoderFacts) -> str:
    """Return what an encoder's file states, in one sentence."""
    takes = facts.takes
    what = (
        f"an image of {takes.channels} × {takes.height} × {takes.width}"
        if isinstance(takes, TakesImage)
        else f"a note of up to {takes.tokens} tokens below {takes.rows:,}"
    )
    return (
        f"{what} becomes {facts.features} numbers; {facts.parameters:,} parameters; operators: "
        f"{', '.join(facts.operators)}"
    )


def install(home: SiteHome, path: Path) -> tuple[str, str]:
    """Try a file out, and keep a copy of it in the site's folder.

    It is an encoder, a tokenizer (``.json``), or the numbers of a pack's frozen layers
    (``.safetensors``). Returns its digest and what it states. Raises what ``read_encoder``,
    ``examine`` and ``frozen.learn`` raise.
    """
    data = read_encoder(path)
    digest = canonical.digest(data)
    if path.suffix == ".safetensors":
        frozen.learn(data)
        states, kept = "numbers of frozen layers", frozen_path(home.encoders_path, digest)
    elif path.suffix == ".json":
        facts = examine_tokenizer(data, home.read_policy().confinement)
        states = f"a tokenizer, {facts.kind}, of {facts.entries:,} tokens"
        kept = tokenizer_path(home.encoders_path, digest)
    else:
        states = in_words(examine(data, home.read_policy().confinement))
        kept = encoder_path(home.encoders_path, digest)
    home.encoders_path.mkdir(mode=0o700, exist_ok=True)
    write_private(kept, data)
    home.record("encoder-installed", encoder=digest)
    return digest, states


def installed(folder: Path) -> list[str]:
    """Return the digests of the encoders and tokenizers in a folder."""
    return sorted(path.stem for end in ("onnx", "json") for path in folder.glob(f"*.{end}"))


def installed_numbers(folder: Path) -> list[str]:
    """Return the digests of the files of frozen layers' numbers in a folder."""
    return sorted(path.stem for path in folder.glob("*.safetensors"))


class InstalledEncoders:
    """The encoders in a folder (``flo.study.encoders.Encoders``).

    It remembers the features of each record that it has encoded.
    """

    def __init__(
        self,
        folder: Path,
        required: Collection[str] = REQUIRED,
        progress: Progress = lambda done, of: None,
    ) -> None:
        """``required``: layers of confinement that must hold."""
        self._folder, self._required, self._progress = folder, required, progress
        self._known: dict[str, dict[bytes, Floats]] = {}
        self._secret = folder.parent / "identity.key"  # of the site, if it is one

    def features(self, column: EncodedColumn, records: Records) -> Floats:
        """Return the encoder's output, float64 (n, features).

        ``records``: pixels in the column's unit, (n, pixels), or n notes. Features are all NaN
        where a note is None.

        Raises:
            UsageError: a library or the encoder is not installed here, or the file is no encoder.
            TrustError: its file was changed. StudyError: the study states other sizes than the
            file. DataError: records become no numbers. RefusedError: a layer of confinement is
            missing, or a process ended.
        """
        encoder = column.encoder
        assert encoder is not None
        numbers = len(records) * encoder.features
        if numbers > _MOST_NUMBERS:
            raise DataError(
                f"column {column.name}: {len(records):,} records of {encoder.features:,} numbers "
                f"are {numbers:,} numbers, limit {_MOST_NUMBERS:,}",
                hint="the study needs an encoder of fewer numbers; tell the coordinator",
            )
        files = self._read(column)
        names = [_name(one) for one in records]
        known = self._known.setdefault(column.model_dump_json(), {})
        known[_NO_NOTE] = np.full(encoder.features, np.nan)
        new = {name: row for row, name in enumerate(names) if name not in known}
        rows = list(new.values())
        for place, part in self._encoded(column, files, records, rows):
            known |= {names[row]: one for row, one in zip(rows[place:], part, strict=False)}
            self._progress(place + len(part), len(rows))
        found = np.array([known[name] for name in names]).reshape(len(records), encoder.features)
        there = np.array([name != _NO_NOTE for name in names], dtype=bool)
        ill = np.flatnonzero(there & ~np.isfinite(found).all(axis=1))
        if len(ill):
            raise DataError(
                f"column {column.name}: the encoder {encoder.name!r} makes no finite numbers of "
                f"{len(ill)} records, the first in row {ill[0] + 1}",
                hint="look at these records; or ask the coordinator for another encoder",
            )
        return found

    def _encoded(
        self, column: EncodedColumn, files: _Files, records: Records, rows: list[int]
    ) -> Iterator[tuple[int, Floats]]:
        """Encode some rows; yield the place of the first of some of them, and their features."""
        chunks = range(0, len(rows), _CHUNK)
        size = len(files.network) + len(files.tokenizer)
        most = max(1, min(_MOST_CHILDREN, _TOGETHER // size))
        count = min(len(os.sched_getaffinity(0)), len(chunks), most)
        free = SimpleQueue[Child]()

        def encode(begin: int) -> Floats:
            child = free.get()
            try:
                own = rows[begin : begin + _CHUNK]
                return _asked(child, column, _sent(column, records, own), len(own))
            finally:
                free.put(child)

        if not rows:
            return
        with _children(self._required, self._secret, files, column, count) as children:
            for child in children:
                free.put(child)
            with ThreadPoolExecutor(count) as pool:
                yield from zip(chunks, pool.map(encode, chunks), strict=True)

    def frozen(self, study: Study) -> bytes:
        """Return the file of the study's frozen layers, after ``flo.study.frozen.learn``; b"" if it
        has none.

        Raises UsageError: it is not installed here. TrustError: it was changed. StudyError: it has
        other numbers than the layers need.
        """
        if study.frozen_file is None:
            return b""
        path = frozen_path(self._folder, study.frozen_file)
        data = _verified(path, study.frozen_file, "the file of the pack's frozen numbers")
        frozen.of(frozen.learn(data), networks.frozen_shapes(models.layers(study)))
        return data

    def _read(self, column: EncodedColumn) -> _Files:
        encoder = column.encoder
        assert encoder is not None
        what = f"column {column.name}: the encoder {encoder.name!r}"
        network = _verified(encoder_path(self._folder, encoder.file), encoder.file, what)
        if not isinstance(encoder, NoteEncoder):
            return _Files(network)
        refuse_without_tokenizers()
        path = tokenizer_path(self._folder, encoder.tokenizer)
        return _Files(network, _verified(path, encoder.tokenizer, f"{what}: its tokenizer"))


class TriedEncoders(InstalledEncoders):
    """The same, opened and compared with the study only: every record becomes zeros."""

    def features(self, column: EncodedColumn, records: Records) -> Floats:
        """Return zeros (n, features). Raises what a run would raise, but for DataError."""
        files = self._read(column)
        with _children(self._required, self._secret, files, column, 1):
            assert column.encoder is not None
            return np.zeros((len(records), column.encoder.features))


def _name(record: Any) -> bytes:
    """Return what tells one record from another: a digest of its pixels or text."""
    if record is None:
        return _NO_NOTE
    own = record.encode() if isinstance(record, str) else record.tobytes()
    return hashlib.sha256(own).digest()


def _sent(column: EncodedColumn, records: Records, rows: list[int]) -> bytes | memoryview:
    """Return some records as a child takes them."""
    if isinstance(column, ImageColumn):
        scaled = scale(column, cast(Floats, records)[rows])
        return np.ascontiguousarray(scaled, dtype=np.float32).data.cast("B")
    return json.dumps([records[row] for row in rows]).encode()


def learn_frozen(study: Study, folder: Path | None) -> None:
    """Learn the numbers of a study's frozen layers, if it has some, from a folder.

    Raises UsageError: no folder is given; and what ``InstalledEncoders.frozen`` raises.
    """
    if study.frozen_file is None:
        return
    if folder is None:
        raise UsageError(
            f"{study.name} has frozen layers, whose numbers are in a file of their own",
            hint=f"--encoders FOLDER, with the file {study.frozen_file}.safetensors in it",
        )
    InstalledEncoders(folder).frozen(study)


def _verified(path: Path, digest: str, what: str) -> bytes:
    """Return an installed file. Raises UsageError: it is not there. TrustError: it was changed."""
    if not path.exists():
        raise UsageError(
            f"{what}, {digest}, is not installed here; it would be {path}",
            hint="ask whoever published it for the file, then run: flo site encoder FILE",
        )
    data = read_encoder(path)
    if canonical.digest(data) != digest:
        raise TrustError(
            f"{path} is not the file of that digest any more",
            hint="install it again: flo site encoder FILE",
        )
    return data


def refuse_other_sizes(column: EncodedColumn, facts: EncoderFacts) -> None:
    """Raise StudyError if a study's column and its encoder's file do not fit each other."""
    encoder, takes = column.encoder, facts.takes
    assert encoder is not None
    if isinstance(encoder, NoteEncoder):
        stated = {"tokens": encoder.tokens}
    else:
        assert isinstance(column, ImageColumn)
        stated = {"channels": column.channels, "height": column.height, "width": column.width}
    held = takes.model_dump(exclude={"rows"})
    stated, held = (
        sizes | {"features": n} for sizes, n in ((stated, encoder.features), (held, facts.features))
    )
    if stated != held:
        raise StudyError(
            f"column {column.name}: the study states {_in_words(stated)}, and the encoder "
            f"{encoder.name!r} has {_in_words(held)}",
            hint="the coordinator must correct the study: flo study encoder FILE prints its lines",
        )


def _in_words(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def refuse_without_onnx() -> None:
    """Raise UsageError if this installation cannot run encoders."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "encoders need onnx and onnxruntime, which are not installed",
            hint='pip install "flo-federated[onnx]"',
        ) from error


def refuse_without_tokenizers() -> None:
    """Raise UsageError if this installation cannot read notes."""
    if find_spec("tokenizers") is None:
        raise UsageError(
            "notes need the library tokenizers, which is not installed",
            hint='pip install "flo-federated[notes]"',
        )


@contextmanager
def _children(
    required: Collection[str], secret: Path, files: _Files, column: EncodedColumn, count: int
) -> Iterator[list[Child]]:
    """Start children, each with the encoder opened. They end with the thread that starts them."""
    with ExitStack() as stack:
        children = [stack.enter_context(_child(required, secret)) for _ in range(count)]
        for child in children:
            refuse_other_sizes(column, _opened(child, files))
        yield children


@contextmanager
def _child(required: Collection[str], secret: Path | None) -> Iterator[Child]:
    """Start a confined child. Raises UsageError, and RefusedError if a layer is missing.

    ``secret``: a file of the site, which the child tries to open and must not be able to; if there
    is none, a new file.
    """
    refuse_without_onnx()
    with NamedTemporaryFile() as other:
        forbidden = secret if secret is not None and secret.exists() else Path(other.name)
        child, listener = child_process.start(
            "flo.clients.data_process.encoder_child", str(forbidden.resolve())
        )
        try:
            layers = child_process.read_layers(child)
            if missing := sorted(name for name in required if not layers.get(name)):
                raise RefusedError(
                    f"the process that runs encoders is not confined by {', '.join(missing)}",
                    hint="flo doctor shows which layers this machine has",
                )
            yield child
        finally:
            child_process.stop(child, listener)


def _opened(child: Child, files: _Files) -> EncoderFacts:
    return EncoderFacts.model_validate(_tried(child, files))


def _tried(child: Child, files: _Files) -> object:
    """Return what the files state. Raises UsageError: they cannot be used; says why."""
    sizes = {"tokenizer": len(files.tokenizer)}
    header, _ = _exchanged(child, files.tokenizer + files.network, sizes)
    if header.get("status") == "refused":
        why = escape_for_terminal(str(header.get("why")))
        raise UsageError(f"the encoder's file cannot be used: {why}")
    return header["facts"]


def _asked(child: Child, column: EncodedColumn, sent: bytes | memoryview, count: int) -> Floats:
    """Return the features (count, features) of records that were made ready for a child."""
    header, body = _exchanged(child, sent)
    if header.get("status") != "ok":
        raise RefusedError(f"column {column.name}: the encoder could not encode the records")
    assert column.encoder is not None
    found = np.frombuffer(body, dtype=np.float32)
    if len(found) != count * column.encoder.features:
        raise RefusedError(f"column {column.name}: the encoder gave another number of features")
    return found.reshape(count, -1).astype(np.float64)


def _exchanged(
    child: Child, body: bytes | memoryview, header: Mapping[str, int] | None = None
) -> tuple[dict[str, Any], memoryview]:
    assert child.stdin is not None
    assert child.stdout is not None
    answer = None
    try:
        with ended_after(LONGEST_SECONDS, child):
            write_frame(child.stdin, dict(header or {}), body)
            answer = read_frame(child.stdout)
    except (OSError, MessageError):
        answer = None
    if answer is None:
        raise RefusedError(
            f"the process that runs the encoder ended, or did not answer in {LONGEST_SECONDS:g} s",
            hint="the machine may lack memory for the encoder, or for its longest record",
        )
    return answer
