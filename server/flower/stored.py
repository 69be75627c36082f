"""Which objects of messages Flower keeps, and how those that are no longer needed are deleted.

Flower names objects by their content and counts how often each is inside another. Objects of
messages that expire, of replies that we read ourselves and of repeated requests keep their place in
its store until the run ends, or for ever. So objects are looked through now and then: whatever is
part of no message is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from flwr.supercore.constant import OBJECT_PUSH_SESSION_TTL_SECONDS

from flo.protocol.whole_messages import MOST_OBJECTS

_TO_ANNOUNCE_SECONDS = 10.0  # Flower begins an upload, then stores its message


def objects_of(state: Any, root: str) -> list[Any] | None:
    """Return the entries of a message's objects; None if one is missing or they are too many.

    Whoever announced the message says what is inside what, perhaps again and again.
    """
    store, found, left = state.object_store.store, list[Any](), [root]
    while left:
        entry = store.get(left.pop())
        if entry is None or not entry.is_available or len(found) == MOST_OBJECTS:
            return None
        found.append(entry)
        left.extend(entry.child_object_ids)
    return found


def bytes_waiting(state: Any, flower_run: int) -> int:
    """Return the bytes of a run's requests that no hospital has fetched yet."""
    there = [
        objects_of(state, request) or ()
        for request, message in list(state.message_ins_store.items())
        if message.metadata.run_id == flower_run
    ]
    return sum(len(entry.content) for entries in there for entry in entries)


def tidy(state: Any, is_over: Callable[[int], bool]) -> None:
    """Delete messages of runs that are over, expired requests, and objects that are left.

    Flower stores a message and the names of its objects under the same lock. ``is_over`` takes
    locks of Flower's own, so it is asked before, and not under them.
    """
    over = set(filter(is_over, _runs(state)))
    _end_sessions(state, over)
    with state.lock, state.object_store.lock_store:
        now, waiting = time.time(), state.message_ins_store.items()
        state.delete_messages(
            {
                request
                for request, one in waiting
                if one.metadata.run_id in over or one.metadata.created_at + one.metadata.ttl <= now
            }
        )
        _sweep(state.object_store, {*state.message_ins_store, *state.message_res_store})


def _runs(state: Any) -> set[int]:
    """Return the runs of which something is kept."""
    sessions = {one.run_id for one in list(state._object_push_sessions.values())}
    messages = {one.metadata.run_id for one in list(state.message_ins_store.values())}
    return sessions | messages


def _end_sessions(state: Any, over: set[int]) -> None:
    """Forget uploads that ended without their objects; the messages wait until they expire.

    An upload that announced no message is one that Flower refused.
    """
    now = datetime.now(UTC)
    late = now + timedelta(seconds=OBJECT_PUSH_SESSION_TTL_SECONDS - _TO_ANNOUNCE_SECONDS)
    with state._lock_object_push_sessions:
        for name, session in list(state._object_push_sessions.items()):
            end = now if session.root_object_ids else late
            if session.expires_at <= end or session.run_id in over:
                end_session(state, name)


def end_session(state: Any, name: str) -> None:
    """Forget an upload that has nothing to send."""
    state._cleanup_push_session(name, cleanup_messages=False)


def _sweep(object_store: Any, messages: set[str]) -> None:
    """Delete the objects that are part of none of these messages."""
    store, kept, left = object_store.store, set[str](), list(messages)
    while left:
        name = left.pop()
        if name not in kept and name in store:
            kept.add(name)
            left.extend(store[name].child_object_ids)
    for name in store.keys() - kept:
        for run in store.pop(name).runs:
            object_store.run_objects_mapping.get(run, set()).discard(name)
    for run in [run for run, names in object_store.run_objects_mapping.items() if not names]:
        del object_store.run_objects_mapping[run]
