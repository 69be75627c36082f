"""Decisions on models as the first FLO with versions kept them: ``tests/kept/v14``, schema 1."""

from __future__ import annotations

from flo.clients.prediction.versions import Versions
from flo.documents.document import read_json
from tests.paths import ROOT

KEPT = ROOT / "tests" / "kept" / "v14"
PARTIES = dict(line.split() for line in (KEPT / "parties.txt").read_text().splitlines())


def test_a_withdrawn_version_stays_withdrawn_and_every_signature_holds() -> None:
    found = read_json(Versions, KEPT / "versions.json", limit=1 << 20)
    (theirs,), (own,) = found.theirs, found.own
    theirs.check([PARTIES["coordinator"]])
    own.check([PARTIES["hospital"]])
    current, old = found.current("tiny"), theirs.decisions[-1]
    assert current is not None
    assert current.version == 1
    assert (old.model.version, old.state) == (9, "withdrawn")
    last = found.withdrawal("tiny", old.model.study)
    assert last is not None
    assert last.why == "the units of creatinine were wrong"
    assert [one.state for one in own.decisions] == ["current", "current", "withdrawn", "current"]
