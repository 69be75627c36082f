"""Runs in remote jobs: a job is begun, gets its run on loan, and is replaced if it ends early.

A service may take minutes to answer, so each job is begun in a thread of its own.

A job authenticates with its own secret to get its run's ServerApp, and with a token to report on
its run. The secret is derived from this coordinator's keys and the token is signed by them, so a
job survives a restart of the coordinator. The service that begins and observes jobs
(``Aggregators``) is an argument; the one for SageMaker is in ``flo.infra``.
"""

from __future__ import annotations

import logging
import threading
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
    """State of a job. ``why``: reason for its end, one line."""

    over: bool
    why: str = ""


@dataclass(frozen=True)
class LeasedRun:
    """A Flower run that is lent to a job, and the application that serves the job's calls."""

    job: str
    flower_run: int
    app: ASGIApp
    nodes: Callable[[], Collection[int]]


class Aggregators(Protocol):
    """Service that runs jobs, such as SageMaker."""

    app: str
    """Name of a job's ServerApp."""
    token_seconds: int
    """Longest lifetime of a job; seconds."""

    def begin(self, access: JobAccess) -> None:
        """Begin the job that ``access`` names; called in any thread. Raises FloError."""

    def state(self, job: str) -> JobState:
        """Return a job's state. Raises FloError; NetworkError if the service does not answer."""

    def artifacts(self, study: str) -> ArtifactStore:
        """Return the store of the study's states and models."""


class _Beginning(threading.Thread):
    """A job that is being begun. ``failed``: why it could not be; None so far, or if it was."""

    def __init__(self, aggregators: Aggregators, access: JobAccess) -> None:
        super().__init__(name=f"beginning {access.job}", daemon=True)
        self.failed: Exception | None = None
        self._aggregators, self._access = aggregators, access

    def run(self) -> None:
        try:
            self._aggregators.begin(self._access)
        except Exception as error:  # noqa: BLE001 - ``Jobs.begun`` raises it in the watcher's thread
            self.failed = error


class Jobs:
    """The coordinator's jobs: which run is lent to which job, and whether it may still continue.

    Loans are in memory; ``carry_out`` makes them again after a start. ``aggregators``: None without
    an AWS account; then methods that need one raise UsageError.
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
        self.ready = False  # whether the runs under way have been resumed after a start
        self._states: dict[str, tuple[float, JobState]] = {}
        self._beginning: dict[str, _Beginning] = {}

    @property
    def app(self) -> str:
        """Name of the ServerApp that Flower starts for a job."""
        return self._elsewhere.app

    @property
    def places(self) -> tuple[RunPlace, ...]:
        """Places where runs can be carried out."""
        return ("here",) if self._aggregators is None else ("here", "sagemaker")

    def refuse_if_nowhere(self) -> None:
        """Raise UsageError if no service is configured that can carry out a run elsewhere."""
        if self._aggregators is None:
            raise UsageError(
                "this coordinator has no AWS account",
                hint="add the lines that `flo aws deploy` prints to coordinator.toml, and restart",
            )

    def leased_to(self, path: str) -> tuple[LeasedRun, str] | None:
        """Return the run lent to a path's job, and the rest of the path; None if there is none."""
        job, slash, rest = path.removeprefix(PREFIX).partition("/")
        lent = self._lent.get(job)
        return (lent, slash + rest) if lent is not None else None

    def carry_out(self, run: str, study: str, flower_run: int) -> None:
        """Lend Flower's run to the run's last job; begin a new job if there is none or it is over.

        ``begun`` tells whether it was begun. Raises FloError if the job's keys cannot be made.
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
        access = JobAccess(
            url=self._home.read_private_url(),
            ca=self._home.ca_path.read_text(),
            job=job,
            run=run,
            study=study,
            token=token,
        )
        self._beginning[job] = _Beginning(self._elsewhere, access)
        self._beginning[job].start()

    def begun(self, run: str, study: str) -> bool:
        """Return whether the run's last job has been begun: False if it has none, or not yet.

        Raises:
            FloError: it could not be begun.
        """
        job = self._store.last_job(run)
        beginning = self._beginning.get(job or "")
        if job is None or beginning is None:
            return job is not None
        if beginning.is_alive():
            return False
        del self._beginning[job]
        if isinstance(beginning.failed, FloError):
            raise beginning.failed
        if beginning.failed is not None:
            why = f"a bug in FLO: {type(beginning.failed).__name__}"
            raise FloError(why) from beginning.failed
        self._states[job] = (time.monotonic(), JobState(over=False))
        self._store.add_event(study, "job-begun", job=job)
        return True

    def open(self, job: str) -> JobKeys:
        """Return a job's keys, once: a launch document that is found later gives no access.

        Raises:
            RefusedError: the job was opened already, or does not exist.
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
        """Return whether a job is not known to be over; a job that is cut off ends by a timeout."""
        if job in self._beginning:
            return True
        try:
            return not self._state(job).over
        except NetworkError:
            return True

    def _nodes(self, study: str) -> set[int]:
        offer, nodes = self._store.offer(study), self._store.nodes()
        hospitals = {hospital.id for hospital in offer.study.hospitals} if offer else set()
        return {node for hospital, node in nodes.items() if hospital in hospitals}

    def why_over(self, run: str) -> str | None:
        """Return why the run's job is over; None if it is not, or if its state is not known."""
        job = self._store.last_job(run)
        if job is None or job in self._beginning:
            return None
        try:
            state = self._state(job)
        except FloError as error:
            log.warning("a job's state could not be read", extra={"fields": {"why": str(error)}})
            return None
        if not state.over:
            return None
        self._lent.pop(job, None)
        return state.why

    def forget(self, run: str) -> None:
        """End the loan of a run to its last job."""
        job = self._store.last_job(run)
        if job is not None:
            self._lent.pop(job, None)
            self._states.pop(job, None)

    def artifacts(self, offer: Offer) -> ArtifactStore | None:
        """Return the remote store of a study's artifacts; None for a study that runs here."""
        return None if offer.place == "here" else self._elsewhere.artifacts(offer.study.digest)

    def fetch_model(self, offer: Offer, run: str) -> None:
        """Copy the tensors of a run that was carried out elsewhere into the folder's models.

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
            raise UsageError("coordinator.toml names no AWS account any more")
        return self._aggregators

    def _state(self, job: str) -> JobState:
        asked, state = self._states.get(job, (0.0, JobState(over=False)))
        if time.monotonic() > asked + _LOOK_SECONDS and not state.over:
            state = self._elsewhere.state(job)
            self._states[job] = (time.monotonic(), state)
        return state
