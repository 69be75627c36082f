"""Calls that a ServerApp makes to the coordinator beside Flower's own: their paths and limits.

    push    sends requests to hospitals, each with all its objects
    pull    waits for replies, and returns those that are there, each with all its objects
    put     stores the large body of a request (``flo.server.flower.large_bodies``)
    take    fetches the large body of a reply

Flower's own client pushes and pulls each object of a message in a call of its own: sixty calls in a
round of four hospitals. A body of ``push`` and an answer to ``pull`` consist of parts
(``flo.protocol.whole_messages``): Flower's record of the call, then the content of each object.
"""

from __future__ import annotations

from flo.protocol.messages import MAX_MESSAGE_BYTES
from flo.protocol.whole_messages import MAX_REQUEST, MOST_OBJECTS

RUNTIME_PREFIX = "/v1/runtime/"
PUSH_PATH, PULL_PATH = f"{RUNTIME_PREFIX}flo-push", f"{RUNTIME_PREFIX}flo-pull"
PUT_PATH, TAKE_PATH = f"{RUNTIME_PREFIX}flo-put-parcel", f"{RUNTIME_PREFIX}flo-take-parcel"
APP_CALLS = frozenset({PUSH_PATH, PULL_PATH, PUT_PATH, TAKE_PATH})

MOST_MESSAGES = 1000  # in one call
MOST_PARTS = 1 + MOST_OBJECTS * MOST_MESSAGES
BATCH_BYTES = 1 << 24  # of objects in one call, unless a single message has more
MAX_PUSH_BYTES = BATCH_BYTES + 2 * MAX_REQUEST + MOST_MESSAGES * 4096
MOST_ASKED = 1 << 14  # requests in a question for replies
MAX_PULL_BYTES = 128 * MOST_ASKED
MAX_PULLED_PART = MAX_MESSAGE_BYTES
