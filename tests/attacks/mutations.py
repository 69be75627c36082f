"""Seeded mutations of valid messages: of their bytes, and of the JSON that they hold.

``mutated(data, random)`` is the same for the same generator, so a finding is named by its seed.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

_MARK = "@@raw@@"  # stands for text that no JSON writer would write
RAW = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1E400", "-0", "01", "0x10", "+1", "1."),
    *("9" * 4000, "9" * 5000, "1e-999", "[" * 3000 + "]" * 3000, "[" * 120_000),
    *('{"a":' * 2000 + "1" + "}" * 2000, '{"a":1,"a":2}', '"\\ud800"', '"\\u0000"'),
    '"\\uDFFF\\ud800"',
    *("tru", "nul", "", '"', '"\\x41"', "/*x*/1", "'a'", '"\n"', "[1,]", "undefined", "1/2"),
)  # fmt: skip
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400),
    *(0.0, -0.0, 0.5, 1e-323, 1e308, -1e308, 1e22, 3.0, 1e16),
    *("", " ", "0", "1", "-1", "true", "null", "NaN", "\x00", "\x1b[2J", "\n", "a\nb", "é", "İ"),
    *("‮", "𝔛" * 40, "x" * 70_000, "../../etc/passwd", "/etc/passwd", "C:\\con", "%2e%2e"),
    *("0" * 64, "f" * 64, "F" * 64, "ab", "a", "2099-12-31", "9999-12-31", "0000-00-00"),
    *([], {}, [[]], [None], {"": None}, {"__proto__": {}}, ["x"] * 1100, [0] * 20_000),
)
Json = Any


def mutated(data: bytes, random: Random) -> bytes:
    """``data`` with one to three changes; sometimes none takes effect."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = random.choice((_json, _json, _json, _framed, _bytes, _bytes))(data, random)
    return data


# -- bytes ---------------------------------------------------------------------------------------


def _bytes(data: bytes, random: Random) -> bytes:
    if not data:
        return random.randbytes(random.randrange(1, 9))
    at, length = random.randrange(len(data)), random.choice((1, 1, 2, 4, 8, 64))
    before, after = data[:at], data[at + length :]
    match random.randrange(10):
        case 0 | 1 | 2:  # one bit
            flipped = data[at] ^ (1 << random.randrange(8))
            return data[:at] + bytes([flipped]) + data[at + 1 :]
        case 3:
            return before
        case 4:
            return before + after
        case 5:
            return before + random.randbytes(length) + after
        case 6:  # a piece of it somewhere else
            other = random.randrange(len(data))
            return data[:at] + data[other : other + length * 8] + data[at:]
        case 7:
            return data + random.choice((b"\x00", b" ", b"\n", b"{}", data))
        case 8:  # where a number or a text stood
            return before + random.choice(RAW).encode() + after
        case _:  # a number of four bytes
            size = random.choice(
                (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data), len(data) + 1)
            )
            return data[:at] + size.to_bytes(4, random.choice(("big", "little"))) + data[at + 4 :]


def _framed(data: bytes, random: Random) -> bytes:
    """The JSON behind a length of four bytes, and that length made to fit, or not."""
    size = int.from_bytes(data[:4], "big")
    head, body = data[4 : 4 + size], data[4 + size :]
    if not head.startswith(b"{"):
        return _json(data, random)
    if random.random() < 0.2:
        size = max(0, size + random.choice((-1, 1, -size, 256, 1 << 31)))
        return (size & 0xFFFFFFFF).to_bytes(4, "big") + head + body
    if random.random() < 0.2:
        body = _bytes(body, random)
    else:
        head = _json(head, random)
    return len(head).to_bytes(4, "big") + head + body


# -- JSON ----------------------------------------------------------------------------------------


def _json(data: bytes, random: Random) -> bytes:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return _bytes(data, random)
    return written(changed(document, random), random)


def written(document: Json, random: Random) -> bytes:
    """As canonical bytes mostly: otherwise little of what reads it is ever reached."""
    separators = (",", ":") if random.random() < 0.9 else (", ", ": ")
    escape = random.random() < 0.1
    text = json.dumps(document, sort_keys=True, separators=separators, ensure_ascii=escape)
    return text.replace(json.dumps(_MARK), random.choice(RAW)).encode("utf-8", "surrogatepass")


def changed(document: Json, random: Random) -> Json:
    """One node of a document is another one. JSON inside a string is changed as JSON, too."""
    if isinstance(document, dict) and document and random.random() < 0.85:
        return _changed_object(document, random)
    if isinstance(document, list) and document and random.random() < 0.85:
        return _changed_array(document, random)
    if isinstance(document, str) and random.random() < 0.7:
        return _changed_text(document, random)
    if isinstance(document, int | float) and random.random() < 0.5:
        return random.choice((document + 1, document - 1, -document, str(document), [document]))
    return _MARK if random.random() < 0.15 else random.choice(ODD)


def _changed_object(document: dict[str, Json], random: Random) -> Json:
    name = random.choice(sorted(document))
    rest = {key: value for key, value in document.items() if key != name}
    match random.randrange(12):
        case 0:
            return rest
        case 1:
            return rest | {random.choice(("x", "", "é", name.upper(), f" {name}")): document[name]}
        case 2:
            return document | {random.choice(("x", "schema_version", "signature", "")): 1}
        case 3:
            return document | {name: document[random.choice(sorted(document))]}
        case _:
            return document | {name: changed(document[name], random)}


def _changed_array(document: list[Json], random: Random) -> Json:
    at = random.randrange(len(document))
    match random.randrange(8):
        case 0:
            return document[:at] + document[at + 1 :]
        case 1:
            return [*document[:at], document[at], *document[at:]]
        case 2:
            return random.sample(document, len(document))
        case 3:
            return document[:at]
        case _:
            return [*document[:at], changed(document[at], random), *document[at + 1 :]]


def _changed_text(text: str, random: Random) -> Json:
    if text.startswith("{") and random.random() < 0.9:
        return _json(text.encode("utf-8", "surrogatepass"), random).decode("utf-8", "replace")
    if not text:
        return random.choice(ODD)
    at = random.randrange(len(text))
    match random.randrange(6):
        case 0:
            return text[:at]
        case 1:
            return text + random.choice(("\n", " ", "\x00", "0", "é", text))
        case 2 | 3:  # still a digit where all are: keys, digests, signatures
            return text[:at] + random.choice("0123456789abcdef") + text[at + 1 :]
        case 4:
            return text[:at] + text[at + 1 :]
        case _:
            return random.choice((text.upper(), text[::-1], [text], {text: text}, len(text)))
