"""Generate docs/json.md from result types: ``python -m tools.json_schemas > docs/json.md``."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from typing import Any, get_type_hints

from flo.cli import results
from flo.cli.aws import results as of_aws
from flo.cli.bench import every_command
from flo.cli.coordinator import results as of_coordinator
from flo.cli.site import results as of_site
from flo.cli.terminal import results as shared
from flo.cli.terminal.results import CommandResult, RefusalResult

ENDLESS = ("coordinator serve", "site run", "site desk", "model serve")  # they have no result

_HEAD = """\
# What commands return as JSON

Every command takes `--json FILE`; with `--json -` the JSON goes to standard output, and the text
for people to standard error. A command that is refused writes a `RefusalResult` and exits with its
exit code; a command with invalid arguments exits with 2 and writes no JSON. `flo coordinator
serve`, `flo site run`, `flo site desk` and `flo model serve` run until they are stopped and return
no result.

Results contain names, digests and numbers only: no secret (except the link of `flo coordinator
console`, which is one) and no patient data. Times are ISO 8601 in UTC, fingerprints and digests
SHA-256 in hexadecimal, ε, δ and shares plain numbers. A change in a field's meaning raises
`schema_version`. This page is generated from the code: `python -m tools.json_schemas`.

| command | returns |
|---|---|
"""


def returned() -> dict[str, type]:
    """Return command -> result type; ``MeasuredResult`` for ``bench``, which writes row by row."""
    commands = every_command().items()
    return {words: _result_of(command) for words, command in commands if words not in ENDLESS}


def page() -> str:
    """Return the page's text."""
    found = returned()
    rows = "".join(f"| `flo {words}` | `{kind.__name__}` |\n" for words, kind in found.items())
    used = [RefusalResult, *dict.fromkeys(found.values())]
    inner = [kind for kind in _all_results() if kind not in used]
    return f"{_HEAD}{rows}\n" + "\n".join(map(_section, [*used, *inner]))


def _result_of(command: Any) -> type:
    function = inspect.unwrap(command.callback)
    found: type = get_type_hints(function, include_extras=True)["return"]
    return results.MeasuredResult if found is type(None) else found


def _all_results() -> list[type]:
    modules = (shared, of_aws, of_coordinator, results, of_site)
    kinds = {kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)}
    found = [kind for kind in kinds if dataclasses.is_dataclass(kind) and kind is not CommandResult]
    return sorted(found, key=lambda kind: kind.__name__)


def _section(kind: type) -> str:
    said = re.sub(r"``([^`]*)``", r"`\1`", inspect.getdoc(kind) or "")
    rows = "".join(
        f"| `{item.name}` | {_shown(item)} |\n"
        for item in dataclasses.fields(kind)
        if item.name != "schema_version"
    )
    versions = [f.default for f in dataclasses.fields(kind) if f.name == "schema_version"]
    version = f"\n\n`schema_version` {versions[0]}" if versions else ""
    table = f"\n\n| field | is |\n|---|---|\n{rows}" if rows else "\n"
    return f"## {kind.__name__}\n\n{said}{version}{table}"


def _shown(item: dataclasses.Field[Any]) -> str:
    text = str(item.type)
    for plain, word in (
        ("dict[str, Any]", "object"),
        ("dict[str, str]", "object of texts"),
        ("dict[str, float]", "object of numbers"),
        ("str", "text"),
        ("int", "whole number"),
        ("float", "number"),
        ("bool", "true or false"),
        ("None", "null"),
    ):
        text = re.sub(rf"(?<!\w){re.escape(plain)}(?!\w)", word, text)
    return re.sub(r"list\[(.*?)\]", r"list of \1", text).replace(" | ", " or ")


if __name__ == "__main__":
    sys.stdout.write(page())
