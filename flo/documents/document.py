"""Reading TOML, and building documents from what was read: errors name the field and its rule.

A setting is the flag, then its ``FLO_*`` variable (Typer gives both), then the file, and its
documents hold the defaults.
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
_WORDS: dict[str, str] = {}  # pattern -> what it asks for, as people say it
_NAMES = ("name", "id", "hospital")  # the field by which an entry of a list is known
_MOST_PARTS = 50  # of a dotted key
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_DOTTED = re.compile(rf"(?<![\w.-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{_MOST_PARTS}}}")

ModelT = TypeVar("ModelT", bound="Document")


class Document(BaseModel):
    """A frozen document read from a file or a peer: unknown keys are errors, numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=False)

    def to_bytes(self) -> bytes:
        """As it is signed, named by its digest, kept and sent: canonical JSON of all its fields."""
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
    """Parse TOML of 4 MiB and less. Raises UsageError naming ``what`` and the line.

    Dotted keys of many parts are refused first: the parser takes a part's time and memory for each
    part before it, 1.5 GB for 20,000 of them.
    """
    if len(text) > MAX_TOML_BYTES:
        raise UsageError(f"{what} is larger than {MAX_TOML_BYTES >> 20} MiB")
    if dotted := _DOTTED.search(text):
        line = text.count("\n", 0, dotted.start()) + 1
        raise UsageError(f"{what}, line {line}: a key of more than {_MOST_PARTS} parts")
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{what} is not valid TOML: {error}", hint=_mend(what)) from error


def _mend(what: object) -> str:
    return f"mend that line of {what}; if nobody wrote it, restore the file"


def parse(model: type[ModelT], value: Any, what: str) -> ModelT:
    """Build ``model`` from parsed data, with one line per problem that names the field.

    Raises:
        UsageError: ``what``, the fields and the rules they break.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UsageError(f"{what}:\n{problems(error, value)}") from error


def read_settings(model: type[ModelT], path: Path) -> ModelT:
    """Build ``model`` from a TOML file that people edit. Raises UsageError with the way out."""
    try:
        return parse(model, read_toml(path), str(path))
    except UsageError as error:
        raise UsageError(str(error), hint=error.hint or _mend(path)) from error


def read_json(model: type[ModelT], path: Path, *, limit: int) -> ModelT:
    """Build ``model`` from a file of JSON, of which at most ``limit`` bytes are read.

    Raises:
        MessageError: it is larger, or no JSON. UsageError: it breaks the model's rules.
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
    return parse(model, canonical.decode(data, limit=limit, what=str(path)), str(path))


def problems(error: ValidationError, of: Any = None, *, foreign: bool = False) -> str:
    """Pydantic's findings as lines 'field.path: rule', without echoing values.

    ``of``: the document that was read, by which an entry of a list is called by its own name:
    ``data.columns 'age'.unit`` and not ``data.columns.0.number.unit``. ``foreign``: not even the
    names of keys that are not known; they are text of another party.
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
    """The way to a field. What pydantic puts in for the kind of an entry is no key, and is left
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
    """A rule for text that people type: the whole of it fits ``pattern``, or the error says
    ``words``."""
    whole = f"^(?:{pattern})$"
    _WORDS[whole] = words
    return StringConstraints(pattern=whole)
