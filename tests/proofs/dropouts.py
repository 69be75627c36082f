"""Group ``dropouts``: hospitals vanish at random instants of a round, and the promises are kept.

Fifty hospitals (quick: ten) answer with real deals, masks and noise, and about a third may collude
(``tests.server.in_memory_run``). Their patients contribute zero, so a sum is its noise. In each
round some hospitals vanish before they upload, sign or reveal. The noise of the honest survivors,
without as many as may collude, must have the variance (σΔ)² or more: exactly that if as many are
missing as a level of noise is made for, and up to that of the level above in between.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import SystemRandom
from unittest import mock

import numpy as np

from flo.arrays import Floats, Integers
from flo.privacy.accounting.plan import Plan, noise_shares
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.protocol.messages import Request, RequestHeader, Values
from flo.server.rounds.aggregation import StreamingSum
from flo.server.rounds.state import RunState, advance
from flo.study.document import Study, from_document
from flo.study.tolerance import Tolerance
from tests.proofs.rows import Row
from tests.server.in_memory_run import Answer, Site, Stage, company_study, honest

_SIZE, _QUICK = Tolerance(50, 16, 10), Tolerance(10, 3, 3)
_mask = Site.masked
_INSTANTS = ("release", "sign", "reveal")
_ROUNDS, _QUICK_ROUNDS = 40, 15
_HIDDEN = 1000  # units of a network of 7,001 weights: so many numbers of noise a sum
_DEVIATIONS = 4.5  # a true row fails once in 150,000 times


@dataclass
class Absences:
    """Which hospitals vanish in which training round, and before which question.

    Some miss the upload, as many as one of the ``levels``; all others that may be missing vanish
    later in the round.
    """

    names: list[str]
    tolerance: Tolerance
    drawn: dict[int, dict[str, str]] = field(default_factory=dict)

    def at(self, round_: int) -> dict[str, str]:
        """Return hospital -> the question of this round that it does not answer, nor later ones."""
        if round_ not in self.drawn:
            chance = SystemRandom()
            absent = chance.sample(self.names, chance.choice(self.tolerance.levels))
            others = sorted(set(self.names) - set(absent))
            later = chance.sample(others, self.tolerance.dropouts - len(absent))
            found = dict.fromkeys(absent, "release")
            found |= {name: chance.choice(_INSTANTS[1:]) for name in later}
            self.drawn[round_] = found
        return self.drawn[round_]

    def answer(self, site: Site, request: Request) -> bytes | None:
        header = request.header
        if header.purpose == "training" and header.kind in _INSTANTS:
            gone = self.at(header.round).get(site.id)
            if gone and _INSTANTS.index(header.kind) >= _INSTANTS.index(gone):
                return None
        return honest(site, request)


@dataclass
class Sums:
    """Every opened sum of training, in grid steps, by the number of survivors."""

    found: defaultdict[int, list[Floats]] = field(default_factory=lambda: defaultdict(list))

    def advance(self, study: Study, state: RunState, gathered: StreamingSum) -> RunState:
        if state.purpose_in(study) == "training":
            steps = [gathered.grid_values(block) for block in gathered.blocks]
            self.found[len(gathered.hospitals)].append(np.concatenate(steps).astype(np.float64))
        return advance(study, state, gathered)


def rows(quick: bool) -> Iterator[Row]:
    """Run the hospitals once, and compare every sum's noise with what was promised."""
    began, size = time.monotonic(), _QUICK if quick else _SIZE
    names = tuple(f"site-{number:02d}" for number in range(size.hospitals))
    study = company_study(
        "distributed noise",
        names,
        schema_version=4,
        colluders=size.colluders,
        dropouts=size.dropouts,
        steps=_QUICK_ROUNDS if quick else _ROUNDS,
        retry_allowance=1,
    )
    study = from_document(
        study.model_dump(mode="json") | {"model": {"kind": "mlp", "hidden": [_HIDDEN]}}
    )
    absences, sums = Absences(list(names), size), Sums()
    answers: dict[str, Answer] = dict.fromkeys(names, absences.answer)
    run = Stage(study, answers=answers)
    with (
        mock.patch.object(Site, "masked", _masked),
        mock.patch("flo.server.rounds.loop.advance", sums.advance),
    ):
        run.run()
    assert run.end == "done", run.events
    seconds = time.monotonic() - began
    lost = len(run.of_kind("attempt-failed"))
    away = sum(map(len, absences.drawn.values()))
    yield Row(
        f"attempts lost, {away} absences of {size.hospitals} hospitals",
        lost,
        len(absences.drawn),
        seconds,
        most=0,
    )
    for survivors, found in sorted(sums.found.items(), reverse=True):
        yield _of_variance(study, size, np.concatenate(found), survivors, seconds)


def _of_variance(
    study: Study, size: Tolerance, noise: Floats, survivors: int, seconds: float
) -> Row:
    """Compare the honest survivors' part of the noise with (σΔ)²."""
    mechanism = Plan.of(study).purpose("training").mechanism
    honest_part = (survivors - size.colluders) / survivors
    found = float(np.mean(noise**2)) * honest_part / mechanism.variance_steps()
    expected = (survivors - size.colluders) / size.shares(size.level(survivors))
    error = _DEVIATIONS * math.sqrt(2 / noise.size)
    return Row(
        f"variance of honest noise over (σΔ)², {size.hospitals - survivors} are missing",
        found,
        noise.size,
        seconds,
        least=expected * (1 - error),
        most=expected * (1 + error),
    )


def _masked(site: Site, header: RequestHeader, values: Integers) -> Values:
    """Mask what a hospital without patients releases: its base share of noise."""
    mechanism = Plan.of(site.study).purpose(header.purpose).mechanism
    shares = noise_shares(site.study, len(header.cohort))
    noise = mechanism.release(np.zeros(mechanism.length), SystemNoise(), shares=shares)
    return _mask(site, header, noise)
