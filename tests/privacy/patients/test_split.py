"""Who is held out hangs on the patient's own id and the site's key, on nothing and nobody else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flo.privacy.patients.split import is_held_out, keyed_hash, normalise, position

KEY = bytes(range(32))
IDS = [f"Patient-{i:05d}" for i in range(4000)]


@given(st.lists(st.text(min_size=1, max_size=12), unique=True, min_size=1, max_size=12), st.data())
def test_removing_one_patient_moves_nobody_else(ids: list[str], data: st.DataObject) -> None:
    before = {name: is_held_out(KEY, name, 0.3) for name in ids}
    gone = data.draw(st.sampled_from(ids))
    after = {name: is_held_out(KEY, name, 0.3) for name in ids if name != gone}
    assert after == {name: place for name, place in before.items() if name != gone}


@given(st.text(min_size=1, max_size=12).filter(str.strip), st.sampled_from([" ", "\t", "  \n"]))
def test_a_patient_written_with_spaces_has_the_same_place(name: str, space: str) -> None:
    assert position(KEY, space + name + space) == position(KEY, name)


@given(st.text("abcxyzABCXYZäöÄÖ0123-", min_size=1, max_size=12))
def test_a_patient_written_in_another_case_has_the_same_place(name: str) -> None:
    assert keyed_hash(KEY, name.upper()) == keyed_hash(KEY, name.lower()) == keyed_hash(KEY, name)


@given(st.text(max_size=12))
def test_normalising_twice_changes_nothing(name: str) -> None:
    assert normalise(normalise(name)) == normalise(name)


def test_about_the_wanted_share_is_held_out() -> None:
    for share in (0.05, 0.3, 0.5, 0.95):
        held = sum(is_held_out(KEY, name, share) for name in IDS)
        # The key is fixed, so this never alarms by chance; another key would, once in 10^4.
        spread = stats.binom(len(IDS), share)
        assert spread.ppf(5e-5) <= held <= spread.isf(5e-5)


def test_places_are_spread_evenly_over_the_unit_interval() -> None:
    places = [position(KEY, name) for name in IDS]
    assert all(0 <= place < 1 for place in places)
    # The key is fixed, so this never alarms by chance; another key would, once in 10^4.
    assert stats.kstest(places, "uniform").pvalue > 1e-4


def test_a_larger_share_only_adds_patients() -> None:
    few = {name for name in IDS if is_held_out(KEY, name, 0.2)}
    many = {name for name in IDS if is_held_out(KEY, name, 0.4)}
    assert few < many


def test_another_key_splits_otherwise_and_hashes_tell_nothing_without_it() -> None:
    other = bytes(32)
    moved = sum(is_held_out(KEY, n, 0.5) != is_held_out(other, n, 0.5) for n in IDS)
    assert 0.4 * len(IDS) < moved < 0.6 * len(IDS)
    assert not {keyed_hash(KEY, name) for name in IDS} & {keyed_hash(other, name) for name in IDS}
