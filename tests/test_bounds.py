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
EXTRACT = "canonical.decode_canonical(data, limit=4 << 20, what='x')"
TOML = "parse_toml(data.decode(), 'a study')"
FHIR = "_parsed(data, 'line 1')"
PARQUET = "list(ParquetFile(place, 'id').fields())"
DICOM = "none_is_refused(_header(place))"
CASES: dict[str, tuple[str, int, str, str]] = {
    "JSON, many values": ('b"[" + b"[]," * n + b"0]"', 99_000, JSON, "more than 200000 values"),
    "JSON, many keys": (
        'b"{" + b",".join(b\'"%d":0\' % i for i in range(n)) + b"}"',
        190_000,
        JSON,
        "more than 200000 values",
    ),
    "JSON, deep": ('b"[" * n + b"]" * n', 64, JSON, "values nested more than 64 deep"),
    "JSON, one long text": ("b'\"' + b\"a\" * n + b'\"'", LIMIT - 2, JSON, "bytes, limit"),
    "JSON, quotation marks": (
        "b'[\"' + b'\\\\\"' * n + b'\"]'",
        2_000_000,
        EXTRACT,
        "bytes, limit",
    ),
    "JSON, a text without end": ("b'\"' + b'\\\\\"' * n", 2_000_000, EXTRACT, "JSON|bytes"),
    "TOML, a key of many parts": (
        'b".".join([b"a"] * n) + b" = 1"',
        50,
        TOML,
        "a dotted key of more than 50 parts",
    ),
    "TOML, in a table's name": (
        'b"[" + b" . ".join([b\'"a b"\'] * n) + b"]"',
        50,
        TOML,
        "a dotted key of more than 50 parts",
    ),
    "TOML, large": ('b"#" + b"a" * n', 4 * MIB - 1, TOML, "larger than 4 MiB"),
    "FHIR, deep": ('b\'{"a":\' * n + b"1" + b"}" * n', 900, FHIR, "is not JSON"),
    "FHIR, many values": (
        'b\'{"a":["\' + b"x" * (1 << 20) + b\'",\' + b"[]," * n + b"0]}"',
        99_000,
        FHIR,
        "more than 200000 values",
    ),
    "Parquet, a long text in the footer": (
        "parquet({'a': [1]}, {'k': 'x' * n})",
        24 * MIB - 1000,
        PARQUET,
        "cannot be read|is not a|parquet",
    ),
    "DICOM, deep": ("dicom(n)", 100, DICOM, "no DICOM"),
}
PROGRAM = """
import json, resource, struct, tempfile, time
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
from flo.documents import canonical
from flo.errors import FloError
from flo.clients.sources.dicom_files import _header
from flo.clients.sources.fhir_files import _parsed
from flo.clients.sources.files import ParquetFile
from flo.documents.document import parse_toml
place = Path(tempfile.mkdtemp()) / "x.parquet"
def parquet(columns, facts):
    pq.write_table(pa.table(columns).replace_schema_metadata(facts), place)
    return place.read_bytes()
def dicom(depth):
    syntax = struct.pack("<HH2sH", 2, 16, b"UI", 18) + b"1.2.840.10008.1.2" + bytes(1)
    meta = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(syntax)) + syntax
    begins = struct.pack("<HHIHHI", 64, 42800, 0xFFFFFFFF, 65534, 57344, 0xFFFFFFFF)
    ends = struct.pack("<HHIHHI", 65534, 57357, 0, 65534, 57565, 0)
    return bytes(128) + b"DICM" + meta + begins * depth + ends * depth
def none_is_refused(header):
    if header is None:
        raise FloError("no DICOM that can be read")
n = {n}
data = {made}
place.write_bytes(data)
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
