"""The frozen snapshot: who is held out, and that it is the one that was approved."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.clients.quality.check import EncodedTable
from flo.clients.records.snapshot import Snapshot
from flo.errors import TrustError
from flo.privacy.patients.patients import Patients
from tests.builders import encoded_table

KEY = bytes(range(32))


def table(ids: list[str]) -> EncodedTable:
    """A record per id; its first input is its place in the list."""
    places = np.arange(len(ids), dtype=np.float64)
    return encoded_table(np.stack([places, places], axis=1), places % 2, ids)


def names(part: Patients, ids: list[str]) -> set[str]:
    return {ids[int(place)] for place in part.inputs[:, 0]}


def split(ids: list[str], key: bytes = KEY, hold_out: float = 0.3) -> tuple[set[str], set[str]]:
    snapshot = Snapshot.of(table(ids), key, hold_out)
    return names(snapshot.training, ids), names(snapshot.held_out, ids)


IDS = [f"p{i}" for i in range(200)]


@settings(deadline=None)
@given(st.lists(st.sampled_from(IDS), min_size=1, max_size=60), st.sampled_from([0.05, 0.5, 0.95]))
def test_no_patient_is_in_both_parts_and_none_is_lost(ids: list[str], hold_out: float) -> None:
    training, held_out = split(ids, hold_out=hold_out)
    assert not training & held_out
    assert training | held_out == set(ids)


@settings(deadline=None)
@given(st.lists(st.sampled_from(IDS), min_size=2, max_size=60, unique=True), st.data())
def test_removing_one_patient_moves_nobody_else(ids: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(ids))
    training, held_out = split(ids)
    assert split([name for name in ids if name != gone]) == (training - {gone}, held_out - {gone})


def test_the_split_does_not_depend_on_the_order_of_the_file() -> None:
    assert split(IDS) == split(IDS[::-1])


def test_about_the_stated_share_is_held_out() -> None:
    # 200 fixed ids under a fixed key: no chance is involved
    assert 40 <= len(split(IDS)[1]) <= 80


def test_another_site_holds_out_other_patients() -> None:
    assert split(IDS)[1] != split(IDS, key=b"k" * 32)[1]


def test_a_patients_records_stay_together_under_one_number() -> None:
    ids = ["p1", "p2", "p1", "p3", "p2", "p1"]
    snapshot = Snapshot.divided(table(ids), {"p3"})
    assert snapshot.training.patient.tolist() == [0, 1, 0, 1, 0]
    assert snapshot.training.count == 2
    assert snapshot.held_out.count == 1


def test_a_snapshot_reads_back_and_is_for_its_owner_only(tmp_path: Path) -> None:
    made = Snapshot.of(table(IDS), KEY, 0.3)
    path = tmp_path / "s.npz"
    digest = made.write(path)
    read = Snapshot.read(path, digest)
    for one, other in ((made.training, read.training), (made.held_out, read.held_out)):
        np.testing.assert_array_equal(one.inputs, other.inputs)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.patient, other.patient)
        assert one.count == other.count
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_numbers_of_frozen_layers_are_approved_with_the_patients(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    digest = Snapshot.divided(table(["p1"]), set(), b"a file").write(path)
    assert Snapshot.read(path, digest).frozen == b"a file"
    assert Snapshot.divided(table(["p1"]), set()).write(tmp_path / "other.npz") != digest


def test_the_part_that_holds_nobody_reads_back_too(tmp_path: Path) -> None:
    digest = Snapshot.divided(table(["p1"]), set()).write(tmp_path / "s.npz")
    assert Snapshot.read(tmp_path / "s.npz", digest).held_out.count == 0


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_changed_file_is_refused(tmp_path: Path, place: int) -> None:
    path = tmp_path / "s.npz"
    digest = Snapshot.of(table(IDS), KEY, 0.3).write(path)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrustError, match="not the one that was approved"):
        Snapshot.read(path, digest)


def test_another_studys_snapshot_is_refused(tmp_path: Path) -> None:
    Snapshot.of(table(IDS), KEY, 0.3).write(tmp_path / "s.npz")
    other = Snapshot.of(table(IDS[1:]), KEY, 0.3).write(tmp_path / "other.npz")
    with pytest.raises(TrustError):
        Snapshot.read(tmp_path / "s.npz", other)


class Bomb:
    """Unpickling this would be running it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('unpickled')",)


def test_a_pickle_is_never_loaded_even_under_the_approved_digest(tmp_path: Path) -> None:
    from flo.documents import canonical

    buffer = io.BytesIO()
    bomb = np.array([Bomb()], dtype=object)
    np.savez(buffer, allow_pickle=True, training_inputs=bomb)
    path = tmp_path / "s.npz"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Snapshot.read(path, canonical.digest(buffer.getvalue()))


def test_a_snapshot_holding_objects_is_never_written() -> None:
    patients = Patients(np.array([[Bomb()]], dtype=object), np.zeros(1), np.zeros(1, np.int64), 1)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Snapshot(patients, patients).to_bytes()
