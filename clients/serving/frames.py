"""Frames between the front and a worker, on a socket of their own.

    to a worker    length (4), number (8), kind (1), body       length: of all that follows it
    from a worker  length (4), number (8), status (2), outcome (1), sizes of compared (2) and of
                   watched (4), compared, watched, body

Numbers are big-endian. A question's body is its versions (``flo.clients.serving.several``), the
answer's id (36, ASCII) and the request's body.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import get_args

from flo.clients.serving.service import Answer, Outcome
from flo.errors import MessageError

LOAD, FORGET, HOOK, PLAIN = range(4)
REFUSED = 409  # status of the answer to a version whose check failed
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
ID_LENGTH, DIGEST_LENGTH = 36, 32
_ASKED, _ANSWERED = struct.Struct("!IQB"), struct.Struct("!IQHBHI")
_LENGTH = 4


def asked(number: int, kind: int, *body: bytes) -> bytes:
    """Return a frame to a worker."""
    size = sum(map(len, body))
    return b"".join([_ASKED.pack(_ASKED.size - _LENGTH + size, number, kind), *body])


def answered(number: int, answer: Answer) -> bytes:
    """Return a frame from a worker."""
    more = len(answer.compared), len(answer.watched)
    size = _ANSWERED.size - _LENGTH + sum(more) + len(answer.body)
    head = _ANSWERED.pack(size, number, answer.status, OUTCOMES.index(answer.outcome), *more)
    return head + answer.compared + answer.watched + answer.body


class Buffer:
    """Bytes of a stream, cut into frames. ``longest``: bytes of a frame; a longer one raises
    MessageError."""

    def __init__(self, longest: int = 1 << 31) -> None:
        self._held, self._longest = bytearray(), longest

    def add(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._held += data

    def _whole(self) -> Iterator[bytes]:
        start, held = 0, self._held
        while len(held) - start >= _LENGTH:
            length = int.from_bytes(held[start : start + _LENGTH], "big")
            if length > self._longest:
                raise MessageError(f"a frame of {length} bytes, limit {self._longest}")
            end = start + _LENGTH + length
            if len(held) < end:
                break
            yield bytes(held[start:end])
            start = end
        del held[:start]

    def questions(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield number, kind and body of each whole frame to a worker."""
        for frame in self._whole():
            _, number, kind = _ASKED.unpack_from(frame)
            yield number, kind, frame[_ASKED.size :]

    def answers(self) -> Iterator[tuple[int, Answer]]:
        """Yield number and answer of each whole frame from a worker."""
        for frame in self._whole():
            _, number, status, outcome, more, seen = _ANSWERED.unpack_from(frame)
            watched = _ANSWERED.size + more
            compared, body = frame[_ANSWERED.size : watched], watched + seen
            answer = Answer(status, OUTCOMES[outcome], frame[body:], compared, frame[watched:body])
            yield number, answer
