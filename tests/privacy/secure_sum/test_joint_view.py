"""What a site cannot see is harmless: all that a coordinator has together shows whole sums only.

Pads are made formal: each is one variable, so what real sites send becomes a row of whole numbers
that say which pads are in it. A linear combination shows something only if all pads cancel.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from flo.arrays import Integers
from flo.clients.data_process.trainer import Trainer
from flo.clients.home.site_home import SiteHome
from flo.clients.records.snapshot import Snapshot
from flo.keys.identity import Identity
from flo.privacy.accounting.plan import Plan, noise_shares
from flo.privacy.secure_sum.masking import Attempt, masked, new_run_key, pair_secret
from flo.privacy.secure_sum.ring import from_ring
from flo.protocol.messages import Values
from flo.study.document import Study
from flo.study.parameters import Vector
from tests.builders import CountingReleaser, NoNoise, study_document
from tests.clients.real_partners import RealCompany
from tests.secure_sums import unmasked_sum

FOUR = ("east", "north", "south", "west")
THREE = ("east", "north", "south")
PADS = 64


class Zeros(CountingReleaser):
    """Nothing but pads is sent."""

    def warm_up(self, *_: Any) -> None:
        """Ready."""

    def unload(self, study: str) -> None:
        """Nothing is kept."""

    def release(self, *_: Any) -> Integers:
        self.calls += 1
        return np.zeros(PADS, dtype=np.int64)


class FormalPads:
    """Instead of a stream: 1 in the place of this pad's variable, 0 elsewhere."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], int] = {}

    def __call__(self, secret: bytes, attempt: Attempt, own: str, other: str) -> OnePad:
        pad = secret, attempt, *sorted((own, other))
        return OnePad(self._known.setdefault(pad, len(self._known)), attempt.ring)


class OnePad:
    def __init__(self, variable: int, ring: int) -> None:
        self._place, self._ring = variable * ring // 8, ring

    def update_into(self, zeros: bytes, buffer: bytearray) -> None:
        assert self._place < len(zeros)
        buffer[:] = bytes(len(buffer))
        buffer[self._place] = 1


@pytest.fixture
def company(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealCompany]:
    monkeypatch.setattr("flo.privacy.secure_sum.masking._pad", FormalPads())
    yield from RealCompany.of(tmp_path, FOUR, lambda *_: Zeros(PADS))


def rows_of(sent: list[Values]) -> Integers:
    """Which pads are in what was sent, (replies, pads)."""
    return np.array([from_ring(values, 8 * values.itemsize) for values in sent])


def what_cancels(rows: Integers) -> list[tuple[int, ...]]:
    """Every linear combination with coefficients -2..2 in which no pad is left."""
    ways = np.array(list(itertools.product(range(-2, 3), repeat=len(rows))))
    return sorted(tuple(int(c) for c in way) for way in ways[~(ways @ rows).any(axis=1)])


# -- pads ------------------------------------------------------------------------------------------


def test_one_attempt_shows_its_whole_sum_and_nothing_else(company: RealCompany) -> None:
    rows = rows_of(list(company.ask_all(company.header()).values()))
    assert np.linalg.matrix_rank(rows) == 3
    assert what_cancels(rows) == [(n,) * 4 for n in range(-2, 3)]


@pytest.mark.slow
def test_a_false_dropout_shows_two_whole_sums_and_each_member_was_charged_for_each(
    company: RealCompany,
) -> None:
    first = company.ask_all(company.header())
    second = company.ask_all(company.header(*THREE, attempt=2))
    rows = rows_of([*first.values(), *second.values()])
    assert np.linalg.matrix_rank(rows) == 7 - 2
    whole = [(n,) * 4 + (m,) * 3 for n in range(-2, 3) for m in range(-2, 3)]
    assert what_cancels(rows) == sorted(whole)
    one = company.members["west"].charged()
    assert one > 0
    for name in THREE:
        assert company.members[name].charged() == pytest.approx(2 * one)


@pytest.mark.parametrize("others", [THREE, ("east", "south", "west")])
def test_two_cohorts_shown_to_different_sites_show_nothing_at_all(
    company: RealCompany, others: tuple[str, ...]
) -> None:
    one, two = company.header(), company.header(*others)
    apart = {name: two if name in others[:2] else one for name in FOUR}
    rows = rows_of([company.ask(name, header) for name, header in apart.items()])
    assert np.linalg.matrix_rank(rows) == 4
    assert what_cancels(rows) == [(0, 0, 0, 0)]


@pytest.mark.slow
def test_an_old_head_of_one_that_was_shown_to_another_shows_nothing(company: RealCompany) -> None:
    """So a coordinator cannot keep partners from seeing what a hospital's ledger has grown to."""
    old = company.heads["north"]
    company.ask_all(company.header())
    true = company.header(round=2)
    older = company.header(round=2, heads=company.heads | {"north": old})
    rows = rows_of([company.ask(name, older if name == "west" else true) for name in FOUR])
    assert np.linalg.matrix_rank(rows) == 4
    assert what_cancels(rows) == [(0, 0, 0, 0)]


@pytest.mark.parametrize("change", [{"round": 2}, {"attempt": 2}, {"purpose": "evaluation"}])
def test_a_cohort_of_which_one_was_asked_for_something_else_shows_nothing(
    company: RealCompany, change: dict[str, Any]
) -> None:
    asked, other = company.header(), company.header(**change)
    rows = rows_of([company.ask(name, other if name == "west" else asked) for name in FOUR])
    assert np.linalg.matrix_rank(rows) == 4
    assert what_cancels(rows) == [(0, 0, 0, 0)]


def test_a_retry_of_a_retry_shows_three_whole_sums(company: RealCompany) -> None:
    cohorts = (FOUR, THREE, ("north", "south", "west"))
    sent = [
        list(company.ask_all(company.header(*cohort, attempt=number)).values())
        for number, cohort in enumerate(cohorts, start=1)
    ]
    rows = rows_of(list(itertools.chain.from_iterable(sent)))
    assert np.linalg.matrix_rank(rows) == len(rows) - 3
    start = 0
    for values in sent:
        assert not rows[start : start + len(values)].sum(axis=0).any()
        start += len(values)


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ring", [32, 64])
@pytest.mark.parametrize("value", [0, 1, -(2**31)])
def test_one_masked_vector_is_evenly_spread_whatever_is_in_it(ring: int, value: int) -> None:
    length = 1_000_000 * 8 // ring
    identities = [Identity.new(), Identity.new()]
    (own, mine), (_, theirs) = (new_run_key(i, "a" * 64, "run-1", 1) for i in identities)
    attempt = Attempt("a" * 64, "run-1", "training", 1, 1, "c" * 64, "b" * 64, ring, length)
    secrets = {theirs.fingerprint: pair_secret(own, theirs)}
    sent = masked(np.full(length, value), mine.fingerprint, secrets, attempt).tobytes()
    counts = np.bincount(np.frombuffer(sent, dtype=np.uint8), minlength=256)
    assert counts.sum() == 1_000_000
    assert stats.chisquare(counts).pvalue > 1e-6  # false alarm 1e-6


# -- noise -----------------------------------------------------------------------------------------


class Training:
    """A real trainer in place of the child process."""

    def __init__(self, home: SiteHome) -> None:
        (path,) = (home.directory / "snapshots").iterdir()
        self._path = path

    def trainer(self, study: Study, digest: str, **noise: Any) -> Trainer:
        return Trainer(study, Snapshot.read(self._path, digest), **noise)

    def warm_up(self, *_: Any) -> None:
        """Ready."""

    def unload(self, study: str) -> None:
        """Nothing is kept."""

    def release(
        self,
        study: Study,
        snapshot: Any,
        snapshot_digest: str,
        purpose: Any,
        weights: Vector,
        cohort_size: int,
    ) -> Integers:
        self.exact = self.trainer(study, snapshot_digest, noise=NoNoise()).release(
            purpose, weights, cohort_size
        )
        return self.trainer(study, snapshot_digest).release(purpose, weights, cohort_size)


@pytest.mark.slow
def test_two_attempts_of_a_round_carry_independent_noise(tmp_path: Path) -> None:
    """Real sites, real noise, two whole sums of 495 parameters; false alarm 3e-6."""
    data: Any = study_document()["data"]
    data["columns"][1]["codes"] = ["a", "b", "c", *(f"c{n}" for n in range(490))]
    for company in RealCompany.of(tmp_path, FOUR, lambda home, _: Training(home), data=data):
        noise, variances = [], []
        part = Plan.of(company.study).purpose("training")
        for attempt, cohort in ((1, FOUR), (2, THREE)):
            sent = company.ask_all(company.header(*cohort, attempt=attempt))
            exact = [_releaser(company, name).exact for name in cohort]
            total = unmasked_sum(list(sent.values()), 8 * next(iter(sent.values())).itemsize)
            share = part.mechanism.variance_steps(noise_shares(company.study, len(cohort)))
            noise.append((total - np.sum(exact, axis=0)).astype(np.float64))
            variances.append(share * len(cohort))
        for values, variance in [
            (noise[0], variances[0]),
            (noise[1], variances[1]),
            (noise[0] - noise[1], sum(variances)),
        ]:
            squares = float(np.square(values).sum()) / variance
            assert 5e-7 < stats.chi2.cdf(squares, len(values)) < 1 - 5e-7


def _releaser(company: RealCompany, name: str) -> Training:
    releaser = company.members[name].handler._releaser
    assert isinstance(releaser, Training)
    return releaser
