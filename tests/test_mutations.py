"""Breakages that must never pass unseen: each is put in, and a checker of a promise notices.

The checkers are first shown to be content with the code as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.linalg import helmert
from scipy.stats import chi2

from flo.clients.agent.handler import Handler
from flo.clients.agent.run_keys import RunKeys
from flo.clients.approvals.approve import approve
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.data_process.trainer import Trainer
from flo.clients.home.site_home import SiteHome
from flo.clients.quality.check import EncodedTable
from flo.clients.records.snapshot import Snapshot
from flo.documents import canonical
from flo.keys.identity import Identity
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.patients.patients import Patients
from flo.privacy.patients.split import position
from flo.privacy.releases import catalogue, regressions, statistics
from flo.protocol.messages import Reply, Request, RequestHeader, decode_reply, model_digest
from flo.study.document import Study
from flo.study.models import request_length
from tests.builders import (
    HOSPITALS,
    CountingReleaser,
    SilentApi,
    encoded_table,
    make_site,
    offered,
    pretend_enrolled,
    small_study,
)
from tests.partners import claims, encode_request
from tests.privacy.releases.test_catalogue import ALL
from tests.privacy.releases.test_regressions import ILL, PRESSURE
from tests.privacy.releases.test_statistics import CURVE, TABLE, asking
from tests.privacy.releases.test_survey import patients_of

Steps = npt.NDArray[np.int64]
LENGTH = 6  # parameters of the small study


# -- a charge is skipped: every reply that was sent has a row of its own --------------------------


def sent_without_a_row(ledger: Ledger, replies: list[Reply]) -> list[int]:
    """Rounds whose bits no row of the ledger names, each row standing for one."""
    named = [row.public["reply"] for row in ledger.rows() if row.public["kind"] == "release"]
    missing = []
    for reply in replies:
        digest = canonical.digest(reply.values.astype("<i8").tobytes())
        if digest in named:
            named.remove(digest)
        else:
            missing.append(reply.header.round)
    return missing


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[SiteHome, Study, Ledger]]:
    coordinator = Identity.new()
    home = make_site(tmp_path)
    pretend_enrolled(home, coordinator)
    offer = offered(small_study(), [home], coordinator)
    approve(home, cast(CoordinatorApi, SilentApi()), offer, home.read_config().population(None))
    with closing(home.open_ledger()) as ledger:
        yield home, offer.study, ledger


def three_rounds(home: SiteHome, study: Study, ledger: Ledger) -> list[Reply]:
    handler = Handler(
        home, ledger, CountingReleaser(LENGTH), RunKeys(home.open_identity()), lambda _: None
    )
    replies = []
    for round_ in (1, 2, 3):
        weights = np.full(LENGTH, float(round_))
        header = RequestHeader(
            study=study.digest,
            run="run-1",
            purpose="training",
            round=round_,
            attempt=1,
            cohort=HOSPITALS,
            model=model_digest(weights),
            **claims(handler, ledger, study, HOSPITALS),
        )
        answer = handler.answer(encode_request(Request(header, weights)))
        assert answer is not None
        replies.append(decode_reply(answer))
    assert [reply.header.kind for reply in replies] == ["release"] * 3
    return replies


def test_every_reply_has_a_row_of_its_own(site: tuple[SiteHome, Study, Ledger]) -> None:
    home, study, ledger = site
    assert sent_without_a_row(ledger, three_rounds(home, study, ledger)) == []


@pytest.mark.parametrize("skipped", [{1, 2, 3}, {2}], ids=["every charge", "one charge"])
def test_a_skipped_charge_is_noticed(
    site: tuple[SiteHome, Study, Ledger], monkeypatch: pytest.MonkeyPatch, skipped: set[int]
) -> None:
    home, study, ledger = site
    charge = Ledger.charge

    def forgetful(self: Ledger, reservation: int, purpose: str, key: str, facts: Any) -> None:
        if facts["round"] not in skipped:
            charge(self, reservation, purpose, key, facts)

    monkeypatch.setattr(Ledger, "charge", forgetful)
    assert sent_without_a_row(ledger, three_rounds(home, study, ledger)) == sorted(skipped)


# -- the split is stratified: removing one patient moves nobody else ------------------------------


def patients(count: int) -> EncodedTable:
    """A record for each; the first input says who it is."""
    names = [f"p{n}" for n in range(count)]
    labels = (np.arange(count) % 3 == 0).astype(np.float64)
    return encoded_table(np.arange(count, dtype=np.float64)[:, None], labels, names)


def without(checked: EncodedTable, gone: int) -> EncodedTable:
    return checked.where(np.arange(len(checked.patient_ids)) != gone)


def moved_by_removing_one(key: bytes, count: int) -> int:
    """The most patients who change sides when one of ``count`` is removed."""
    everyone = patients(count)

    def aside(checked: EncodedTable) -> set[int]:
        return {int(who) for who in Snapshot.of(checked, key, 0.3).held_out.inputs[:, 0]}

    whole = aside(everyone)
    return max(len((whole ^ aside(without(everyone, n))) - {n}) for n in range(count))


def test_removing_one_patient_moves_nobody() -> None:
    assert moved_by_removing_one(b"k" * 32, 120) == 0


def stratified(cls: type[Snapshot], checked: EncodedTable, key: bytes, hold_out: float) -> Snapshot:
    """The same share of each class, as is good practice elsewhere, in the order of keyed hashes."""
    aside: set[str] = set()
    for label in (0, 1):
        names = [n for n, y in zip(checked.patient_ids, checked.labels, strict=True) if y == label]
        names.sort(key=lambda name: position(key, name))
        aside |= set(names[: round(hold_out * len(names))])
    return cls.divided(checked, aside)


def shuffled(cls: type[Snapshot], checked: EncodedTable, key: bytes, hold_out: float) -> Snapshot:
    """A fixed seed and the order of the file."""
    order = np.random.default_rng(key[0]).permutation(len(checked.patient_ids))
    chosen = order[: round(hold_out * len(order))]
    return cls.divided(checked, {checked.patient_ids[n] for n in chosen})


@pytest.mark.parametrize(("split", "least"), [(stratified, 1), (shuffled, 10)])
def test_a_split_that_looks_at_others_is_noticed(
    monkeypatch: pytest.MonkeyPatch, split: Callable[..., Snapshot], least: int
) -> None:
    monkeypatch.setattr(Snapshot, "of", classmethod(split))
    assert moved_by_removing_one(b"k" * 32, 120) >= least


# -- noise is reused, or there is less of it: two releases of one sum differ by two noises --------

RELEASES = 150
# How improbable an honest trainer's deviation must be before it is called broken: the false-alarm
# rate of the test of an honest trainer.
FALSE_ALARM = 1e-6


def releases(count: int) -> list[Steps]:
    """Releases of one model on the same patients, half of them by a trainer that was restarted."""
    generator = np.random.default_rng(1)
    some = Patients(generator.uniform(-1, 1, (30, 5)), np.arange(30.0) % 2, np.arange(30), 30)
    study = small_study()
    nobody = Patients(some.inputs[:0], some.labels[:0], some.patient[:0], 0)
    found = []
    for _ in range(2):
        torch.manual_seed(1)  # whoever seeds torch repeats nothing
        trainer = Trainer(study, Snapshot(some, nobody))
        found += [trainer.release("training", np.zeros(LENGTH), 3) for _ in range(count // 2)]
    return found


def faults_of_noise(found: list[Steps]) -> set[str]:
    """What is wrong with the noise of releases of one and the same sum."""
    faults = set()
    if len({release.tobytes() for release in found}) < len(found):
        faults.add("reused")
    variance = Plan.of(small_study()).purpose("training").mechanism.variance_steps()
    spread = np.stack(found).astype(np.float64)
    spread -= spread.mean(0)
    degrees = (len(found) - 1) * LENGTH
    statistic = float((spread**2).sum()) / variance
    if statistic < chi2.ppf(FALSE_ALARM / 2, degrees):
        faults.add("too little")
    if statistic > chi2.isf(FALSE_ALARM / 2, degrees):
        faults.add("too much")
    return faults


def test_every_release_draws_its_own_noise_and_enough() -> None:
    assert faults_of_noise(releases(RELEASES)) == set()


class Reusing(SystemNoise):
    """Draws once, and hands out the same again."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int], Steps] = {}

    def sample(self, variance: int, size: int) -> Steps:
        if (variance, size) not in self.kept:
            self.kept[variance, size] = super().sample(variance, size)
        return self.kept[variance, size].copy()


class Half(SystemNoise):
    def sample(self, variance: int, size: int) -> Steps:
        return super().sample(variance // 4, size)


def test_reused_noise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flo.clients.data_process.trainer.SystemNoise", Reusing)
    assert "reused" in faults_of_noise(releases(RELEASES))


def test_noise_that_a_restart_repeats_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flo.privacy.mechanisms.entropy.os.urandom", lambda count: bytes(count))
    assert "reused" in faults_of_noise(releases(RELEASES))


def test_half_the_noise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flo.clients.data_process.trainer.SystemNoise", Half)
    assert faults_of_noise(releases(RELEASES)) == {"too little"}


# -- a patient counts too much in statistics -------------------------------------------------------


VISITS = [(age, 1, pressure, 1.0, 0) for age in (0.0, 100.0) for pressure in (80.0, 160.0)]


def largest_contribution() -> float:
    """The largest norm of one patient of table, curve and catalogue, at an end of every bound."""
    study = asking(TABLE, CURVE, ALL, many=False)
    statistics.layout.cache_clear()
    return max(
        float(np.linalg.norm(statistics.exact(study, patients_of(study, [visit]))))
        for visit in VISITS
    )


def largest_in_a_round() -> float:
    """The same of a round of regressions, of one record of a patient or three."""
    study = asking(ILL, PRESSURE, many=False)
    regressions.layout.cache_clear()
    asked = np.zeros(request_length(study, "regression"))
    return max(
        float(np.linalg.norm(regressions.exact(study, patients_of(study, [visit] * n), asked)))
        for visit in VISITS
        for n in (1, 3)
    )


def test_a_moment_or_a_share_that_weighs_too_much_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert largest_contribution() <= statistics.NORM + 1e-9
    monkeypatch.setattr(statistics, "MOMENT", 1.0)
    assert largest_contribution() > statistics.NORM + 1e-3
    monkeypatch.undo()
    monkeypatch.setattr(statistics, "scaled_number", lambda *_: beyond_its_bounds(1))
    assert largest_contribution() > statistics.NORM + 1e-3


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (catalogue, "_weights", lambda sizes, pairs: dict.fromkeys(_parts(sizes, pairs), 1.0)),
        (catalogue, "contrasts_of", lambda size: 1.5 * np.asarray(helmert(size))),
    ],
    ids=["weights", "contrasts"],
)
def test_a_catalogue_that_counts_a_patient_too_much_is_noticed(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, broken: Any
) -> None:
    assert largest_contribution() <= statistics.NORM + 1e-9
    monkeypatch.setattr(where, name, broken)
    assert largest_contribution() > statistics.NORM + 1e-3
    monkeypatch.undo()
    statistics.layout.cache_clear()


def _parts(sizes: tuple[int, ...], pairs: tuple[Any, ...]) -> list[Any]:
    return [(), *((n,) for n in range(len(sizes))), *pairs]


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("scaled_number", lambda _, __, inputs: beyond_its_bounds(len(inputs))),
        ("simplex", lambda codes: 1.5 * np.eye(codes)[:, 1:]),
        ("norm_of", lambda _: 1.5),
        ("record_weights", lambda patient, _: np.ones(len(patient))),
        ("_spread", lambda d: np.full((d, d), 3.0)),
    ],
    ids=["bounds", "codes", "norm", "records", "information"],
)
def test_a_regression_that_counts_a_patient_too_much_is_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, broken: Any
) -> None:
    assert largest_in_a_round() <= regressions.NORM + 1e-9
    monkeypatch.setattr(regressions, name, broken)
    assert largest_in_a_round() > regressions.NORM + 1e-3
    monkeypatch.undo()
    regressions.layout.cache_clear()


def beyond_its_bounds(count: int) -> tuple[Any, Any]:
    return np.full(count, 3.0), np.ones(count, dtype=np.bool_)
