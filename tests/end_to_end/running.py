"""A study under way among real agents: launched and approved as people do it, and followed."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from flo.cli.coordinator.operator import Operator
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.errors import FloError
from flo.server.home.coordinator_home import CoordinatorHome
from tests.builders import WHITENED, small_study, study_document
from tests.commands import flo
from tests.server.real_coordinator import RealCoordinator

SITES = ("north", "south", "west")
WIDE = {"kind": "mlp", "hidden": [150, 150]}  # too large for Flower's messages
MODES: dict[str, dict[str, Any]] = {
    "no masks": {"masking": "off"},
    "local noise": {"masking": "on"},
    "distributed noise": {"masking": "on", "noise": "distributed", "retry_allowance": 2},
    "whitened": {"masking": "on", "noise": "distributed", "retry_allowance": 2, **WHITENED},
}


def launch(
    coordinator: RealCoordinator,
    homes: list[SiteHome],
    mode: str,
    *,
    version: int = 1,
    deadline: float = 10,
    epsilon: float = 0.9,
    on: str = "here",
    model: dict[str, Any] | None = None,
    schema: int = 3,
    continues: str | None = None,
    gate: dict[str, Any] | None = None,
    start_within: str | None = None,
    when_offered: Callable[[str], object] = lambda _: None,
    **mechanism: Any,
) -> str:
    """The digest of a study that all of these hospitals have approved.

    ``continues``: the digest of a model's card. ``gate``: its terms. ``when_offered``: called with
    the digest before anybody approves.
    """
    hospitals = [{"id": home.read_config().hospital, "declared_size": 40} for home in homes]
    limits = {"deadline_seconds": deadline, "minimum_cohort": 2, "start_within": start_within}
    document = study_document(
        hospitals=hospitals, version=version, limits=limits, schema_version=schema
    )
    document["model"] = model or document["model"]
    if continues is not None:
        document["continues"] = {"models": [continues]}
    if gate is not None:
        document["gate"] = {"epsilon": epsilon, **gate}
    document["mechanism"] |= {**MODES[mode], **mechanism}
    study = small_study(**document).with_epsilon(epsilon)
    with Operator(coordinator.home.directory) as operator:
        offered = operator.call("POST", f"studies?on={on}", body=study.canonical_bytes)
    digest = str(offered["digest"])
    when_offered(digest)
    keys = [f"{home.read_config().hospital}={home.open_identity().fingerprint}" for home in homes]
    for home in homes:
        done = flo("site", "confirm", *keys, "--home", home.directory)
        assert done.returncode == 0, done.stderr
        done = flo("site", "approve", digest, "--yes", "--home", home.directory)
        assert done.returncode == 0, done.stderr
    return digest


def wait_for(
    what: Callable[[dict[str, Any]], bool], coordinator: Path, digest: str, *, seconds: float = 300
) -> Any:
    """Poll the study's summary over one connection, surviving a coordinator that is down."""
    end = time.monotonic() + seconds
    summary: Any = None
    while time.monotonic() < end:
        with contextlib.suppress(FloError), Operator(coordinator) as operator:
            while time.monotonic() < end:
                summary = operator.call("GET", f"studies/{digest}")
                if what(summary):
                    return summary
                time.sleep(0.2)
        time.sleep(0.2)
    raise AssertionError(f"the run did not get there within {seconds:g} seconds: {summary}")


def live(home: CoordinatorHome, digest: str, *, seconds: float, most: int) -> None:
    """Wait for a random instant within ``seconds``, or until ``most`` more rounds have ended.

    So there are rounds left after it, however fast this machine is.
    """
    end = time.monotonic() + random.uniform(0, seconds)
    last = len(rounds(all_events(home, digest))) + most
    while (left := end - time.monotonic()) > 0 and len(rounds(all_events(home, digest))) < last:
        time.sleep(min(left, 0.05))


def card_of(home: CoordinatorHome, digest: str) -> str:
    """The digest of a published model's card."""
    (event,) = [event for event in all_events(home, digest) if event["kind"] == "published"]
    return canonical.digest(Path(event["facts"]["card"]).read_bytes())


def all_events(home: CoordinatorHome, digest: str) -> list[dict[str, Any]]:
    """Of a study, however many, as the coordinator keeps them."""
    with closing(home.open_store()) as store:
        found = store.events(digest)
        while more := store.events(digest, found[-1]["number"] if found else 0):
            found += more
    return found


def rounds(events: list[dict[str, Any]]) -> list[int]:
    return [
        event["facts"]["round"]
        for event in events
        if event["kind"] == "round" and event["facts"]["phase"] == "training"
    ]


def releases(home: SiteHome) -> Counter[str]:
    with closing(home.open_ledger()) as ledger:
        return Counter(
            row.public["purpose"] for row in ledger.rows() if row.public["kind"] == "release"
        )


def failed(events: list[dict[str, Any]], home: SiteHome) -> int:
    """Attempts that came to nothing although this hospital was asked.

    A coordinator that dies between the event and its next state asks for the same attempt again.
    """
    asked = [event["facts"] for event in events if event["kind"] == "attempt-failed"]
    hospital = home.read_config().hospital
    return len({(f["phase"], f["round"], f["attempt"]) for f in asked if hospital in f["cohort"]})
