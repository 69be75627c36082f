"""The file of a pack's frozen layers: their numbers, which are neither trained nor sent.

A pack names the file by its digest, and a hospital installs it like an encoder. It is safetensors:
numbers and names, no code. Each name is a layer's place and what it is there, such as ``3.weight``.
A process that builds such a network is told the file's bytes first (``learn``).

The privacy guarantee needs nothing of these numbers: they are public, the same for every patient,
and what is trained is clipped whatever they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flo.arrays import Float32s
from flo.documents import canonical
from flo.errors import StudyError, UsageError
from flo.study.layers import MOST_FROZEN, Shape

Numbers = dict[str, Float32s]  # by PLACE.NAME
MOST_HEADER = 1 << 20  # bytes, in which names and shapes are
MOST_BYTES = 4 * MOST_FROZEN + MOST_HEADER

_known: dict[str, Numbers] = {}  # by the file's digest, so that none can be another's


def to_bytes(numbers: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return the file of these numbers."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(one, np.float32) for name, one in numbers.items()})


def learn(data: bytes) -> str:
    """Remember a file's numbers in this process; return the file's digest.

    Raises UsageError: it is no such file, too large, or its numbers are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    digest = canonical.digest(data)
    if digest in _known:
        return digest
    if len(data) > MOST_BYTES:
        raise UsageError(f"the file of frozen numbers has {len(data)} bytes, limit {MOST_BYTES}")
    header = int.from_bytes(data[:8], "little")
    if MOST_HEADER < header <= len(data):
        raise UsageError(
            f"the file of frozen numbers has a header of {header} bytes, limit {MOST_HEADER}"
        )
    try:
        found = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UsageError(
            "the file of frozen numbers is not safetensors",
            hint="flo study pack --numbers writes one",
        ) from error
    for name, one in found.items():
        if one.dtype != np.float32 or not np.isfinite(one).all():
            raise UsageError(f"the frozen numbers {name!r} are not float32, or not finite")
    _known[digest] = found
    return digest


def keep_only(digests: Collection[str | None]) -> None:
    """Forget all other files."""
    for digest in set(_known) - set(digests):
        del _known[digest]


def of(digest: str, wanted: Mapping[str, Shape]) -> Numbers:
    """Return the numbers of the file of that digest.

    ``wanted``: PLACE.NAME -> shape of all that the layers need. Raises StudyError: the file is not
    known in this process, or has others.
    """
    known = _known.get(digest)
    if known is None:
        raise StudyError(
            f"the numbers of the pack's frozen layers are not known here: file {digest}",
            hint="flo model predict, flo simulate and flo study check read installed files",
        )
    found = {name: one.shape for name, one in known.items()}
    if found != wanted:
        other = sorted({name for name, _ in found.items() ^ dict(wanted).items()})
        raise StudyError(
            f"the file of frozen numbers has others than the pack's layers: {', '.join(other[:5])}",
            hint="the coordinator must correct the study, or send the file that belongs to it",
        )
    return known
