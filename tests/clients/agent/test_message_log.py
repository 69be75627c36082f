"""Every message is entered before its answer leaves, and a flood of them is a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.clients.approved_site import Site, approved_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from approved_site(tmp_path)


def entered(site: Site) -> Counter[str]:
    with closing(site.home.open_audit_log()) as log:
        return Counter(entry.kind for entry in log.entries())


def test_a_message_is_entered_with_its_answer(site: Site) -> None:
    reply = site.ask().header
    site.refuses("conflict", weights=np.full(6, 7.0))
    with closing(site.home.open_audit_log()) as log:
        messages = [entry.facts for entry in log.entries() if entry.kind == "message"]
    first, second = [facts for facts in messages if facts["asked"] == "release"]
    assert (first["answered"], first["row"]) == ("release", reply.head.sequence)
    assert second["answered"] == "conflict"


def test_a_flood_of_what_is_no_message_or_is_refused_does_not_fill_the_disk(site: Site) -> None:
    refused = site.request(study="0" * 64)
    before = entered(site)
    for _ in range(150):
        assert site.handler.answer(b"\x80\x04pickle") is None
        assert site.handler.answer(refused) is not None
    site.handler.close()
    found = entered(site) - before
    assert found == Counter({"malformed-message": 120, "message": 120, "messages-more": 2})
    with closing(site.home.open_audit_log()) as log:
        more = [entry.facts for entry in log.entries() if entry.kind == "messages-more"]
    assert more == [{"what": "malformed", "count": 30}, {"what": "refused", "count": 30}]
