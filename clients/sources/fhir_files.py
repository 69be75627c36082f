"""Files of a FHIR bulk export, read resource by resource.

These are all ``*.ndjson`` and ``*.ndjson.gz`` of a folder and its subfolders, in any letter case,
except hidden ones. Each line has one resource. The bulk data specification requires one type per
file; several are accepted here. Input that may be incomplete is refused, and never skipped: a line
that is not JSON, a truncated last line, errors that the export reports, and resources in a Bundle.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from flo.documents import canonical
from flo.errors import DataError, MessageError

Resource = dict[str, Any]
_LONGEST_LINE, _LONG_LINE = 16 << 20, 1 << 20  # bytes, decompressed
_ENDINGS = (".ndjson", ".ndjson.gz")
_OTHER_ENDINGS = ("ndjson", "jsonl", "json", "parquet", "zip", "tar", "tgz")
BESIDE = "linked folders and files with other endings (.jsonl, .json, .zip), which are not read"
_TELLING = (b"", b"OperationOutcome", b"Bundle")  # types that are always parsed
_TYPE = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"resourceType"\s*:\s*"([A-Za-z]+)"')


class BulkFiles:
    """Files of one export, read line by line.

    ``beside``: number of files and linked folders that may belong to it and are not read.
    """

    def __init__(self, folder: Path) -> None:
        """Raises DataError if the folder does not exist or holds no such file."""
        if not folder.is_dir():
            raise DataError(f"folder {folder} does not exist", hint="set `folder` in site.toml")
        there = [path for path in sorted(folder.rglob("*")) if not path.name.startswith(".")]
        self._paths = [
            path for path in there if path.name.lower().endswith(_ENDINGS) and path.is_file()
        ]
        self.beside = sum(_may_be_export(path) for path in there if path not in set(self._paths))
        self._types: dict[Path, set[str]] = {}  # in each file that was read to its end
        if not self._paths:
            raise DataError(
                f"{folder} holds no *.ndjson or *.ndjson.gz file",
                hint="it is what a bulk export ($export) of the FHIR server writes",
            )

    def resources(self, kind: str, marks: list[bytes] | None = None) -> Iterator[Resource]:
        """Yield resources of one type; with ``marks``, at least those whose line holds a mark."""
        for path in self._paths:
            if kind in self._types.get(path, {kind}):
                yield from self._of(path, kind, marks)

    def _of(self, path: Path, kind: str, marks: list[bytes] | None) -> Iterator[Resource]:
        types, name = set[bytes](), kind.encode()
        for number, line, last in _lines(path):
            start = _TYPE.match(line)
            found = start[1] if start else b""
            needed = found in _TELLING or (found == name and (not marks or _may_hold(line, marks)))
            if needed or (last and len(line) <= _LONGEST_LINE):
                place = f"{path.name}, line {number}"
                resource = _parsed(line, place)
                found = str(resource.get("resourceType") or "").encode()
                if found == name:
                    yield resource
                else:
                    _must_be_harmless(resource, place)
            if found not in types:
                types.add(found)
                if b"" in types and len(types) > 1:  # alone it is an export's log
                    _is_no_resource(f"{path.name}, line {number}")
        self._types[path] = {one.decode() for one in types}


def _may_be_export(path: Path) -> bool:
    """Return whether a path is a linked folder, which is not followed, or has another ending."""
    if path.is_dir():
        return path.is_symlink()
    return any(ending in _OTHER_ENDINGS for ending in path.name.lower().split(".")[1:])


def listed(resource: Resource, name: str) -> list[Resource]:
    """Return the objects of a list in a resource; empty if there is no such list."""
    found = resource.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Yield number, line, and whether it is the last; a line is cut one byte above the limit."""
    held: tuple[int, bytes] | None = None
    number = 0
    try:
        with _opened(path) as file:
            while line := file.readline(_LONGEST_LINE + 1):
                number += 1
                rest = line
                while len(rest) > _LONGEST_LINE and not rest.endswith(b"\n"):
                    rest = file.readline(_LONGEST_LINE + 1)
                if line.isspace():
                    continue
                if held is not None:
                    yield *held, False
                held = number, line
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(
            f"{path.name} is not a complete gzip file", hint="copy or export it again"
        ) from None
    if held is not None:
        yield *held, True


def _opened(path: Path) -> IO[bytes]:
    packed = path.name.lower().endswith(".gz")
    return cast("IO[bytes]", gzip.open(path, "rb")) if packed else path.open("rb")


def _may_hold(line: bytes, marks: list[bytes]) -> bool:
    """Return whether a line may hold a mark; always if it has a backslash, which may encode one."""
    if b"\\" in line:
        return True
    for mark in marks:  # noqa: SIM110 - this is done for every line of an export
        if mark in line:
            return True
    return False


def _parsed(line: bytes, place: str) -> Resource:
    if len(line) > _LONGEST_LINE:
        raise DataError(f"{place}: more than {_LONGEST_LINE >> 20} MiB")
    if len(line) > _LONG_LINE:  # checking every line would take as long as parsing it
        try:
            canonical.refuse_crowded(line, place, canonical.FEW)
        except MessageError as error:
            raise DataError(str(error), hint="each line of the file must be one resource") from None
    try:
        resource = _JSON.decode(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise DataError(
            f"{place}: is not JSON", hint="the file may be cut off: copy or export it again"
        ) from None
    if not isinstance(resource, dict):
        _is_no_resource(place)
    return resource


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)  # Python accepts NaN and Infinity, JSON does not


_JSON = json.JSONDecoder(parse_constant=_no_number)


def _is_no_resource(place: str) -> NoReturn:
    raise DataError(f"{place}: is not a resource", hint="each line of the file must be one")


def _must_be_harmless(resource: Resource, place: str) -> None:
    """Refuse a resource of another type that shows that the export may be incomplete."""
    kind = resource.get("resourceType")
    if kind == "Bundle":
        raise DataError(
            f"{place}: is a Bundle, which FLO does not read",
            hint="export everything again ($export without _since), with one resource in each line",
        )
    if kind == "OperationOutcome" and any(
        issue.get("severity") in ("error", "fatal") for issue in listed(resource, "issue")
    ):
        raise DataError(
            f"{place}: the export reports an error, so resources may be missing",
            hint="read the FHIR server's message there (OperationOutcome), and export again",
        )
