"""docs/audit-log.md names every kind of entry that the source makes, and none that it does not.

Kinds are found in the syntax tree: the argument of each call that enters something, which has to be
a literal. A call with a kind that is computed has to be listed here, with what it can be.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from flo.server.runs.remote_documents import RUN_EVENT_FACTS
from tests.paths import ROOT

DOCUMENT = ROOT / "docs" / "audit-log.md"


class Call(NamedTuple):
    """``place`` of the kind among the arguments of ``receiver.name(...)``."""

    receiver: str
    name: str
    place: int


COORDINATOR = (Call("store|stored", "add_event", 1), Call("store|stored|kept", "event", 0),
               Call("audit", "record", 0))  # fmt: skip
SITE = (Call("home|opened|self", "record", 0), Call("audit_log|log", "append", 0))
SOURCES: dict[str, list[tuple[str, tuple[Call, ...]]]] = {
    "Coordinator": [("server", COORDINATOR), ("flo/cli", COORDINATOR)],
    "Site": [("clients", SITE), ("flo/cli", SITE)],
}

COMPUTED: dict[tuple[str, str], set[str]] = {
    # LocalRunStore.event passes on what run.py says, and how the run ended.
    ("server/runs/local_store.py", "kind"): {"done", "stopped", "ended", "paused", "failed"},
    ("server/api/run_api.py", "event.kind"): set(RUN_EVENT_FACTS),
    ("server/runs/scheduler.py", "'ended' if over else 'paused'"): {"ended", "paused"},
    (
        "server/audit/rate_limited.py",
        "kind",
    ): set(),  # RateLimitedAudit.record passes on what it is told
    ("clients/agent/agent.py", "kind"): {
        *("audit-disagreement", "roster-disagreement", "model-states-refused"),
        "monitor-refused",
    },
    ("clients/home/site_home.py", "kind"): set(),  # SiteHome.record passes on what it is told
}

# Entered together with what they are about, by one SQL transaction.
BY_STATEMENT = {
    "Coordinator": {"model-decided": "server/store/model_tables.py"},
    "Site": dict[str, str](),
}


@dataclass(frozen=True)
class Entered:
    """A call that enters something: where, and its kind; None where that is no literal."""

    path: str
    line: int
    kind: str | None
    text: str


def calls(source: str, path: str, wanted: tuple[Call, ...]) -> Iterator[Entered]:
    """Direct calls, and ``to_thread(receiver.name, ...)``."""
    tree = ast.parse(source)
    constants = {
        statement.targets[0].id: statement.value.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and isinstance(statement.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        asked = [(node.func, 0), *((value, n + 1) for n, value in enumerate(node.args))]
        for function, behind in asked:
            for call in wanted:
                if not _is(function, call):
                    continue
                kind = node.args[behind + call.place]
                found = kind.value if isinstance(kind, ast.Constant) else None
                if isinstance(kind, ast.Name):
                    found = constants.get(kind.id)
                literal = found if isinstance(found, str) else None
                yield Entered(path, node.lineno, literal, ast.unparse(kind))


def _is(function: ast.expr, call: Call) -> bool:
    if not isinstance(function, ast.Attribute) or function.attr != call.name:
        return False
    on = function.value.func if isinstance(function.value, ast.Call) else function.value
    receiver = ast.unparse(on).split(".")[-1].removeprefix("_")
    return receiver in call.receiver.split("|")


def entered(heading: str) -> list[Entered]:
    found: list[Entered] = []
    for folder, wanted in SOURCES[heading]:
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            found += calls(file.read_text(encoding="utf-8"), path, wanted)
    return found


def kinds(heading: str) -> set[str]:
    """Every kind that one side's source can enter."""
    found: set[str] = set()
    for call in entered(heading):
        found |= {call.kind} if call.kind else COMPUTED[call.path, call.text]
    for kind, path in BY_STATEMENT[heading].items():
        assert f"'{kind}'" in (ROOT / path).read_text(encoding="utf-8")
    return found | set(BY_STATEMENT[heading])


def documented(heading: str, text: str) -> list[str]:
    """Kinds in the first column of the table under one heading."""
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None, f"no heading {heading}"
    rows = [line.split("|")[1] for line in section[1].splitlines() if line.startswith("| ")]
    return [kind for cell in rows for kind in re.findall(r"`([a-z-]+)`", cell)]


@pytest.mark.parametrize(("heading", "at_least"), [("Coordinator", 35), ("Site", 20)])
def test_every_kind_of_entry_is_documented_and_no_other(heading: str, at_least: int) -> None:
    described = documented(heading, DOCUMENT.read_text(encoding="utf-8"))
    assert len(described) == len(set(described)), "a kind stands twice"
    assert set(described) == kinds(heading)
    assert len(described) >= at_least


@pytest.mark.parametrize("heading", list(SOURCES))
def test_every_computed_kind_is_known_here(heading: str) -> None:
    computed = {(call.path, call.text) for call in entered(heading) if call.kind is None}
    assert computed <= set(COMPUTED)


@pytest.mark.slow
def test_no_listed_exception_has_gone() -> None:
    computed = {(c.path, c.text) for heading in SOURCES for c in entered(heading) if not c.kind}
    assert computed == set(COMPUTED)


@pytest.mark.parametrize("heading", list(SOURCES))
def test_a_kind_is_a_short_word_that_a_log_takes(heading: str) -> None:
    assert [kind for kind in kinds(heading) if not re.fullmatch(r"[a-z][a-z-]{0,39}", kind)] == []


SAMPLE = """
THREE = "three"
self._store.add_event(None, "one", hospital=x)
store.add_event(digest, status)
home.store().add_event(None, "two")
rows.append("no")
audit.record(THREE, path=path)
await asyncio.to_thread(self._audit.record, "four", path=path)
"""


def test_kinds_are_found_where_they_stand() -> None:
    found = list(calls(SAMPLE, "sample.py", COORDINATOR))
    assert [(call.line, call.kind, call.text) for call in found] == [
        (3, "one", "'one'"),
        (4, None, "status"),
        (5, "two", "'two'"),
        (7, "three", "THREE"),
        (8, "four", "'four'"),
    ]


def test_kinds_are_read_from_the_first_column_only() -> None:
    text = "## Site\n\n| kind | when |\n|---|---|\n| `a-b`, `c` | not `d` |\n\n## Next\n| `e` | |\n"
    assert documented("Site", text) == ["a-b", "c"]
