"""How long the first release after an opt-out takes does not tell whether a patient was there.

A real site with its data process. Members and strangers opt out in turn, each followed by a release
whose time is taken; the two samples are compared by the Kolmogorov-Smirnov test. The same test is
run against a site that exchanges frozen copies for members only, as FLO did once: it has to notice.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast
from unittest import mock

from scipy import stats

from flo.clients.data_process.worker import DataProcess
from flo.clients.patients.opt_outs import opt_out
from flo.clients.records import approval
from flo.clients.records.members import Members
from flo.privacy.patients.split import keyed_hash
from flo.study.document import from_document
from tests.builders import data_file, study_document
from tests.clients.approved_site import Site
from tests.clients.approving_site import enrolled_site
from tests.proofs.rows import Row

_PATIENTS = 2000
_MANY_PAIRS = 100


def rows(pairs: int) -> Iterator[Row]:
    """p of the test on so many pairs, and p where strangers' copies are left alone.

    Few pairs on a busy machine show the old delay less clearly: less is asked of them.
    """
    p, seconds = _compared(pairs)
    least = 0.001 if pairs >= _MANY_PAIRS else 0.0001
    yield Row("opt-out: member or stranger, by time (KS p)", p, pairs, seconds, least=least)
    with mock.patch("flo.clients.patients.opt_outs.Snapshot.salted", lambda snapshot: snapshot):
        p, seconds = _compared(pairs)
    most = 0.001 if pairs >= _MANY_PAIRS else 0.05
    yield Row("the same where only members are loaded anew", p, pairs, seconds, most=most)


def _compared(pairs: int) -> tuple[float, float]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        site = _site(Path(folder), releases=2 * pairs + 1)
        worker = DataProcess("cpu", site.home.directory / "snapshots", Path(folder) / "none", tuple)
        site.releaser = cast(Any, worker)
        site.restart()
        with closing(site.ledger):
            try:
                return _p(site, pairs), time.monotonic() - began
            finally:
                worker.stop()


def _p(site: Site, pairs: int) -> float:
    """Interleaved, in random order within a pair; only those who are trained on are asked about."""
    snapshot = approval.load(site.home, site.study.digest).snapshot
    members = Members.load(site.home, site.study.digest, snapshot)
    assert members is not None
    key, trained = site.home.open_patients_key(), set(members.training)
    names = [f"north{i:05d}" for i in range(_PATIENTS)]
    inside = iter([name for name in names if keyed_hash(key, name) in trained])
    outside, number = iter(f"stranger{i}" for i in range(pairs)), 1
    times: tuple[list[float], list[float]] = ([], [])
    site.ask(round=number)
    for _ in range(pairs):
        for who in random.sample([0, 1], 2):
            opt_out(site.home, next((inside, outside)[who]))
            number += 1
            request = site.request(round=number)
            before = time.perf_counter()
            answer = site.handler.answer(request)
            times[who].append(time.perf_counter() - before)
            assert answer is not None
    return float(stats.ks_2samp(times[0], times[1]).pvalue)


def _site(folder: Path, releases: int) -> Site:
    """A site of 2,000 patients with an approved study of so many steps."""
    enrolled = enrolled_site(folder)
    drawn = random.Random(3)
    lines = [
        f"north{i:05d},{drawn.uniform(18, 95):.3f},{drawn.choice('abc')},{drawn.randrange(2)}"
        for i in range(_PATIENTS)
    ]
    data_file(enrolled.home).write_text("\n".join(["patient_id,age,ward,ill", *lines]) + "\n")
    study = study_document()
    study["hospitals"][0]["declared_size"] = _PATIENTS
    offer = enrolled.offer(from_document(study).with_mechanism(steps=releases))
    enrolled.approve(offer)
    return Site(enrolled.home, offer.study, enrolled.home.open_ledger(), cast(Any, None))
