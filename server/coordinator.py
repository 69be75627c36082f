"""The coordinator's process: SuperLink, two listeners, SuperExec and periodic work.

Flower's run and node ids change at every start; FLO's run id does not. ``flo.server.runs`` starts,
resumes and ends runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import uvicorn

from flo.errors import FloError, TrustError
from flo.host.environment import code_digest
from flo.host.logs import rotate
from flo.host.memory import share_arenas
from flo.host.metrics import Meter, Metric
from flo.host.proxy import keep_direct
from flo.http.presence import ConnectionTracker
from flo.http.tls_server import Listener, bind, listener, reload_certificate
from flo.published.model_states import ModelStates
from flo.server.api.operator_api import operator_app
from flo.server.api.site_api import SiteApi
from flo.server.audit.copies import AuditCopies
from flo.server.audit.rate_limited import RateLimitedAudit
from flo.server.console.context import ConsoleContext
from flo.server.console.routes import console_app
from flo.server.console.sign_in import ConsoleAuth
from flo.server.console.view import ProgressCache, StudyViews
from flo.server.flower.large_bodies import LargeBodyRelay
from flo.server.flower.superexec import PROGRAM, Supervised, start_superexec
from flo.server.flower.superlink import APP_HERE, SuperLink
from flo.server.home.coordinator_home import (
    CHECKPOINT_KEY_VARIABLE,
    HOME_VARIABLE,
    CoordinatorHome,
    sign_events,
)
from flo.server.http.last_seen import LastSeen
from flo.server.http.metrics import Traffic, measured
from flo.server.http.notifier import Notifier
from flo.server.http.otlp import Traces
from flo.server.keys.authority import read_peer
from flo.server.listeners.hospital_listener import Gateway
from flo.server.listeners.last_answers import LastAnswers
from flo.server.listeners.private_listener import PrivateListener
from flo.server.runs.jobs import Aggregators, Jobs
from flo.server.runs.scheduler import Runs
from flo.server.store.hospitals import Member
from flo.server.store.store import Offer, RunPlace
from flo.server.studies.actions import OperatorActions
from flo.server.studies.erase import shred
from flo.server.studies.model_decisions import Step, all_states, decide, sign_anew
from flo.server.studies.registry_states import ModelRegistry, RegistryStates
from flo.server.studies.signing import StudySigner
from flo.storage.artifacts import ArtifactStore
from flo.storage.files import in_memory, write_private
from flo.study.document import Study

log = logging.getLogger("flo.server")

_WATCH_SECONDS, _FULL_SECONDS, _TIDY_SECONDS = 0.1, 5.0, 1.0
_CERTIFICATE_SECONDS, _RENEW_DAYS = 3600.0, 30.0
_ANOTHER_PORT = "set another port in coordinator.toml"


def serve(
    home: CoordinatorHome,
    aggregators: Aggregators | None = None,
    audit_store: ArtifactStore | None = None,
    registry: ModelRegistry | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, on uvloop where it is installed.

    ``aggregators``: starts jobs that execute runs elsewhere. ``audit_store``: receives copies of
    the audit log. ``registry``: follows the decisions on models.
    """
    share_arenas()
    factory = uvicorn.Config(app="unused", loop="auto", log_config=None).get_loop_factory()
    home.require_no_pending_rotation()
    keep_direct(home.read_config().private_host)  # no proxy: Flower's local parts dial each other
    with home.serving(), asyncio.Runner(loop_factory=factory) as runner:
        home.renew_certificate(days=_RENEW_DAYS)
        runner.run(Coordinator(home, aggregators, audit_store, registry).serve())


class Coordinator:
    """Owns all services of the process; ``serve`` returns after SIGTERM or SIGINT."""

    def __init__(
        self,
        home: CoordinatorHome,
        aggregators: Aggregators | None = None,
        audit_store: ArtifactStore | None = None,
        registry: ModelRegistry | None = None,
    ) -> None:
        self._home, self._store, self._admission = home, home.open_store(), home.open_store()
        self._notifier, self._last_seen = Notifier(), LastSeen()
        self._large_bodies = LargeBodyRelay()
        self._last_answers = LastAnswers()
        self._identity, self._audit_log = home.open_identity(), home.open_audit_log()
        self._audit = RateLimitedAudit(self._store)
        self._chain = home.chain_path.read_bytes()
        superexec_secret = secrets.token_bytes(32)
        write_private(home.superexec_secret_path, superexec_secret)
        self._superlink = SuperLink(superexec_secret=superexec_secret)
        self._listeners: list[Listener] = []
        self._certificate_due = time.monotonic() + _CERTIFICATE_SECONDS
        self._copies: AuditCopies | None = None
        if audit_store is not None:
            grown = self._audit_log.last_source
            self._copies = AuditCopies(audit_store, self._export_audit_log, grown)
        self._traffic = Traffic()
        logs = home.directory / "log"
        self._meter = Meter(self._metrics, logs / "metrics.jsonl", logs / "metrics.prom")
        self._traces = self._opened_traces()
        self._jobs = Jobs(home, self._store, self._superlink, aggregators)
        self._runs = Runs(home, self._store, self._superlink, self._jobs)
        self._signer = StudySigner(home, self._store)
        sign_anew(self._store, self._identity)
        self._studies = threading.Lock()  # no model is erased while a study of it is being signed
        self._steps: list[Callable[[], None]] = [
            *(self._runs.watch, self._audit.flush, self._sign, self._meter.write_if_due),
            partial(rotate, home.superexec_log_path),
        ]
        if self._traces is not None:
            self._steps.append(self._traces.send)
        if self._copies is not None:
            self._steps.append(self._copies.copy_if_due)
        if registry is not None:
            following = RegistryStates(
                registry, self._store.model_states, partial(all_states, self._store)
            )
            self._steps.append(following.follow_if_due)

    async def serve(self) -> None:
        """Serve hospitals, operators and runs until SIGTERM or SIGINT, then shut down in order."""
        config = self._home.read_config()
        outside_socket = bind(config.bind, config.port, _ANOTHER_PORT)
        inside_socket = bind(config.private_host, config.private_port, _ANOTHER_PORT)
        api = SiteApi(
            self._store,
            self._home.open_authority(),
            self._identity,
            self._audit_log,
            self._home.read_succession(),
            self._register,
            self._audit,
        )
        certificate = self._home.certificate_path.read_bytes()
        key = self._home.open_tls_identity().pem()
        outside = listener(
            Gateway(
                self._superlink,
                api,
                self._admission,
                self._audit,
                self._notifier,
                self._traffic,
                self._large_bodies,
                self._last_seen,
            ),
            ca=self._home.ca_path,
            lifespan=False,
            on_refused=partial(self._refused_connection, "hospitals"),
            presence=ConnectionTracker(self._gone),
            certificate=certificate,
            key=key,
        )
        actions = OperatorActions(
            self._store,
            self._signer,
            self._offer,
            self._decide,
            self._shred,
            self._export_audit_log,
            self._jobs.places,
        )
        people = operator_app(
            self._store,
            actions,
            self._home.directory / "models",
            self._metrics,
            self._jobs.open,
            self._superlink.is_online,
            self._audit,
        )
        console = self._console(actions)
        inside = listener(
            PrivateListener(
                self._superlink,
                people,
                ConsoleAuth(console_app(console), self._identity.public, self._audit),
                self._identity.public,
                self._audit,
                self._notifier,
                self._jobs,
                self._large_bodies,
                self._last_answers,
            ),
            ca=None,
            lifespan=True,
            on_refused=partial(self._refused_connection, "operators"),
            certificate=certificate,
            key=key,
        )
        self._listeners = [inside, outside]
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        servers = [
            asyncio.create_task(inside._serve([inside_socket])),
            asyncio.create_task(outside._serve([outside_socket])),
        ]
        while not (inside.started and outside.started):
            await asyncio.sleep(0.02)
        log.info(
            "listening", extra={"fields": {"port": config.port, "private": config.private_port}}
        )
        watcher = asyncio.create_task(self._watch())
        tidier = asyncio.create_task(self._tidy())
        stop_wait = asyncio.create_task(stopping.wait())
        try:
            with self._superexec():
                await asyncio.wait(
                    {stop_wait, watcher, *servers}, return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            watcher.cancel()
            tidier.cancel()
            console.live.closing.set()
            inside.should_exit = outside.should_exit = True
            await asyncio.gather(*servers, return_exceptions=True)
            await asyncio.gather(tidier, return_exceptions=True)
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
            self._audit.flush(now=True)
            try:
                self._sign()
            except FloError as error:  # pending events are signed at the next start
                log.error(f"the last audit entries will be signed at the next start: {error}")
            if self._traces is not None:
                await asyncio.to_thread(self._traces.close)
            self._store.close()
            self._admission.close()
            self._audit_log.close()

    def _console(self, actions: OperatorActions) -> ConsoleContext:
        views = StudyViews(
            self._store, ProgressCache(self._store), self._last_seen, self._superlink, code_digest()
        )
        return ConsoleContext(
            actions, views, self._audit_log, self._sign, self._identity.fingerprint, self._audit
        )

    @contextlib.contextmanager
    def _superexec(self) -> Iterator[None]:
        """Run SuperExec, which launches ServerApps. They get the checkpoint key only, in memory."""
        with in_memory(self._home.open_checkpoint_key()) as key:

            def start() -> subprocess.Popen[bytes]:
                return start_superexec(
                    self._home.read_private_url(),
                    self._home.chain_path,
                    self._home.superexec_secret_path,
                    app=APP_HERE,
                    home=self._home.directory,
                    environment={
                        HOME_VARIABLE: str(self._home.directory),
                        CHECKPOINT_KEY_VARIABLE: key,
                    },
                )

            superexec = Supervised(start, self._restarted, self._runs.wait_in_vain)
            self._steps.append(superexec.look)
            try:
                yield
            finally:
                self._steps.remove(superexec.look)
                superexec.end()

    def _restarted(self, code: int) -> None:
        log.error(f"{PROGRAM} ended and was started again", extra={"fields": {"code": code}})
        self._store.add_event(None, "process-restarted", program=PROGRAM, code=code)
        self._runs.lose_serverapps()

    def _refused_connection(
        self, listener: str, address: str, why: str, certificate: bytes | None
    ) -> None:
        facts = {"listener": listener, "address": address, "why": why}
        if certificate is not None:  # verified by TLS
            with contextlib.suppress(TrustError):  # not a hospital's certificate
                facts["hospital"] = read_peer(certificate).hospital
        log.warning("refused", extra={"fields": facts})
        self._audit.record("refused-connection", **facts)

    def _offer(self, study: Study, person: str, place: RunPlace) -> Offer:
        if place != "here":
            self._jobs.refuse_if_nowhere()
        with self._studies:
            return self._signer.offer(study, person, place)

    def _decide(self, offer: Offer, step: Step, why: str, person: str) -> ModelStates:
        with self._studies:
            return decide(self._home, self._store, offer, step, why, person)

    def _opened_traces(self) -> Traces | None:
        """Return what sends traces, if a collector is named. Raises UsageError: no ``otel``."""
        traces = self._home.read_config().traces
        if traces is None:
            return None
        after = self._store.last_event_number()
        return Traces(traces.endpoint, after, self._store.events_after, self._store.events)

    def _metrics(self) -> list[Metric]:
        uncopied = self._copies.failed if self._copies is not None else 0
        folder = self._home.directory
        return measured(self._store, self._traffic, self._last_seen, folder, uncopied)

    def _shred(self, offer: Offer, person: str) -> int:
        with self._studies:
            return shred(self._home, self._store, offer, person, self._jobs.artifacts(offer))

    def _export_audit_log(self) -> bytes:
        self._sign()
        return self._audit_log.export("coordinator")

    async def _watch(self) -> None:
        """Recover runs, then repeat the periodic work. A TrustError ends the coordinator."""
        await asyncio.to_thread(self._recover)
        while True:
            for step in list(self._steps):
                try:
                    await asyncio.to_thread(step)
                except TrustError:  # our records fail verification, or KMS refuses our key
                    raise
                except Exception:  # the other steps must go on
                    # For example a full disk, KMS out of reach, or a bug: retried until it works.
                    log.exception("a periodic step of the coordinator failed; it will be repeated")
                    await asyncio.sleep(_FULL_SECONDS)
            self._renew_certificate()
            await asyncio.sleep(_WATCH_SECONDS)

    async def _tidy(self) -> None:
        """Delete what no run that goes on needs, again and again."""
        while True:
            try:
                self._large_bodies.forget(self._superlink.has_finished)
                self._last_answers.forget(self._superlink.has_finished)
                await asyncio.to_thread(self._superlink.tidy)
            except Exception:  # all else must go on
                log.exception("what no run needs could not be deleted; it will be tried again")
                await asyncio.sleep(_FULL_SECONDS)
            await asyncio.sleep(_TIDY_SECONDS)

    def _sign(self) -> None:
        sign_events(self._store, self._audit_log)

    def _renew_certificate(self) -> None:
        """Renew the listeners' certificate in time; new connections use it without a restart."""
        if time.monotonic() < self._certificate_due:
            return
        self._certificate_due = time.monotonic() + _CERTIFICATE_SECONDS
        try:
            renewed = self._home.renew_certificate(days=_RENEW_DAYS)
        except OSError:  # out of file descriptors, or disk full: retried in an hour
            log.exception("the certificate could not be renewed; the next attempt is in an hour")
            return
        if renewed:
            for open_ in self._listeners:
                reload_certificate(
                    open_,
                    self._home.certificate_path.read_bytes(),
                    self._home.open_tls_identity().pem(),
                )
            self._store.add_event(None, "certificate-renewed", whose="coordinator")

    def _recover(self) -> None:
        for member in self._store.members():
            self._register(member)
        self._runs.recover()
        self._jobs.ready = True

    def _register(self, member: Member) -> None:
        node = self._superlink.register_node(
            self._home.read_private_url(), self._chain, member.public
        )
        self._store.set_node(member.public, node)

    def _gone(self, certificate: bytes) -> None:
        """Mark a hospital's agent offline after its last connection closed.

        Only its enrolled certificate, or the one before a renewal, counts: TLS accepts others too.
        """
        peer = read_peer(certificate)
        member = self._store.member(peer.hospital)
        node = self._store.nodes().get(peer.hospital)
        if member is None or peer.public != member.public:
            return
        if node is not None and peer.serial in (member.serial, member.earlier):
            self._superlink.mark_offline(node)
            log.info("gone", extra={"fields": {"hospital": peer.hospital}})
