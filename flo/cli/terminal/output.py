"""Terminal output: results and sheets on standard output; errors and spinners on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flo.errors import EXIT_BUG, FloError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from flo.privacy.report.sheet import Section


_OF_LINUX = ("fcntl", "grp", "pwd", "resource")  # standard-library modules that Windows lacks
_words_to_error = False


def words_to_standard_error() -> None:
    """Print text to standard error from now on: standard output is only for JSON."""
    global _words_to_error
    _words_to_error = True


def console(*, error: bool = False) -> Console:
    """Return a console on standard output; with ``error`` or ``--json -``, on standard error."""
    from rich.console import Console

    return Console(stderr=error or _words_to_error, highlight=False, soft_wrap=error)


def say(text: str) -> None:
    """Print one line of a result, unwrapped, so that paths and commands can be copied."""
    from flo.documents.text import escape_for_terminal

    console().print(escape_for_terminal(text), soft_wrap=True)


def explain(error: Exception) -> int:
    """Print an error and its fix; return the exit code."""
    from flo.host.machine_errors import of_the_machine

    out = console(error=True)
    error = of_the_machine(error) or error
    if isinstance(error, OSError) and isinstance(error.filename, str | Path):
        hint = "check that this path exists and that you may use it"
        error = UsageError(f"{error.filename}: {error.strerror}", hint=hint)
    if isinstance(error, ModuleNotFoundError) and error.name in _OF_LINUX:
        hint = "available here: flo audit verify, flo study check"
        error = UsageError("agents and coordinators run on Linux only", hint=hint)
    if isinstance(error, FloError):
        out.print(f"[bold red]error:[/] {plain(str(error))}")
        if error.hint:
            out.print(f"[bold]what to do:[/] {plain(error.hint)}")
        return error.exit_code
    out.print(
        f"[bold red]this is a bug in FLO:[/] {type(error).__name__} "
        f"({_place(error)}). Please report it with this line."
    )
    return EXIT_BUG


def show_sheet(parts: list[Section], out: Console) -> None:
    """Print a study's sheet, one table per section."""
    from rich.table import Table

    for section in parts:
        out.print(f"\n[bold]{section.heading}[/]")
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for label, text in section.lines:
            table.add_row(plain(label), plain(text))
        out.print(table)


@contextmanager
def working(text: str) -> Iterator[Any]:
    """Show a spinner during a slow operation; ``status.update`` changes its text."""
    with console(error=True).status(text) as status:
        yield status


def encoding_shown(status: Any) -> Callable[[int, int], None]:
    """Return what shows on ``working``'s spinner how many records an encoder has encoded."""
    return lambda done, of: status.update(f"encoded {done:,} of {of:,} records")


def confirmed(question: str, yes: bool) -> bool:
    """Ask for confirmation on the terminal; without a terminal, only ``--yes`` confirms."""
    if yes:
        return True
    if not sys.stdin.isatty():
        return False
    import typer

    return typer.confirm(question, default=False)


def keystore_document(kind: str, path: Path | None) -> dict[str, str]:
    """Return the ``[keystore]`` table of a configuration, from a command's options."""
    if kind.startswith("arn:"):
        return {"kind": "kms", "key": kind}
    return {"kind": kind} | ({"path": str(path.resolve())} if path else {})


def plain(text: str) -> str:
    """Escape rich markup and terminal control characters in untrusted text."""
    from rich.markup import escape

    from flo.documents.text import escape_for_terminal

    return escape(escape_for_terminal(text))


def _place(error: Exception) -> str:
    trace = error.__traceback__
    place = "unknown place"
    while trace is not None:
        place = f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def verbatim(text: str) -> str:
    """Print a text unchanged, for redirection to a file, and return it."""
    console().out(text, end="", highlight=False)
    return text
