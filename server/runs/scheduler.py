"""Scheduling of runs: start when all hospitals have approved, relaunch, resume, end, publish.

| a run is | because | until |
|---|---|---|
| running | every hospital approved, or it was resumed | its ServerApp reports how it ended |
| paused | too few hospitals were there, or its ServerApp kept failing | enough are connected |
| done, stopped, ended | it is over | permanent; its hospitals settle |

A run may wait for cleaner electricity before it starts (``cleaner``). A ServerApp that died is
launched again, from the saved state. A paused run has no cost and keeps its hospitals'
reservations. It is resumed automatically, at once and then after growing delays. It is ended when
an operator stops it, the study expires, or too few hospitals still approve.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flo.errors import FloError, NetworkError, RefusedError
from flo.server.flower.superlink import APP_HERE, SuperLink
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.runs import earlier, local_store, remote_store
from flo.server.runs.cleaner import CleanerElectricity
from flo.server.runs.jobs import Jobs
from flo.server.store.run_tables import RunRecord, new_run_id
from flo.server.store.store import Offer, Store
from flo.server.studies.publish import (
    WAIT_SECONDS,
    has_result,
    is_due,
    published,
    published_result,
    write_card,
    write_result,
)
from flo.storage.artifacts import ArtifactStore
from flo.study.document import Study

log = logging.getLogger("flo.server")

_MAX_RELAUNCHES = 5
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 300.0
_LAUNCH_SECONDS = 20.0  # SuperExec polls ten times a second
_WENT_ON_SECONDS = 60.0  # a run that ran this long after a resume is resumed at once again


@dataclass
class _Running:
    run: str
    flower_run: int
    launches: int = 1
    began: float = field(default_factory=time.monotonic)
    gone: bool = False  # its ServerApp is known to have ended


@dataclass
class _Waiting:
    """Backoff of a paused run. ``due``: time of the next check; ``resumed``: of its last resume."""

    wait: float = _FIRST_WAIT
    due: float = 0.0
    resumed: float = 0.0


class Runs:
    """The coordinator's runs. Call ``recover`` once, then ``watch`` periodically, in a thread."""

    def __init__(
        self, home: CoordinatorHome, store: Store, superlink: SuperLink, jobs: Jobs
    ) -> None:
        self._home, self._store, self._superlink, self._jobs = home, store, superlink, jobs
        self._chain = home.chain_path.read_bytes()
        self._electricity = CleanerElectricity(home, store)
        self._running: dict[str, _Running] = {}
        self._waiting: dict[str, _Waiting] = {}
        # Studies that ended with a model or another result that is not signed yet.
        self.uncarded: set[str] = set()
        self._ended: dict[str, float] = {}  # since when results wait for extracts

    def recover(self) -> None:
        """Continue, after a start of the coordinator, the runs that were running."""
        for record in self._store.runs():
            if record.status == "running":
                self._store.add_event(record.study, "resumed", run=record.id)
                continue
            self._store.set_status(record.study, record.status)  # it may have ended meanwhile
            if record.status != "paused":
                self.uncarded.add(record.study)
                self._forget_earlier(record.id, record.study)
                if not published(self._store, record.study):  # it ended while nobody looked
                    self._say_emitted(record.study)
        self._launch_running()

    def watch(self) -> None:
        """Start, relaunch and resume runs, note runs that have ended, and sign model cards."""
        self._start_approved()
        self._launch_running()
        self._look_after_running()
        self._look_after_paused()
        self.sign_cards()

    def lose_serverapps(self) -> None:
        """Mark all ServerApps here as ended, with the SuperExec that had launched them.

        ``watch`` launches them again. Flower would notice only after a minute of missing
        heartbeats.
        """
        for study, running in self._running.items():
            running.gone = self._is_here(study)

    def wait_in_vain(self) -> bool:
        """Return whether a run here was launched over 20 s ago and its execution has not begun."""
        before = time.monotonic() - _LAUNCH_SECONDS
        return any(
            running.began < before
            and self._is_here(study)
            and self._superlink.is_waiting(running.flower_run)
            for study, running in self._running.items()
        )

    def _is_here(self, study: str) -> bool:
        offer = self._store.offer(study)
        return offer is not None and offer.place == "here"

    def _start_approved(self) -> None:
        for offer in self._store.offers():
            study = offer.study.digest
            wanted = {hospital.id for hospital in offer.study.hospitals}
            if offer.status == "offered" and wanted <= set(self._store.approvals(study)):
                if self._electricity.waits(offer.study):
                    continue
                run = new_run_id()
                if self._store.start_run(run, study):
                    self._store.add_event(study, "started", run=run)

    def _launch_running(self) -> None:
        for record in self._store.runs():
            if record.status == "running" and record.study not in self._running:
                self._launch(record.id, record.study)

    def _launch(self, run: str, study: str) -> None:
        before, offer = self._running.get(study), self._store.offer(study)
        launches = before.launches + 1 if before else 1
        elsewhere = offer is not None and offer.place != "here"
        try:
            if offer is not None:
                self._keep_earlier(run, offer)
        except (FloError, OSError) as error:
            log.exception("a model that a run needs could not be put in place")
            why = f"a model that it needs could not be put in place: {error}"
            self._give_up(run, study, why)
            return
        try:
            app = self._jobs.app if elsewhere else APP_HERE
            flower_run = self._superlink.start_run(
                self._home.read_private_url(), self._chain, run, app
            )
            self._running[study] = _Running(run, flower_run, launches)
            if elsewhere:
                self._jobs.carry_out(run, study, flower_run)
        except FloError as error:
            log.exception("run could not be started")
            if elsewhere:
                self._give_up(run, study, f"a job could not be started: {error}")

    def _keep_earlier(self, run: str, offer: Offer) -> None:
        """Put the models published before that a study needs where its run looks for them."""
        if earlier.names(offer.study):
            artifacts, prefix = self._place_of_earlier(offer)
            earlier.keep(self._home, self._store, offer.study, run, artifacts, prefix)

    def _forget_earlier(self, run: str, study: str) -> None:
        """Remove what ``_keep_earlier`` put there; the run is over."""
        offer = self._store.offer(study)
        if offer is None or not earlier.names(offer.study):
            return
        try:
            artifacts, prefix = self._place_of_earlier(offer)
            for name in earlier.names(offer.study):
                artifacts.remove(earlier.key_of(run, prefix, name))
        except FloError:
            log.exception("a sealed model could not be removed; shredding the study removes it")

    def _place_of_earlier(self, offer: Offer) -> tuple[ArtifactStore, str]:
        elsewhere = self._jobs.artifacts(offer)
        if elsewhere is not None:
            return elsewhere, remote_store.EARLIER
        return self._home.states(), local_store.EARLIER

    def _look_after_running(self) -> None:
        for study, running in list(self._running.items()):
            record = self._store.run(running.run)
            if record is None or record.status != "running":
                if record is not None:
                    self._store.set_status(study, record.status)
                    if record.status != "paused":
                        self.uncarded.add(study)
                        self._forget_earlier(running.run, study)
                self._jobs.forget(running.run)
                del self._running[study]
                if record is not None and record.status != "paused":
                    self._say_emitted(study)
                continue
            try:
                self._jobs.begun(running.run, study)
            except FloError as error:
                log.exception("a job could not be begun")
                self._give_up(running.run, study, f"a job could not be started: {error}")
                continue
            over = self._jobs.why_over(running.run)
            if over is not None:
                self._store.add_event(study, "job-over", run=running.run, why=over)
            gone = running.gone or self._superlink.has_finished(running.flower_run)
            if over is not None or gone:
                if running.launches >= _MAX_RELAUNCHES:
                    failed = f"the ServerApp ended {_MAX_RELAUNCHES} times before the run was over"
                    self._give_up(running.run, study, over or failed)
                    continue
                self._store.add_event(study, "relaunched", run=running.run)
                self._launch(running.run, study)

    def _say_emitted(self, study: str) -> None:
        offer = self._store.offer(study)
        if offer is not None:
            self._electricity.say_emitted(offer.study)

    def _give_up(self, run: str, study: str, why: str) -> None:
        """Pause the run, to be retried later; end it if its stop was requested."""
        launch, over = self._store.take_run(run), self._store.stop_requested(run)
        try:
            if over:
                self._store.end_run(run, launch, "ended", {"why": why})
            else:
                self._store.pause_run(run, launch)
        except RefusedError:  # a process has just taken over the run, so it continues
            return
        if over:
            self._forget_earlier(run, study)
        self._store.set_status(study, "ended" if over else "paused")
        self._store.add_event(study, "ended" if over else "paused", why=why)

    def _look_after_paused(self) -> None:
        now = time.monotonic()
        for record in self._store.runs():
            if record.status != "paused" or record.study in self._running:
                continue
            offer = self._store.offer(record.study)
            waiting = self._waiting.setdefault(record.study, _Waiting())
            if offer is None or now < waiting.due:
                continue
            why = self._over(offer.study)
            if why and self._store.request_stop(record.study):
                self._store.add_event(record.study, "stop-requested", by="the coordinator", why=why)
            if self._store.stop_requested(record.id) or self._enough_are_online(offer.study):
                self._resume(record, waiting)
            else:
                waiting.due = now + _FIRST_WAIT

    def _over(self, study: Study) -> str | None:
        """Return why a paused run can never continue; None if it can."""
        if study.has_expired(datetime.now(UTC).date()):
            return f"the study expired on {study.expires}"
        approving = len(self._store.approvals(study.digest))
        if approving < study.cohort_floor:
            return f"{approving} hospitals approve it, and it needs {study.cohort_floor}"
        return None

    def _enough_are_online(self, study: Study) -> bool:
        nodes = self._store.nodes()
        there = [h for h in study.hospitals if h.id in nodes]
        return sum(self._superlink.is_online(nodes[h.id]) for h in there) >= study.cohort_floor

    def _resume(self, record: RunRecord, waiting: _Waiting) -> None:
        now = time.monotonic()
        if waiting.resumed and now - waiting.resumed > _WENT_ON_SECONDS + waiting.wait:
            waiting.wait = _FIRST_WAIT
        waiting.resumed, waiting.due = now, now + waiting.wait
        waiting.wait = min(2 * waiting.wait, _LONGEST_WAIT)
        self._store.resume_run(record.id)
        self._store.add_event(record.study, "resumed", run=record.id)

    def sign_cards(self) -> None:
        """Sign the cards of models whose extracts have arrived or whose wait for them is over."""
        for study in list(self.uncarded):
            record, offer = self._store.last_run(study), self._store.offer(study)
            result = (record.result or {}) if record else {}
            if record and offer and "model" in result and not published(self._store, study):
                self._sign_card(record, offer, result)
            elif (
                record and offer and has_result(result) and not published_result(self._store, study)
            ):
                self._sign_result(record, offer, result)
            else:
                self.uncarded.discard(study)
                self._ended.pop(study, None)

    def _sign_result(self, record: RunRecord, offer: Offer, result: dict[str, Any]) -> None:
        """Sign statistics or a gate once all extracts are there, or have been waited for."""
        study = offer.study.digest
        extracts, heads = self._store.extracts(study), self._store.study_heads(study)
        waited = time.monotonic() - self._ended.setdefault(study, time.monotonic())
        if len(extracts) < len(offer.study.hospitals) and waited <= WAIT_SECONDS:
            return
        try:
            path = write_result(self._home, offer, record.id, result, extracts, heads)
        except Exception as error:  # any: one study's failure must not stop the others
            log.exception("a result could not be signed")
            self._say_unsigned(study, error)
        else:
            self._store.add_event(study, "published", card=str(path))
        self.uncarded.discard(study)
        self._ended.pop(study, None)

    def _sign_card(self, record: RunRecord, offer: Offer, result: dict[str, Any]) -> None:
        study = offer.study.digest
        extracts = self._store.extracts(study)
        try:
            if offer.place != "here":
                self._jobs.fetch_model(offer, record.id)
            if not is_due(offer.study, extracts, Path(str(result["model"]))):
                return
            heads = self._store.study_heads(study)
            card = write_card(self._home, offer, record.id, result, extracts, heads)
        except NetworkError:
            log.exception("the model could not be fetched; the next attempt follows")
            return
        except Exception as error:  # any: one study's failure must not stop the others
            log.exception("the model card could not be signed")
            self._say_unsigned(study, error)
        else:
            self._store.add_event(study, "published", card=str(card))
        self.uncarded.discard(study)

    def _say_unsigned(self, study: str, error: Exception) -> None:
        why = str(error) if isinstance(error, FloError) else type(error).__name__
        self._store.add_event(study, "no-card", why=why)
