"""Run the frozen encoders of a study's image columns, in confined processes.

The encoders that a hospital installed are files of one folder, each named by its digest. A file is
read and compared with its digest, and sent to children without network and files
(``flo.clients.data_process.encoder_child``), one for each core. Each image is encoded alone, so its
features depend on no other patient.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from tempfile import NamedTemporaryFile
from typing import Any

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
from flo.clients.data_process.encoder_file import MOST_BYTES, EncoderFacts
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.documents.text import escape_for_terminal
from flo.errors import DataError, MessageError, RefusedError, StudyError, TrustError, UsageError
from flo.storage.files import write_private
from flo.study import frozen, models, networks
from flo.study.columns import ImageColumn
from flo.study.document import Study
from flo.study.features import scale

REQUIRED = ("no_new_privs", "seccomp", "landlock")  # layers, where no policy names them
_CHUNK = 4  # images in a request
_MOST_NUMBERS = 1 << 28  # of all images together: 2 GiB, of which an approval holds a few copies
_MOST_CHILDREN = 8  # each holds the whole encoder
_TOGETHER = 1 << 29  # bytes of the file, in all of them

Progress = Callable[[int, int], None]  # images encoded, of how many


def encoder_path(folder: Path, file: str) -> Path:
    """Return where an installed encoder is kept. ``file``: its digest."""
    return folder / f"{file}.onnx"


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


def examine(data: bytes, required: Collection[str] = REQUIRED) -> EncoderFacts:
    """Try an encoder's file out in a confined process, and return what it states.

    ``required``: layers of confinement that must hold.

    Raises:
        UsageError: the file is no encoder that FLO runs; says why. RefusedError: a layer is
        missing, or the process ended.
    """
    with _child(required, None) as child:
        return _opened(child, data)


def in_words(facts: EncoderFacts) -> str:
    """Return what an encoder's file states, in one sentence."""
    return (
        f"an image of {facts.channels} × {facts.height} × {facts.width} becomes {facts.features} "
        f"numbers; {facts.parameters:,} parameters; operators: {', '.join(facts.operators)}"
    )


def install(home: SiteHome, path: Path) -> tuple[str, str]:
    """Try a file out, and keep a copy of it in the site's folder.

    It is an encoder, or the numbers of a pack's frozen layers (``.safetensors``). Returns its
    digest and what it states. Raises what ``read_encoder``, ``examine`` and ``frozen.learn`` raise.
    """
    data = read_encoder(path)
    digest = canonical.digest(data)
    if path.suffix == ".safetensors":
        frozen.learn(data)
        states, kept = "numbers of frozen layers", frozen_path(home.encoders_path, digest)
    else:
        states = in_words(examine(data, home.read_policy().confinement))
        kept = encoder_path(home.encoders_path, digest)
    home.encoders_path.mkdir(mode=0o700, exist_ok=True)
    write_private(kept, data)
    home.record("encoder-installed", encoder=digest)
    return digest, states


def installed(folder: Path) -> list[str]:
    """Return the digests of the encoders in a folder."""
    return sorted(path.stem for path in folder.glob("*.onnx"))


def installed_numbers(folder: Path) -> list[str]:
    """Return the digests of the files of frozen layers' numbers in a folder."""
    return sorted(path.stem for path in folder.glob("*.safetensors"))


class InstalledEncoders:
    """The encoders in a folder (``flo.study.encoders.Encoders``).

    It remembers the features of each image that it has encoded.
    """

    def __init__(
        self,
        folder: Path,
        required: Collection[str] = REQUIRED,
        progress: Progress = lambda done, of: None,
    ) -> None:
        """``required``: layers of confinement that must hold."""
        self._folder, self._required, self._progress = folder, required, progress
        self._known: dict[tuple[str, float, float], dict[bytes, Floats]] = {}
        self._secret = folder.parent / "identity.key"  # of the site, if it is one

    def features(self, column: ImageColumn, pixels: Floats) -> Floats:
        """Return the encoder's output, float64 (n, features), for pixels in the column's unit.

        Raises:
            UsageError: onnxruntime or the encoder is not installed here, or the file is no encoder.
            TrustError: its file was changed. StudyError: the study states other sizes than the
            file. DataError: images become no numbers. RefusedError: a layer of confinement is
            missing, or a process ended.
        """
        encoder = column.encoder
        assert encoder is not None
        numbers = len(pixels) * encoder.features
        if numbers > _MOST_NUMBERS:
            raise DataError(
                f"column {column.name}: {len(pixels):,} images of {encoder.features:,} numbers are "
                f"{numbers:,} numbers, limit {_MOST_NUMBERS:,}",
                hint="the study needs an encoder of fewer numbers; tell the coordinator",
            )
        data = self._read(column)
        names = [hashlib.sha256(row.tobytes()).digest() for row in pixels]
        known = self._known.setdefault((encoder.file, column.minimum, column.maximum), {})
        new = {name: row for row, name in enumerate(names) if name not in known}
        rows = list(new.values())
        for place, part in self._encoded(column, data, pixels, rows):
            known |= {names[row]: one for row, one in zip(rows[place:], part, strict=False)}
            self._progress(place + len(part), len(rows))
        found = np.array([known[name] for name in names]).reshape(len(pixels), encoder.features)
        ill = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(ill):
            raise DataError(
                f"column {column.name}: the encoder {encoder.name!r} makes no finite numbers of "
                f"{len(ill)} images, the first in row {ill[0] + 1}",
                hint="look at these images; or ask the coordinator for another encoder",
            )
        return found

    def _encoded(
        self, column: ImageColumn, data: bytes, pixels: Floats, rows: list[int]
    ) -> Iterator[tuple[int, Floats]]:
        """Encode some rows; yield the place of the first of some of them, and their features."""
        chunks = range(0, len(rows), _CHUNK)
        most = max(1, min(_MOST_CHILDREN, _TOGETHER // len(data)))
        count = min(len(os.sched_getaffinity(0)), len(chunks), most)
        free = SimpleQueue[Child]()

        def encode(begin: int) -> Floats:
            child = free.get()
            try:
                own = pixels[rows[begin : begin + _CHUNK]]
                return _asked(child, column, scale(column, own))
            finally:
                free.put(child)

        if not rows:
            return
        with _children(self._required, self._secret, data, column, count) as children:
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

    def _read(self, column: ImageColumn) -> bytes:
        encoder = column.encoder
        assert encoder is not None
        what = f"column {column.name}: the encoder {encoder.name!r}"
        return _verified(encoder_path(self._folder, encoder.file), encoder.file, what)


class TriedEncoders(InstalledEncoders):
    """The same, opened and compared with the study only: every image becomes zeros."""

    def features(self, column: ImageColumn, pixels: Floats) -> Floats:
        """Return zeros (n, features). Raises what a run would raise, but for DataError."""
        data = self._read(column)
        with _children(self._required, self._secret, data, column, 1):
            assert column.encoder is not None
            return np.zeros((len(pixels), column.encoder.features))


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


def refuse_other_sizes(column: ImageColumn, facts: EncoderFacts) -> None:
    """Raise StudyError if a study's column and its encoder's file do not fit each other."""
    encoder = column.encoder
    assert encoder is not None
    stated = (column.channels, column.height, column.width, encoder.features)
    held = (facts.channels, facts.height, facts.width, facts.features)
    if stated != held:
        raise StudyError(
            f"column {column.name}: the study states channels, height, width and features "
            f"{stated}, and the encoder {encoder.name!r} has {held}",
            hint="the coordinator must correct the study: flo study encoder FILE prints its lines",
        )


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


@contextmanager
def _children(
    required: Collection[str], secret: Path, data: bytes, column: ImageColumn, count: int
) -> Iterator[list[Child]]:
    """Start children, each with the encoder opened. They end with the thread that starts them."""
    with ExitStack() as stack:
        children = [stack.enter_context(_child(required, secret)) for _ in range(count)]
        for child in children:
            refuse_other_sizes(column, _opened(child, data))
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


def _opened(child: Child, data: bytes) -> EncoderFacts:
    header, _ = _exchanged(child, data)
    if header.get("status") == "refused":
        why = escape_for_terminal(str(header.get("why")))
        raise UsageError(f"the encoder's file cannot be used: {why}")
    return EncoderFacts.model_validate(header["facts"])


def _asked(child: Child, column: ImageColumn, scaled: Floats) -> Floats:
    images = np.ascontiguousarray(scaled, dtype=np.float32)
    header, body = _exchanged(child, images.data.cast("B"))
    if header.get("status") != "ok":
        raise RefusedError(f"column {column.name}: the encoder could not encode the images")
    assert column.encoder is not None
    found = np.frombuffer(body, dtype=np.float32)
    if len(found) != len(images) * column.encoder.features:
        raise RefusedError(f"column {column.name}: the encoder gave another number of features")
    return found.reshape(len(images), -1).astype(np.float64)


def _exchanged(child: Child, body: bytes | memoryview) -> tuple[dict[str, Any], memoryview]:
    assert child.stdin is not None
    assert child.stdout is not None
    answer = None
    try:
        with ended_after(LONGEST_SECONDS, child):
            write_frame(child.stdin, {}, body)
            answer = read_frame(child.stdout)
    except (OSError, MessageError):
        answer = None
    if answer is None:
        raise RefusedError(
            f"the process that runs the encoder ended, or did not answer in {LONGEST_SECONDS:g} s",
            hint="the machine may lack memory for it; the lines above say more",
        )
    return answer
