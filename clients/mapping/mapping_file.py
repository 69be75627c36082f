"""``mapping.toml`` in a site's folder: reading it, and appending a study's section."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping as AbstractMapping
from typing import Any

import tomli_w

from flo.clients.home.site_home import SiteHome
from flo.clients.sources.mapping import MappedColumn, Mapping, StudyMapping
from flo.documents.document import parse, parse_toml, read_settings
from flo.documents.text import escape_for_terminal
from flo.errors import UsageError
from flo.storage.files import write_private
from flo.study.document import Study

FILE = "mapping.toml"
_HEADING = """\
# Maps this hospital's fields to the columns of a study. The steward reads it before approving; an
# approval is bound to it. What a line may contain: docs/connectors.md.
schema_version = 1
"""
_OPEN = {
    "as_of": '# as_of = "YYYY-MM-DD"  # the day of every record: choose a calendar day that suits '
    "the study's question.\n# Do not take it from the data: the last day there is one patient's "
    "last visit, and would decide the age and history of all patients.\n"
}


def mapping_of(home: SiteHome, study: Study) -> StudyMapping | None:
    """Return the section for this study's name; None if there is none.

    Raises:
        UsageError: the file is not a valid mapping.
    """
    path = home.directory / FILE
    if not path.exists():
        return None
    return read_settings(Mapping, path).studies.get(study.name)


def add(
    home: SiteHome,
    study: Study,
    lines: AbstractMapping[str, tuple[MappedColumn | None, str]],
    settings: AbstractMapping[str, Any],
) -> None:
    """Append a section for ``study``: each column's field, and a remark for the reviewer.

    A column without a field, or a setting without a value, is written as a comment, so the mapping
    is refused until a person completes it.

    Raises:
        UsageError: the study already has a section, or the file is not a valid mapping.
    """
    if mapping_of(home, study) is not None:
        raise UsageError(f"{FILE} already has a section for {study.name}", hint="edit it there")
    path = home.directory / FILE
    text = path.read_text(encoding="utf-8") if path.exists() else _HEADING
    chosen = {name: value for name, value in settings.items() if value is not None}
    text += f"\n[studies.{study.name}]\n{tomli_w.dumps(chosen)}"
    text += "".join(_OPEN[name] for name, value in settings.items() if value is None)
    text += f"\n[studies.{study.name}.columns]\n"
    for name, (mapped, remark) in lines.items():
        text += _line(name, mapped, remark)
    parse(Mapping, parse_toml(text, FILE), FILE)  # never write a file that cannot be read again
    write_private(path, text.encode())


def _line(name: str, mapped: MappedColumn | None, remark: str) -> str:
    # The remark comes from a foreign system: a line break would end the comment.
    words = " ".join(escape_for_terminal(remark).split())
    comment = f"  # {words}" if words else ""
    if mapped is None:
        return f'# {_key(name)} = {{ field = "" }}{comment}\n'
    values = mapped.model_dump(mode="json", exclude_defaults=True)
    inline = ", ".join(f"{key} = {_inline(value)}" for key, value in values.items())
    return f"{_key(name)} = {{ {inline} }}{comment}\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML forbids raw DEL


def _inline(value: Any) -> str:
    """Return a TOML value on one line; JSON's strings, numbers and lists are valid TOML."""
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(k)} = {_inline(v)}" for k, v in value.items())
        return f"{{ {inner} }}"
    return _text(value)
