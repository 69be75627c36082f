"""Runs that are carried out elsewhere: each has a job, which is begun, lent its run, and replaced.

A job shows a secret of its own to be given its run's ServerApp, and a token to speak for its run;
both follow from this coordinator's keys, so a job outlives a restart. Who begins jobs and knows how
they are (``Aggregators``) comes in; SageMaker is in ``flo.infra``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from starlette.types import ASGIApp

from flo.errors import FloError, NetworkError, UsageError
from flo.keys import sealed
from flo.keys.keystore import AesKeyStore
from flo.published.model_card import MAX_MODEL_BYTES
from flo.server.flower.scoped_runtime import RuntimeScope
from flo.server.flower.superlink import SuperLink
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.http.tokens import issue
from flo.server.keys.study_keys import job_secret, study_key
from flo.server.runs.job_access import PREFIX, JobAccess, JobKeys
from flo.server.store.store import Offer, RunPlace, Store
from flo.server.studies.publish import tensors_path
from flo.storage.artifacts import ArtifactStore
from flo.storage.files import write_public

log = logging.getLogger("flo.server.runs.jobs")

_LOOK_SECONDS = 3.0


@dataclass(frozen=True)
class JobState:
    """``why``: of one that is over, in a line."""

    over: bool
    why: str = ""


@dataclass(frozen=True)
class LeasedRun:
    """A run of Flower's in a job's hands, and the application that the job talks to."""

    job: str
    flower_run: int
    app: ASGIApp
    nodes: Callable[[], Collection[int]]


class Aggregators(Protocol):
    """Where jobs run, as SageMaker: begins them by name and knows how they are."""

    app: str
    """The ServerApp of a job, by name."""
    token_seconds: int
    """How long a job may live."""

    def begin(self, access: JobAccess) -> None:
        """Begin the job of this name. Raises FloError."""

    def state(self, job: str) -> JobState:
        """How it is. Raises NetworkError if nobody says, FloError."""

    def artifacts(self, study: str) -> ArtifactStore:
        """Where the study's states and models are kept."""


class Jobs:
    """The jobs of this coordinator: which runs are lent to which, and whether they may still go on.

    Loans are in memory; ``carry_out`` makes them anew after a start. ``aggregators``: None without
    an AWS account, and then whatever needs one raises UsageError.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        store: Store,
        superlink: SuperLink,
        aggregators: Aggregators | None,
    ) -> None:
        self._home, self._store, self._superlink = home, store, superlink
        self._aggregators = aggregators
        self._lent: dict[str, LeasedRun] = {}
        self.ready = False  # once runs under way have been taken up again after a start
        self._states: dict[str, tuple[float, JobState]] = {}

    @property
    def app(self) -> str:
        """The ServerApp that Flower starts for a job."""
        return self._elsewhere.app

    @property
    def places(self) -> tuple[RunPlace, ...]:
        """Where runs can be carried out."""
        return ("here",) if self._aggregators is None else ("here", "sagemaker")

    def refuse_if_nowhere(self) -> None:
        """Raises UsageError if nothing is configured that could carry out a run elsewhere."""
        if self._aggregators is None:
            raise UsageError(
                "this coordinator has no AWS account",
                hint="add what `flo aws deploy` printed to coordinator.toml, and start it again",
            )

    def leased_to(self, path: str) -> tuple[LeasedRun, str] | None:
        """What is behind a job's path, and the path within it."""
        job, slash, rest = path.removeprefix(PREFIX).partition("/")
        lent = self._lent.get(job)
        return (lent, slash + rest) if lent is not None else None

    def carry_out(self, run: str, study: str, flower_run: int) -> None:
        """Lend Flower's run to the run's job, and begin another one if there is none.

        Raises:
            FloError: it could not be begun.
        """
        job = self._store.last_job(run)
        begun = job is not None and self._may_go_on(job)
        if job is None or not begun:
            job = self._store.add_job(run)
        secret = job_secret(self._home.open_checkpoint_key(), self._store.salt(study), job)
        loan = RuntimeScope(run, study, lambda: self._nodes(study))
        lent = self._superlink.scoped_runtime(flower_run, secret, loan)
        self._lent[job] = LeasedRun(job, flower_run, lent, loan.nodes)
        if begun:
            return
        token, _ = issue(self._home.open_identity(), job, "launch", self._elsewhere.token_seconds)
        self._elsewhere.begin(
            JobAccess(
                url=self._home.read_private_url(),
                ca=self._home.ca_path.read_text(),
                job=job,
                run=run,
                study=study,
                token=token,
            )
        )
        self._states[job] = (time.monotonic(), JobState(over=False))
        self._store.add_event(study, "job-begun", job=job)

    def open(self, job: str) -> JobKeys:
        """What a job works with, once: whoever finds its launch document later finds nothing.

        Raises:
            RefusedError: it was opened already, or is no job.
        """
        run, study = self._store.open_job(job)
        master, salt = self._home.open_checkpoint_key(), self._store.salt(study)
        token, _ = issue(
            self._home.open_identity(), run, "aggregator", self._elsewhere.token_seconds
        )
        self._store.add_event(study, "job-opened", job=job)
        return JobKeys(
            token=token,
            superexec_secret=job_secret(master, salt, job).hex(),
            study_key=study_key(master, salt, study).hex(),
        )

    def _may_go_on(self, job: str) -> bool:
        """One that nobody says is over; its own patience ends it if it is cut off."""
        try:
            return not self._state(job).over
        except NetworkError:
            return True

    def _nodes(self, study: str) -> set[int]:
        offer, nodes = self._store.offer(study), self._store.nodes()
        hospitals = {hospital.id for hospital in offer.study.hospitals} if offer else set()
        return {node for hospital, node in nodes.items() if hospital in hospitals}

    def why_over(self, run: str) -> str | None:
        """Why the run's job will do no more; None while it may."""
        job = self._store.last_job(run)
        if job is None:
            return None
        try:
            state = self._state(job)
        except FloError as error:
            log.warning("a job's state is not known", extra={"fields": {"why": str(error)}})
            return None
        if not state.over:
            return None
        self._lent.pop(job, None)
        return state.why

    def forget(self, run: str) -> None:
        """The run is in no job's hands any more."""
        job = self._store.last_job(run)
        if job is not None:
            self._lent.pop(job, None)
            self._states.pop(job, None)

    def artifacts(self, offer: Offer) -> ArtifactStore | None:
        """Where things of a study are kept elsewhere, if anywhere."""
        return None if offer.place == "here" else self._elsewhere.artifacts(offer.study.digest)

    def fetch_model(self, offer: Offer, run: str) -> None:
        """The tensors of a run that was carried out elsewhere, into the folder's models.

        Raises:
            TrustError: they are not what was sealed. NetworkError, UsageError: they are not there.
        """
        study, path = offer.study, tensors_path(self._home, offer.study, run)
        if path.exists():
            return
        key = f"models/{path.name}.sealed"
        kept = self._elsewhere.artifacts(study.digest).get(key, MAX_MODEL_BYTES)
        salt = self._store.salt(study.digest)
        keystore = AesKeyStore(study_key(self._home.open_checkpoint_key(), salt, study.digest))
        context = {"purpose": "model", "study": study.digest, "run": run}
        write_public(path, sealed.unseal(keystore, context, kept, key))

    @property
    def _elsewhere(self) -> Aggregators:
        if self._aggregators is None:
            raise UsageError("this coordinator has no AWS account any more")
        return self._aggregators

    def _state(self, job: str) -> JobState:
        asked, state = self._states.get(job, (0.0, JobState(over=False)))
        if time.monotonic() > asked + _LOOK_SECONDS and not state.over:
            state = self._elsewhere.state(job)
            self._states[job] = (time.monotonic(), state)
        return state
