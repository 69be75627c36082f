"""One row of the table: an attack, the no that it gets, and where that no is written down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flo.errors import FloError
from tests.attacks.stage import AGENT, COORDINATOR, SCREEN, SITE, Stage


@dataclass(frozen=True)
class Logged:
    """``entry``: its kind, the command's exit code, or of the agent's log some words of a line.

    ``why``: words that the entries of other refusals do not have.
    """

    where: str
    entry: str
    why: str = ""

    def is_in(self, line: str) -> bool:
        entered = self.entry in line if self.where == AGENT else line.split()[0] == self.entry
        return entered and self.why in line

    def __str__(self) -> str:
        if self.where == SCREEN:
            return f"{self.where} {self.entry}"
        return f"`{self.entry}` in {self.where}"


@dataclass(frozen=True)
class Attack:
    """``does`` returns what the attacker saw, once for each thing that it tried."""

    name: str
    does: Callable[[Stage], Iterable[str]]
    refused: str
    logged: Logged

    def __str__(self) -> str:
        return f"| {self.name} | {self.refused} | {self.logged} |"


def connection(why: str) -> Logged:
    return Logged(COORDINATOR, "refused-connection", why)


def request(why: str = "") -> Logged:
    return Logged(COORDINATOR, "refused-request", why)


def call(why: str = "") -> Logged:
    return Logged(COORDINATOR, "refused-call", why)


def denied(why: str = "") -> Logged:
    return Logged(COORDINATOR, "denied", why)


def answered(code: str) -> Logged:
    """A site enters every message with its answer; a refusal is one public code."""
    return Logged(SITE, "message", f'"answered":"{code}"')


def shown(exit_code: int, why: str) -> Logged:
    """A command of the steward's or the coordinator's, refused before their eyes."""
    return Logged(SCREEN, str(exit_code), why)


def refusal(stage: Stage, action: Callable[[], object]) -> Sequence[str]:
    """The kind of error that a command ends in, and what it puts on the screen."""
    try:
        action()
    except FloError as error:
        stage.screen.explain(error)
        return [type(error).__name__]
    return ["accepted"]


def table(attacks: Iterable[Attack]) -> str:
    """The rows as Markdown."""
    rows = ["| attack | refused with | logged as |", "|---|---|---|", *map(str, attacks)]
    return "\n".join(rows) + "\n"
