"""A site that answers one round after another until it is killed; ``test_kill`` kills it.

Handler, ledger, run keys, masks and kept replies are the real ones. The releaser draws anew each
time it is asked, so a release that was computed twice would show. Requests and replies go to a
file, flushed, one record each: round (4 bytes, plus REQUEST for a request and OPENING for what it
signs or reveals of the round), length (4 bytes), bytes; a request before it is answered, its reply
after.

    python -m tests.end_to_end.killed_site SITE STUDY PARTNERS SENT FIRST_ROUND
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flo.clients.home.site_home import SiteHome
from flo.keys.identity import Identity
from flo.protocol.messages import Request, RequestHeader, model_digest
from flo.study.loading import from_canonical
from tests.end_to_end.dealing_partners import surviving_request
from tests.partners import claims, encode_request, handler_of

LENGTH = 6  # parameters of the small study
REQUEST, OPENING = 1 << 24, 2 << 24
COHORT = ("north", "south", "west")


class FreshReleaser:
    """A new random vector every time; says so on standard output."""

    def warm_up(self, *_: Any) -> None:
        """Ready."""

    def unload(self, study: str) -> None:
        """Nothing is kept."""

    def release(self, *_: Any) -> npt.NDArray[np.int64]:
        os.write(1, b".")
        return np.frombuffer(os.urandom(8 * LENGTH), dtype="<i8").astype(np.int64)


def request(study: str, round_: int, relayed: dict[str, Any]) -> bytes:
    """A good request; ``relayed``: keys, heads and vouchers."""
    weights = np.full(LENGTH, float(round_))
    header = RequestHeader(
        study=study,
        run="run-1",
        purpose="training",
        round=round_,
        attempt=1,
        cohort=COHORT,
        model=model_digest(weights),
        **relayed,
    )
    return encode_request(Request(header, weights))


def main(site: str, study_file: str, partners: str, sent: str, first: str) -> None:
    home = SiteHome.open(Path(site))
    study = from_canonical(Path(study_file).read_bytes())
    identities = {
        path.stem: Identity.read(path.read_bytes(), path.name)
        for path in Path(partners).glob("*.key")
    }
    ledger, started = home.open_ledger(), time.time_ns() // 1000  # the partners' keys are new, too
    handler = handler_of(home, ledger, FreshReleaser())
    file = os.open(sent, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write_down(round_: int, data: bytes) -> None:
        os.write(file, round_.to_bytes(4, "big") + len(data).to_bytes(4, "big") + data)
        os.fsync(file)

    def answer(round_: int, asked: bytes, kind: int = 0) -> bytes:
        reply = handler.answer(asked)
        assert reply is not None
        write_down(kind + round_, reply)
        return reply

    for round_ in range(int(first), 10_001):
        if study.tolerance is None:
            relayed = claims(handler, ledger, study, COHORT, identities=identities, epoch=started)
            asked = request(study.digest, round_, relayed)
            write_down(REQUEST + round_, asked)
            answer(round_, asked)
        else:
            asked, sign, reveal = surviving_request(
                handler, ledger, study, round_, identities=identities, epoch=started
            )
            write_down(REQUEST + round_, asked)
            answer(round_, asked)
            answer(round_, reveal(answer(round_, sign, OPENING)), OPENING)


if __name__ == "__main__":
    main(*sys.argv[1:])
