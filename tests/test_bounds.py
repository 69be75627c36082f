"""What others send is bounded before it is parsed: at its bound it is read, beyond it refused.

Each case runs in a process of its own, whose time and memory are looked at.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes
MIB = 1 << 20
LIMIT = 64 * MIB

# name -> how data are made of a size, the size at the bound, how they are read, and the refusal
JSON = "canonical.decode(data, limit=64 << 20, what='a letter')"
EXTRACT = "canonical.decode_canonical(data, limit=16 << 20, what='x', values=canonical.MANY)"
TOML = "parse_toml(data.decode(), 'a study')"
CASES: dict[str, tuple[str, int, str, str]] = {
    "JSON, many values": ('b"[" + b"[]," * n + b"0]"', 99_000, JSON, "values, limit 200000"),
    "JSON, many keys": (
        'b"{" + b",".join(b\'"%d":0\' % i for i in range(n)) + b"}"',
        190_000,
        JSON,
        "values, limit 200000",
    ),
    "JSON, deep": ('b"[" * n + b"]" * n', 64, JSON, "within each other, limit 64"),
    "JSON, one long text": ("b'\"' + b\"a\" * n + b'\"'", LIMIT - 2, JSON, "bytes, limit"),
    "JSON, quotation marks": (
        "b'[\"' + b'\\\\\"' * n + b'\"]'",
        8_000_000,
        EXTRACT,
        "bytes, limit",
    ),
    "JSON, a text without end": ("b'\"' + b'\\\\\"' * n", 8_000_000, EXTRACT, "JSON|bytes"),
    "TOML, a key of many parts": (
        'b".".join([b"a"] * n) + b" = 1"',
        50,
        TOML,
        "a key of more than 50 parts",
    ),
    "TOML, in a table's name": (
        'b"[" + b" . ".join([b\'"a b"\'] * n) + b"]"',
        50,
        TOML,
        "a key of more than 50 parts",
    ),
    "TOML, large": ('b"#" + b"a" * n', 4 * MIB - 1, TOML, "larger than 4 MiB"),
}
PROGRAM = """
import json, resource, time
from flo import canonical
from flo.errors import FloError
from flo.settings import parse_toml
n = {n}
data = {made}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin, said = time.perf_counter(), ""
try:
    {read}
except FloError as error:
    said = str(error)
seconds = time.perf_counter() - begin
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({{"seconds": seconds, "mib": grown / 1024, "size": len(data), "said": said}}))
"""


def tried(made: str, n: int, read: str) -> dict[str, object]:
    program = PROGRAM.format(n=n, made=made, read=read)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", CASES)
def test_at_its_bound_and_ten_times_over(name: str) -> None:
    made, bound, read, refusal = CASES[name]
    at = tried(made, bound, read)
    over = tried(made, 10 * bound, read)
    assert not at["said"] or "JSON" in str(at["said"]), at["said"]
    assert any(words in str(over["said"]) for words in refusal.split("|")), over["said"]
    for found in (at, over):
        assert float(str(found["seconds"])) < 5
        assert float(str(found["mib"])) < 5 * float(str(found["size"])) / MIB + 64
