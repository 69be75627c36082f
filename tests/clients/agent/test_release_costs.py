"""A release reads, verifies and unseals nothing again whose bytes did not change."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flo.keys import identity
from flo.keys.keystore import AesKeyStore
from tests.clients.approved_site import Site, approved_site

SETTLE_SECONDS = 0.05  # a file that was written just now is not cached


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from approved_site(tmp_path, masking="on", noise="distributed")


class Counting:
    """Counts while it is on. The audit hook stays for the life of the process."""

    def __init__(self, folder: Path) -> None:
        self.counts, self.on, self._folder = Counter[str](), False, str(folder)
        sys.addaudithook(self._opened)

    def _opened(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event == "open" and str(arguments[0]).startswith(self._folder):
            self.counts["opened"] += 1

    def counted(self, name: str, what: Any) -> Any:
        def call(*given: Any, **known: Any) -> Any:
            self.counts[name] += self.on
            return what(*given, **known)

        return call


def test_a_release_of_three_hospitals(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(tmp_path)
    counted = counting.counted("verified", identity.load_public)  # once for each signature
    monkeypatch.setattr(identity, "load_public", counted)
    monkeypatch.setattr(AesKeyStore, "open", counting.counted("unsealed", AesKeyStore.open))
    time.sleep(SETTLE_SECONDS)
    site.ask()
    for round_ in (2, 3):
        request = site.request(round=round_)
        counting.counts.clear()
        counting.on = True
        reply = site.say(request)
        counting.on = False
        assert reply.header.kind == "release"
        assert 1 <= counting.counts["verified"] <= 4, counting.counts
        assert 1 <= counting.counts["opened"] <= 4, counting.counts
        assert counting.counts["unsealed"] == 0
