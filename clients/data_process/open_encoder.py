"""An encoder's file that fits, and its run on one image or note at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.clients.data_process.encoder_file import (
    EncoderFacts,
    TakesImage,
    TakesNote,
    UnfitEncoderError,
    read_facts,
)
from flo.clients.data_process.tokenizer_file import TRIED_NOTE, OpenTokenizer
from flo.scoring.network import session_of

_TRIED = 6  # made-up images or notes


class OpenEncoder:
    """An encoder that fits, ready to run. ``facts``: what its file states."""

    facts: EncoderFacts

    def features(self, records: memoryview) -> Floats:
        """Return features, float32 (n, features), of records as the parent sends them."""
        raise NotImplementedError


def opened(data: bytes, tokenizer: bytes = b"") -> OpenEncoder:
    """Check an encoder's file and try it out.

    ``tokenizer``: the file of a note's; without one, notes cannot be encoded. Raises
    UnfitEncoderError, UnfitTokenizerError.
    """
    facts, data = read_facts(data)
    network = _Network(facts, data)
    if isinstance(facts.takes, TakesNote):
        return _OfNotes(network, facts.takes, tokenizer)
    if tokenizer:
        raise UnfitEncoderError("it takes an image, and a tokenizer came with it")
    return _OfImages(network, facts.takes)


class _Network:
    def __init__(self, facts: EncoderFacts, data: bytes) -> None:
        self.facts = facts
        try:
            self._session: Any = session_of(data)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no base class
            raise _does_not_run(error) from None
        self._names = {one.type: one.name for one in self._session.get_inputs()}

    def run(self, numbers: Any, ids: Any = None) -> Any:
        """Return features, (1, k). ``numbers``: the float32 input; ``ids``: the int64 one."""
        given = {self._names["tensor(float)"]: numbers}
        if ids is not None:
            given[self._names["tensor(int64)"]] = ids
        (found,) = self._session.run(None, given)
        if found.shape != (1, self.facts.features):  # onnxruntime does not hold a file to it
            raise UnfitEncoderError("a record became another number of features than the file says")
        return found


class _OfImages(OpenEncoder):
    """``features`` takes pixels scaled to [-1, 1], float32."""

    def __init__(self, network: _Network, takes: TakesImage) -> None:
        self.facts, self._network = network.facts, network
        self._shape = (1, takes.channels, takes.height, takes.width)
        numbers = np.arange(_TRIED * math.prod(self._shape)) * math.sqrt(2) % 2 - 1
        tried = numbers.reshape(_TRIED, -1).astype(np.float32)  # spread over -1 to 1
        tried[1] = -tried[0]
        found = _in_two_orders(self._of, tried)
        if np.array_equal(found[0], found[1]):
            raise UnfitEncoderError("a made-up image and its negative become the same features")

    def features(self, records: memoryview) -> Floats:
        pixels = np.frombuffer(records, dtype=np.float32).reshape(-1, math.prod(self._shape))
        return self._of(pixels)

    def _of(self, pixels: Any) -> Floats:
        return np.concatenate([self._network.run(one.reshape(self._shape)) for one in pixels])


class _OfNotes(OpenEncoder):
    """``features`` takes texts, as a JSON list."""

    def __init__(self, network: _Network, takes: TakesNote, tokenizer: bytes) -> None:
        self.facts, self._network, self._tokens = network.facts, network, takes.tokens
        self._tokenizer = OpenTokenizer(tokenizer) if tokenizer else None
        if self._tokenizer is not None:
            entries = self._tokenizer.facts.entries
            if entries > takes.rows:
                raise UnfitEncoderError(
                    f"its tokenizer has {entries} tokens, and its table {takes.rows} rows"
                )
            self._tokenizer.limit(takes.tokens)
        self._try_out(takes)

    def features(self, records: memoryview) -> Floats:
        if self._tokenizer is None:
            raise UnfitEncoderError("notes need a tokenizer")
        return self._of([self._tokenizer.tokens(note) for note in json.loads(bytes(records))])

    def _of(self, notes: Sequence[Sequence[int]], padding: int = 0) -> Floats:
        found = []
        for tokens in notes:
            ids = np.full((1, self._tokens), padding, dtype=np.int64)
            ids[0, : len(tokens)] = tokens
            there = (np.arange(self._tokens) < len(tokens)).astype(np.float32)
            found.append(self._network.run(there[None], ids))
        return np.concatenate(found)

    def _try_out(self, takes: TakesNote) -> None:
        """Try made-up notes of several lengths."""
        spread = np.arange(_TRIED * takes.tokens) * 7919 % takes.rows
        lengths = [max(1, takes.tokens * (place + 1) // _TRIED) for place in range(_TRIED)]
        rows = spread.reshape(_TRIED, -1).tolist()
        tried = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        if self._tokenizer is not None:
            tried.append(self._tokenizer.tokens(TRIED_NOTE))
        found = _in_two_orders(self._of, tried)
        if takes.rows > 1 and len(np.unique(found, axis=0)) == 1:
            raise UnfitEncoderError("all made-up notes become the same features")
        padded = self._of(tried, padding=takes.rows - 1)
        if not np.allclose(found, padded, rtol=1e-4, atol=1e-5):
            raise UnfitEncoderError("other tokens in a note's padding give other features")


def _in_two_orders(run: Callable[[Any], Floats], tried: Any) -> Floats:
    """Return the features of made-up records, after running them forwards and backwards.

    Raises UnfitEncoderError: they cannot be run, are not finite or depend on the order.
    """
    try:
        found = run(tried)
        again = run(tried[::-1])[::-1]
    except (MemoryError, UnfitEncoderError):
        raise
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no base class
        raise _does_not_run(error) from None
    if not np.isfinite(found).all():
        raise UnfitEncoderError("made-up records become numbers that are not finite")
    if not np.array_equal(found, again):
        raise UnfitEncoderError("the same records became other features in another order")
    return found


def _does_not_run(error: Exception) -> UnfitEncoderError:
    return UnfitEncoderError(
        f"onnxruntime does not run it: {type(error).__name__}: {str(error)[:300]}"
    )
