"""What an aggregator elsewhere and the coordinator say to each other about one run.

take    the aggregator begins: it gets the study, the last saved state's place, and a number;
        whoever took the run before is refused from now on
tell    what happened: events, heads, the place of a new saved state, the end
look    the reply to both: who is connected, the highest heads, whether to stop
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from flo.claims import LARGEST_COUNT, Digest, Head
from flo.settings import Document
from flo.study import MAX_STUDY_BYTES, Identifier

MAX_TOLD_BYTES = 8 << 20
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
_Node = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,20}$")]  # 64 bits: no JSON number
_Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]


class Saved(Document):
    """Where a sealed state is kept: ``number`` grows, ``digest`` is of what is kept there."""

    number: _Count
    digest: Digest
    phase: _Name
    round: _Count


class Event(Document):
    """Of a kind that a run has: all else in the audit log is the coordinator's own."""

    kind: Literal[
        "online",
        "round",
        "attempt-failed",
        "bad-reply",
        "refused",
        "excluded",
        "too-few",
        "failed",
        "paused",
        "done",
        "stopped",
        "ended",
    ]
    facts: dict[str, Any]


class End(Document):
    """How the run went out of the aggregator's hands; paused: it can go on later."""

    status: Literal["done", "stopped", "ended", "paused"]
    result: dict[str, Any] | None = None


class Tell(Document):
    """``launch``: the number that ``take`` gave."""

    launch: _Count
    events: Annotated[tuple[Event, ...], Field(max_length=1000)] = ()
    heads: Annotated[dict[Identifier, Head], Field(max_length=1000)]
    saved: Saved | None = None
    end: End | None = None


class Look(Document):
    nodes: dict[Identifier, _Node]
    connections: dict[Identifier, _Count]
    heads: dict[Identifier, Head]
    stop: bool


class Taken(Document):
    study: Annotated[str, StringConstraints(max_length=MAX_STUDY_BYTES)]
    launch: _Count
    saved: Saved | None
    look: Look
