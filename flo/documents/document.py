"""Reading TOML, and building documents from parsed data: errors name the field and its rule.

A setting comes from its flag, else its ``FLO_*`` variable (Typer reads both), else the file, else
the document's default.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from flo.documents import canonical
from flo.documents.text import escape_for_terminal
from flo.errors import UsageError

MAX_TOML_BYTES = 4 << 20
_LONGEST_PLACE, _LONGEST_NAME = 200, 60
_WORDS: dict[str, str] = {}  # pattern -> its rule in plain words
_NAMES = ("name", "id", "hospital")  # fields that identify an entry of a list
_MOST_PARTS = 50  # of a dotted key
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_DOTTED = re.compile(rf"(?<![\w.-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{_MOST_PARTS}}}")

ModelT = TypeVar("ModelT", bound="Document")


class Document(BaseModel):
    """Frozen document from a file or a peer: unknown keys are errors, numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=False)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of all fields, which is signed, hashed, stored and sent."""
        return canonical.encode(self.model_dump(mode="json"))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises UsageError naming the path and the line."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOML_BYTES + 1)
        return parse_toml(data.decode(), str(path))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", hint=_mend(path)) from error


def parse_toml(text: str, what: str) -> dict[str, Any]:
    """Parse TOML of at most 4 MiB. Raises UsageError naming ``what`` and the line.

    Dotted keys of many parts are refused first: for each part the parser uses time and memory for
    all parts before it, 1.5 GB for 20,000 parts.
    """
    if len(text) > MAX_TOML_BYTES:
        raise UsageError(f"{what} is larger than {MAX_TOML_BYTES >> 20} MiB")
    if dotted := _DOTTED.search(text):
        line = text.count("\n", 0, dotted.start()) + 1
        raise UsageError(f"{what}, line {line}: a dotted key of more than {_MOST_PARTS} parts")
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{what} is not valid TOML: {error}", hint=_mend(what)) from error


def _mend(what: object) -> str:
    return f"correct {what}; if nobody edited it, restore it from a backup"


def parse(model: type[ModelT], value: Any, what: str) -> ModelT:
    """Build ``model`` from parsed data.

    Raises:
        UsageError: ``what``, and one line per problem with the field and the rule that it breaks.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UsageError(f"{what}:\n{problems(error, value)}") from error


def read_settings(model: type[ModelT], path: Path) -> ModelT:
    """Build ``model`` from a TOML file that people edit. Raises UsageError with a hint."""
    try:
        return parse(model, read_toml(path), str(path))
    except UsageError as error:
        raise UsageError(str(error), hint=error.hint or _mend(path)) from error


def read_json(model: type[ModelT], path: Path, *, limit: int) -> ModelT:
    """Build ``model`` from a JSON file of at most ``limit`` bytes.

    Raises:
        MessageError: it is larger, or not JSON. UsageError: it breaks the model's rules.
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
    return parse(model, canonical.decode(data, limit=limit, what=str(path)), str(path))


def problems(error: ValidationError, of: Any = None, *, foreign: bool = False) -> str:
    """Return Pydantic's findings as lines 'field.path: rule', without echoing values.

    ``of``: the document that was read; with it, entries of lists are identified by name:
    ``data.columns 'age'.unit`` and not ``data.columns.0.number.unit``. ``foreign``: leave out the
    names of unknown keys, too; they are text of another party.
    """
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        known = item["loc"][:-1] if foreign and item["type"] == "extra_forbidden" else item["loc"]
        place = escape_for_terminal(_place(known, of))[:_LONGEST_PLACE]
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "string_pattern_mismatch":
            message = _WORDS.get(item["ctx"]["pattern"], message)
        lines.append(f"  {place or 'document'}: {message}")
    return "\n".join(lines)


def _place(location: tuple[int | str, ...], document: Any) -> str:
    """Return the path to a field. Pydantic's tag for the kind of an entry is not a key, and is left
    out; an entry without a name keeps its number."""
    way, here = "", document
    for part in location:
        if isinstance(part, int) and isinstance(here, list) and part < len(here):
            here = here[part]
            name = next((here[k] for k in _NAMES if k in here), None) if _is_table(here) else None
            way += f" {name[:_LONGEST_NAME]!r}" if isinstance(name, str) else f".{part}"
        elif _is_table(here) and part == here.get("kind"):
            continue
        else:
            here = here.get(part) if _is_table(here) else None
            way += f".{part}"
    return way.removeprefix(".")


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def spelt(pattern: str, words: str) -> StringConstraints:
    """Return a rule for text that people type: all of it must match ``pattern``, or the error shows
    ``words``."""
    whole = f"^(?:{pattern})$"
    _WORDS[whole] = words
    return StringConstraints(pattern=whole)
