"""The site agent's parent process: connect, wait for requests, answer, reconnect, stop cleanly.

It holds the ledger and the network connections; the warm child process holds data, model and GPU.
It makes outgoing connections only, runs only code that is installed here, and makes no release
before the coordinator has confirmed that this ledger is the newest it knows.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from types import FrameType

from flo.clients.agent.handler import Handler
from flo.clients.agent.metrics import Counted, measured
from flo.clients.agent.run_keys import RunKeys
from flo.clients.approvals import roster
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.coordinator_clock import CoordinatorClock
from flo.clients.connection.cosigning import confirm_head, cosign
from flo.clients.connection.enrolment import connect, context_of, renew_when_due
from flo.clients.connection.flower import FleetLink
from flo.clients.connection.offers import known_studies
from flo.clients.data_process.confinement import set_undumpable
from flo.clients.data_process.worker import DataProcess
from flo.clients.home.emergency_stop import be_ready, halted, refuse_halted
from flo.clients.home.site_home import SiteHome
from flo.clients.inbox.inbox import notify_steward
from flo.clients.prediction import monitor_news, version_news
from flo.clients.records.approval import approval_path, is_expired, load, read, snapshot_path, sweep
from flo.clients.records.extract import keep, make_extract, send_kept
from flo.clients.records.reply_store import ReplyStore
from flo.clients.records.settlement import settle
from flo.documents import canonical
from flo.errors import (
    FloError,
    MessageError,
    NetworkError,
    PolicyError,
    RefusedError,
    TrustError,
    UsageError,
)
from flo.host.memory import keep_freed_memory
from flo.host.metrics import Meter
from flo.host.proxy import keep_direct
from flo.privacy.ledger.ledger import Ledger
from flo.protocol.messages import decode_reply
from flo.study.document import UNDER_WAY, Study

log = logging.getLogger("flo.clients.agent")

_FIRST_WAIT, _SHORT_WAIT, _LONGEST_WAIT = 0.2, 2.0, 30.0
_SOON_SECONDS = 60.0  # enough for a coordinator to restart
_IGNORED_SECONDS = 0.2  # before the next pull, if a message could not be read or none came
_CLOSED_SECONDS, _LOOK_SECONDS, _RELOAD_SECONDS = 2.0, 60.0, 1.0
_DECISIONS_SECONDS, _SELDOM_SECONDS = 10.0, 600.0


class Agent:
    """Long-lived agent of one site. ``run`` returns after ``stop``."""

    def __init__(self, home: SiteHome, device: str) -> None:
        self._home = home
        self._worker = DataProcess(
            device,
            home.directory / "snapshots",
            home.directory / "identity.key",
            lambda: home.read_policy().confinement,
            self._child_restarted,
            processes=home.read_config().processes,
        )
        self._run_keys = RunKeys(home.open_identity())
        self._clock = CoordinatorClock()
        self._stopping = threading.Event()
        self._closed, self._monitors_due = "", 0.0
        logs = home.directory / "log"
        self._counted = Counted()
        self._meter = Meter(
            lambda: measured(home, self._counted), logs / "metrics.jsonl", logs / "metrics.prom"
        )

    def _child_restarted(self, code: int) -> None:
        self._counted.restarts += 1
        self._home.record("process-restarted", program="flo.clients.data_process.child", code=code)

    def stop(self, *_: int | FrameType | None) -> None:
        """Stop now; the ledger's write order makes this safe at any point."""
        if self._stopping.is_set():
            raise KeyboardInterrupt
        self._stopping.set()
        raise _Stop

    def run(self) -> None:
        """Serve until stopped.

        Raises:
            RefusedError: another agent runs on this ledger. TrustError: the ledger was rolled
            back, or the coordinator refuses our certificate. PolicyError: the child is not
            confined as the site's policy asks.
        """
        set_undumpable()
        keep_direct()
        keep_freed_memory()
        with self._home.agent_lock(), closing(self._home.open_ledger()) as ledger:
            be_ready(self._home)
            self._sweep(ledger)
            self._worker.start()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self.stop)
            try:
                self._refuse_unconfined()
                tasks = self._reload_exchanged, self._follow_withdrawals, self._write_metrics
                for task in tasks:
                    threading.Thread(target=task, daemon=True).start()
                self._serve(ledger)
            except _Stop:
                log.info("stopped")
            except FloError as error:
                self._home.record("agent-ended", why=str(error)[:500])
                raise
            finally:
                self._worker.stop()

    def _sweep(self, ledger: Ledger) -> None:
        try:
            with self._home.decision_lock(), self._home.snapshot_lock():
                sweep(self._home, ledger)
        except RefusedError as error:  # the next start sweeps
            log.info(str(error))

    def _refuse_unconfined(self) -> None:
        """Refuse to start with a child that is not confined as the policy asks."""
        held = [name for name, holds in self._worker.layers.items() if holds]
        missing = self._worker.missing
        self._counted.unconfined = sum(not holds for holds in self._worker.layers.values())
        self._home.record("agent-started", confinement=sorted(held))
        log.info("the data process is confined", extra={"fields": {"layers": sorted(held)}})
        if missing:
            raise PolicyError(
                f"the data process is not confined by {', '.join(missing)}, which the site's "
                "policy requires",
                hint="use Linux 5.13 or newer, which has all layers; or change `confinement` in "
                "policy.toml, then: flo site policy --sign",
            )

    def _reload_exchanged(self) -> None:
        """Load snapshots again soon after an opt-out replaced them, so that no release waits."""
        while not self._stopping.wait(_RELOAD_SECONDS):
            for study in self._worker.loaded:
                try:
                    approved = load(self._home, study)
                    path = snapshot_path(self._home, study, approved.snapshot)
                    self._worker.reload(approved.read_study(), path, approved.snapshot)
                except (FloError, OSError) as error:  # the next release reports it
                    log.info(f"the new frozen patients could not be loaded yet: {error}")

    def _follow_withdrawals(self) -> None:
        """Ask for decisions on models, and what monitors across hospitals found of them, also while
        a request is computed or the site is closed."""
        wait = 0.0
        while not self._stopping.wait(wait):
            try:
                wait = self._follow_once()
            except Exception:  # a full disk, a locked file or a bug: asked again soon
                log.exception("the decisions on models could not be asked for")
                wait = _DECISIONS_SECONDS

    def _write_metrics(self) -> None:
        """Write metrics every minute, for whoever watches this site."""
        while True:
            try:
                self._meter.write_if_due()
            except Exception:  # a full disk or a locked file: written again soon
                log.exception("the metrics could not be written")
            if self._stopping.wait(_LOOK_SECONDS):
                return

    def _follow_once(self) -> float:
        """Ask once; return after how many seconds to ask again."""
        try:
            with connect(self._home) as api:
                version_news.ask(self._home, api)
                if time.monotonic() >= self._monitors_due:
                    self._monitors_due = time.monotonic() + _LOOK_SECONDS
                    monitor_news.ask(self._home, api)
        except version_news.RefusedListError as error:
            self._log_once("model-states-refused", str(error))
        except monitor_news.RefusedSeriesError as error:
            self._log_once("monitor-refused", str(error))
        except RefusedError as error:  # a coordinator of an earlier version has no such call
            log.info(f"the decisions on models could not be asked for: {error}")
            return _SELDOM_SECONDS
        except FloError as error:
            log.info(f"the decisions on models could not be asked for: {error}")
        return _DECISIONS_SECONDS

    def _serve(self, ledger: Ledger) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            if self._is_closed():
                self._stopping.wait(_CLOSED_SECONDS)
                continue
            try:
                with connect(self._home) as api:
                    renew_when_due(self._home, api)
                    confirm_head(api, ledger)
                    self._countersign(api)
                    self._witness_roster(api)
                    self._settle_ended(api, ledger)
                    self._send_kept(api)
                    notify_steward(self._home, api)
                handler = Handler(
                    self._home,
                    ledger,
                    self._worker,
                    self._run_keys,
                    lambda study: self._settled(study, ledger),
                )
                with closing(handler), self._link() as link:
                    log.info(
                        "connected", extra={"fields": {"url": self._home.read_coordinator().url}}
                    )
                    backoff = Backoff()
                    with self._counted.connection():
                        self._answer_forever(link, handler)
            except (NetworkError, MessageError, UsageError, RefusedError) as error:
                log.info(f"{error}; trying again")
                self._counted.failed += 1
                self._stopping.wait(backoff.next())

    def _answer_forever(self, link: FleetLink, handler: Handler) -> None:
        """Answer until the connection is lost or the site is closed: by an emergency stop, while
        the policy is being edited, or outside the site's hours.

        Disconnect instead of refusing: waiting for us costs partners no attempt, and each refusal
        costs them one.
        """
        look_around = time.monotonic() + _LOOK_SECONDS
        while not self._stopping.is_set():
            asked = time.monotonic()
            try:
                incoming = link.pull()
                if incoming is None and time.monotonic() < asked + _IGNORED_SECONDS:
                    self._stopping.wait(_IGNORED_SECONDS)  # the coordinator did not hold the call
            except MessageError as error:
                log.warning(f"ignored: {error}")
                self._counted.ignored += 1
                self._stopping.wait(_IGNORED_SECONDS)
                incoming = None
            look = incoming is None  # no request came for a while
            if incoming is not None:
                reply = handler.answer(incoming.data)
                if reply is not None:
                    kind = decode_reply(reply).header.kind
                    self._counted.answer(kind)
                    look = kind == "refused"
                    if kind in ("release", "joined", "signed", "revealed"):
                        link.reply(incoming, reply, lambda: refuse_halted(self._home))
                    else:
                        link.reply(incoming, reply)
            if look and self._is_closed():
                return
            if time.monotonic() > look_around:
                self._look_around(link)
                if self._is_closed():
                    return
                look_around = time.monotonic() + _LOOK_SECONDS

    def _is_closed(self) -> bool:
        """Return whether releases are not allowed now; log each change of the reason once."""
        why = self._why_closed()
        if why != self._closed:
            log.warning(f"disconnected: {why}" if why else "connecting again")
            self._closed = why
        self._counted.closed = bool(why)
        return bool(why)

    def _why_closed(self) -> str:
        since = halted(self._home)
        if since is not None:
            return f"everything is stopped here since {since.time}"
        try:
            policy = self._home.read_policy()
        except TrustError as error:  # edited and not signed again yet
            return f"{error} ({error.hint})"
        if not policy.is_open(datetime.now().astimezone()):
            return "outside the hours of this site's policy"
        return ""

    def _look_around(self, link: FleetLink) -> None:
        """Do the periodic tasks: notify, countersign, send extracts, renew the certificate."""
        with connect(self._home) as api:
            notify_steward(self._home, api)
            self._countersign(api)
            self._witness_roster(api)
            self._send_kept(api)
            if renew_when_due(self._home, api):
                link.reload_certificate(context_of(self._home))

    def _send_kept(self, api: CoordinatorApi) -> None:
        """Send extracts that did not arrive; if one is refused for now, try again later."""
        try:
            send_kept(self._home, api)
        except RefusedError as error:
            log.info(f"an extract could not be sent, and will be sent later: {error}")

    def _countersign(self, api: CoordinatorApi) -> None:
        """Countersign. A disagreement is for people to resolve: the ledger protects patients."""
        with closing(self._home.open_audit_log()) as audit_log:
            try:
                cosign(api, audit_log, self._home.read_coordinator())
            except (TrustError, RefusedError, MessageError) as error:
                self._log_once("audit-disagreement", f"audit logs disagree: {error}")

    def _witness_roster(self, api: CoordinatorApi) -> None:
        """Fetch the roster. A disagreement is for people to resolve: approvals name their keys."""
        try:
            roster.fetch(self._home, api)
        except (TrustError, RefusedError, MessageError, UsageError) as error:
            self._log_once("roster-disagreement", f"the roster: {error}")

    def _log_once(self, kind: str, why: str) -> None:
        """Log a disagreement, and enter it in the audit log once, not every minute."""
        log.error(why[:500])
        with closing(self._home.open_audit_log()) as audit_log:
            last = audit_log.last(kind)
            if last is None or last.facts["why"] != why[:500]:
                audit_log.append(kind, why=why[:500])

    def _settle_ended(self, api: CoordinatorApi, ledger: Ledger) -> None:
        """Settle studies that expired, or ended while we were offline, to free reservations."""
        replies = ReplyStore(self._home.directory / "replies", self._home.open_keystore())
        for known in known_studies(api):
            digest = canonical.digest(known.study.encode())
            if not approval_path(self._home, digest).exists():
                continue
            approved = read(self._home, digest)
            if known.status in UNDER_WAY and not is_expired(approved):
                continue
            held = ledger.balance().reservations.get(approved.reservation)
            if held is not None and not held.settled:
                study = approved.read_study()
                settle(ledger, replies, self._home, approved, study)
                self._extract(study, ledger)

    def _link(self) -> FleetLink:
        context = context_of(self._home)
        identity = self._home.open_identity()
        return FleetLink(self._home.read_coordinator().url, context, identity, self._clock)

    def _settled(self, study: Study, ledger: Ledger) -> None:
        self._worker.unload(study.digest)
        self._extract(study, ledger)

    def _extract(self, study: Study, ledger: Ledger) -> None:
        """Sign the extract of a settled study, store it, and send it to the coordinator."""
        document = make_extract(self._home, ledger, study.digest, self._worker.layers)
        keep(self._home, study.digest, document)
        try:
            with connect(self._home) as api:
                send_kept(self._home, api)
                self._countersign(api)
        except FloError as error:
            log.warning(f"the extract is stored here, and will be sent later: {error}")


class Backoff:
    """Waiting time before the next attempt to connect: doubled each time, with jitter.

    At most 2 s in the first minute, at most 30 s later.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._wait = clock, _FIRST_WAIT
        self._began: float | None = None  # first failure to connect

    def next(self) -> float:
        """Return the seconds to wait."""
        self._began = self._clock() if self._began is None else self._began
        soon = self._clock() - self._began < _SOON_SECONDS
        chosen = min(self._wait * random.uniform(0.5, 1.5), _SHORT_WAIT if soon else _LONGEST_WAIT)  # noqa: S311
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        return chosen


class _Stop(BaseException):
    """Raised by the signal handler to end a long poll at once."""
