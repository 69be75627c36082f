"""Every attack of the table is refused, written down, changes nothing, and stops nobody's work.

``python -m tests.attacks`` prints the table; docs/threat-model.md holds what it prints, between
``<!-- attacks -->`` and ``<!-- /attacks -->``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from flo.audit.chain import verify
from flo.server.home.coordinator_home import sign_events
from tests.attacks.attack import Attack, Logged, table
from tests.attacks.attacks import ATTACKS
from tests.attacks.stage import Stage, set_up
from tests.paths import ROOT

pytestmark = pytest.mark.processes

THREAT_MODEL = ROOT / "docs" / "threat-model.md"
BEGIN, END = "<!-- attacks -->\n", "<!-- /attacks -->"
PATIENCE_SECONDS = 5.0  # events wait for a tenth of a second to be signed


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with set_up(tmp_path_factory.mktemp("attacks")) as found:
        yield found


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_refused_logged_and_survived(stage: Stage, attack: Attack) -> None:
    state, before = stage.state(), {name: len(book()) for name, book in stage.books.items()}
    seen = list(attack.does(stage))
    assert set(seen) == {attack.refused}
    assert stage.state() == state
    assert stage.serves_the_honest()
    _is_written(stage, attack.logged, before[attack.logged.where], times=len(seen))


def _is_written(stage: Stage, logged: Logged, before: int, times: int) -> None:
    """Once for each thing that was tried."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        lines = stage.books[logged.where]()[before:]
        found = sum(logged.is_in(line) for line in lines)
        if found >= times:
            return
        assert time.monotonic() < end, f"{found} of {times} in {lines}"
        time.sleep(0.02)


def test_the_log_of_all_these_refusals_verifies(stage: Stage) -> None:
    home = stage.coordinator.home
    with closing(home.open_store()) as store, closing(home.open_audit_log()) as log:
        sign_events(store, log)
        exported = log.export("coordinator")
    with closing(stage.homes["south"].open_audit_log()) as log:
        found = verify([exported, log.export("south")])
    assert [log.owner for log in found] == ["coordinator", "south"]


def test_every_attack_has_a_name_of_its_own() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 45


def test_the_threat_model_holds_the_table_as_it_is() -> None:
    text = THREAT_MODEL.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == table(ATTACKS)
