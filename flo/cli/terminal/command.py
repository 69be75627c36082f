"""Registration of commands: gives each the option ``--json``, to write its result as JSON.

A command prints its result as text, with ``flo.cli.terminal.output``, and returns it as an object
of ``flo.cli.terminal.results``. ``--json FILE`` writes the object to a file. ``--json -`` writes it
to standard output, and the text goes to standard error. A command that was refused writes a
``RefusalResult`` instead.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from flo.cli.terminal.results import CommandResult, RefusalResult

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
STANDARD_OUTPUT = Path("-")


def _chosen(path: Path | None) -> Path | None:
    """Check the path of ``--json`` before the command runs."""
    if path not in (None, STANDARD_OUTPUT) and (path.is_dir() or not path.parent.is_dir()):
        raise typer.BadParameter(f"{path} is a folder, or its folder is missing; nothing was done")
    if path == STANDARD_OUTPUT:
        from flo.cli.terminal import output

        output.words_to_standard_error()
    return path


JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        callback=_chosen,
        is_eager=True,
        help="Write the result as JSON to this file, or - for standard output (docs/json.md).",
    ),
]


def command(app: typer.Typer, name: str | None = None) -> Callable[[CommandT], CommandT]:
    """Register a function that returns a ``CommandResult``, and add the option ``--json``."""

    def register(function: CommandT) -> CommandT:
        signature = inspect.signature(function, eval_str=True)
        added = inspect.Parameter(
            "json_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=JsonFile
        )

        @functools.wraps(function)
        def run(*arguments: Any, json_file: Path | None = None, **options: Any) -> None:
            from flo.errors import FloError
            from flo.host.machine_errors import of_the_machine

            try:
                result: CommandResult = function(*arguments, **options)
            except Exception as error:  # machine errors (disk full) can come from anywhere
                known = error if isinstance(error, FloError) else of_the_machine(error)
                if known is None:
                    raise
                write_json(json_file, RefusalResult(str(known), known.hint, known.exit_code))
                raise known from error
            write_json(json_file, result)
            if result.ends_in():
                raise typer.Exit(result.ends_in())

        run.__annotations__ = {**function.__annotations__, "json_file": JsonFile}
        parameters = [*signature.parameters.values(), added]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        app.command(name)(run)
        return function

    return register


def write_json(path: Path | None, result: Any) -> None:
    """Write a result as JSON to ``path``, if given."""
    if path is None:
        return
    document = asdict(result) if is_dataclass(result) else result  # type: ignore[arg-type]
    text = json.dumps(document, indent=1, ensure_ascii=False, default=str) + "\n"
    if path == STANDARD_OUTPUT:
        sys.stdout.write(text)
    else:
        path.write_text(text, encoding="utf-8")
