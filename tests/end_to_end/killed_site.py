"""A site that answers one round after another until it is killed; ``test_kill`` kills it.

Handler, ledger and kept replies are the real ones. The releaser draws anew each time it is asked,
so a release that was computed twice would show. What is sent goes to a file, flushed, one record a
reply: round (4 bytes), length (4 bytes), the reply.

    python -m tests.end_to_end.killed_site SITE STUDY SENT FIRST_ROUND
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flo.clients.handler import Handler
from flo.clients.home import SiteHome
from flo.messages import Request, RequestHeader, encode_request, model_digest

LENGTH = 6  # parameters of the small study
COHORT = ("north", "south", "west")


class FreshReleaser:
    """A new random vector every time; says so on standard output."""

    def release(self, *_: Any) -> npt.NDArray[np.int64]:
        os.write(1, b".")
        return np.frombuffer(os.urandom(8 * LENGTH), dtype="<i8").astype(np.int64)


def header(study: str, round_: int) -> RequestHeader:
    weights = np.full(LENGTH, float(round_))
    return RequestHeader(
        study=study,
        run="run-1",
        purpose="training",
        round=round_,
        attempt=1,
        cohort=COHORT,
        model=model_digest(weights),
    )


def request(study: str, round_: int) -> bytes:
    return encode_request(Request(header(study, round_), np.full(LENGTH, float(round_))))


def main(site: str, study: str, sent: str, first: str) -> None:
    home = SiteHome.open(Path(site))
    handler = Handler(home, home.ledger(), FreshReleaser(), lambda _: None)
    file = os.open(sent, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for round_ in range(int(first), 10_001):
        reply = handler.answer(request(study, round_))
        assert reply is not None
        os.write(file, round_.to_bytes(4, "big") + len(reply).to_bytes(4, "big") + reply)
        os.fsync(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
