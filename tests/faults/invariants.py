"""What must hold after any faults, each as one check that returns what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from flo.audit.chain import verify
from flo.clients.agent.request_facts import request_key
from flo.documents import canonical
from flo.errors import FloError
from flo.protocol.messages import Reply, decode_reply, values_bytes
from flo.server.home.coordinator_home import CoordinatorHome
from tests.faults.federation import RETRIES, STEPS, Federation, Member

OVER, RESUMABLE = ("done", "stopped", "ended"), ("running", "paused")


def violations(federation: Federation, digest: str) -> list[str]:
    """Of one study, once the faults are over."""
    found = [wrong for m in federation.members.values() for wrong in _of_a_site(m, digest)]
    found += _of_the_coordinator(federation.home, digest)
    return found


def _of_a_site(member: Member, digest: str) -> Iterator[str]:
    name = member.home.read_config().hospital
    try:
        with closing(member.home.open_ledger()) as ledger:  # checks the whole chain
            seen: dict[str, str] = {}
            for reply in sent(member.sent):
                if reply.header.study != digest or reply.header.kind != "release":
                    continue
                key = request_key(reply.header)
                what = canonical.digest(values_bytes(reply.values))
                row = ledger.find_release(key)
                if row is None or row.sent != what:
                    yield f"{name}: {key} left and is not in the ledger as it left"
                if seen.setdefault(key, what) != what:
                    yield f"{name}: two answers to {key}"
            charged = sum(
                row.public["kind"] == "release"
                and row.public["purpose"] == "training"
                and (row.private or {}).get("study") == digest
                for row in ledger.rows()
            )
            if charged > STEPS + RETRIES:
                yield f"{name}: charged {charged} times, {STEPS + RETRIES} were approved"
        with closing(member.home.open_audit_log()) as log:
            verify([log.export(name)])
    except FloError as error:
        yield f"{name}: {error}"


def _of_the_coordinator(home: CoordinatorHome, digest: str) -> Iterator[str]:
    try:
        with closing(home.open_store()) as store, closing(home.open_audit_log()) as log:
            verify([log.export("coordinator")])
            offer, record = store.offer(digest), store.last_run(digest)
    except FloError as error:
        yield f"coordinator: {error}"
        return
    if offer is None or offer.status not in (*OVER, *RESUMABLE):
        yield f"the study is {offer and offer.status}"
    model = (record.result or {}).get("model") if record else None
    if model and not all(np.isfinite(part).all() for part in load_file(model).values()):
        yield "the model is not finite"


def sent(path: Path) -> Iterator[Reply]:
    """Every reply that left a site, or was about to."""
    data = path.read_bytes() if path.exists() else b""
    at = 0
    while at + 4 <= len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if end <= len(data):
            yield decode_reply(data[at + 4 : end])
        at = end
