"""An opt-out or an erasure that was cut off at any moment is carried through by asking again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flo.clients.home.site_home import SiteHome
from flo.clients.patients.erasure import erase
from flo.clients.patients.opt_outs import OptOuts, opt_out
from flo.clients.records import approval
from flo.clients.records.approval import snapshot_path
from flo.clients.records.members import Members
from flo.clients.records.snapshot import Snapshot
from flo.privacy.patients.split import keyed_hash
from tests.clients.exact_site import exact_site, frozen, frozen_without, one_of
from tests.clients.power_cut import PowerCutError, cut_off_at


@pytest.mark.slow
@pytest.mark.parametrize(("ask", "held_out"), [(opt_out, False), (opt_out, True), (erase, False)])
def test_what_was_cut_off_anywhere_is_carried_through_by_asking_again(
    tmp_path: Path, ask: Callable[[SiteHome, str], Any], held_out: bool
) -> None:
    for site in exact_site(tmp_path / "whole"):
        home, study = site.home, site.study
    patient = one_of(home, held_out=held_out)
    hashed, fewer = (
        keyed_hash(home.open_patients_key(), patient),
        frozen_without(home, study, patient),
    )
    for step in range(1, 1000):
        copy = SiteHome(tmp_path / f"cut-{step}")
        shutil.copytree(home.directory, copy.directory)
        try:
            with pytest.MonkeyPatch.context() as patch:
                cut_off_at(step, patch)
                ask(copy, patient)
        except PowerCutError:
            members, _ = approves_a_whole_copy(copy, study.digest)
            listed = OptOuts.load(copy).patients
            assert listed == (hashed,) or members.side_of(hashed)  # in no study and on no list
            ask(copy, patient)
            members, snapshot = approves_a_whole_copy(copy, study.digest)
            assert snapshot.to_bytes() == fewer.to_bytes()
            assert members.side_of(hashed) is None
            assert [left.patient for left in members.left] == [hashed]
            assert OptOuts.load(copy).patients == (hashed,)
            assert [one.to_bytes() for one in frozen(copy)] == [fewer.to_bytes()]
            assert len(list((copy.directory / "snapshots").iterdir())) == 1
        else:
            break
    assert step > 12


def approves_a_whole_copy(home: SiteHome, study: str) -> tuple[Members, Snapshot]:
    """What the agent would release from now: a copy that is there, with its list of members."""
    digest = approval.load(home, study).snapshot
    members = Members.load(home, study, digest)
    assert members is not None
    snapshot = replace(Snapshot.read(snapshot_path(home, study, digest), digest), salt=b"")
    assert snapshot.training.count == len(members.training)
    assert snapshot.held_out.count == len(members.held_out)
    return members, snapshot
