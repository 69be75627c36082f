"""The site agent's parent process: connect, wait for requests, answer, reconnect, stop cleanly.

It holds the ledger and the network; the warm child holds data, model and GPU. It dials out only,
runs only what is installed here, and releases nothing before the coordinator has confirmed that
this ledger is the newest it knows.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
from types import FrameType

from flo import canonical
from flo.clients.approval import approval_path, confirm_head, is_expired, known_studies, load
from flo.clients.coordinator_api import CoordinatorApi, client_context
from flo.clients.enrol import connect
from flo.clients.extract import extract_path, make_extract
from flo.clients.flower import FleetLink
from flo.clients.handler import Handler, settle
from flo.clients.home import SiteHome
from flo.clients.replies import KeptReplies
from flo.clients.run_keys import RunKeys
from flo.clients.worker import Worker
from flo.errors import FloError, MessageError, NetworkError, UsageError
from flo.files import write_private
from flo.privacy.ledger import Ledger
from flo.study import Study

log = logging.getLogger("flo.clients.agent")

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 2.0


class Agent:
    """One long-lived agent for one site. ``run`` returns after ``stop``."""

    def __init__(self, home: SiteHome, device: str) -> None:
        self._home = home
        self._worker = Worker(device)
        self._run_keys = RunKeys(home.identity())
        self._stopping = threading.Event()

    def stop(self, *_: int | FrameType | None) -> None:
        """End now, at any point: the ledger's write order makes every point safe."""
        if self._stopping.is_set():
            raise KeyboardInterrupt
        self._stopping.set()
        raise _Stop

    def run(self) -> None:
        """Serve until stopped.

        Raises:
            RefusedError: a second agent on the same ledger. TrustError: the ledger was rolled
            back, or the coordinator refuses our certificate.
        """
        with self._home.agent_lock():
            ledger = self._home.ledger()
            self._worker.start()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self.stop)
            try:
                self._serve(ledger)
            except _Stop:
                log.info("stopped")
            finally:
                self._worker.stop()
                ledger.close()

    def _serve(self, ledger: Ledger) -> None:
        wait = _FIRST_WAIT
        while not self._stopping.is_set():
            try:
                with connect(self._home) as api:
                    confirm_head(api, ledger)
                    self._settle_ended(api, ledger)
                    handler = Handler(
                        self._home,
                        ledger,
                        self._worker,
                        self._run_keys,
                        lambda study: self._extract(study, ledger),
                    )
                    with self._link() as link:
                        log.info("connected", extra={"fields": {"url": self._home.coordinator.url}})
                        wait = _FIRST_WAIT
                        self._answer_forever(link, handler)
            except (NetworkError, MessageError, UsageError) as error:
                log.info(f"{error}; trying again")
                self._stopping.wait(wait * random.uniform(0.5, 1.5))  # noqa: S311
                wait = min(wait * 2, _LONGEST_WAIT)

    def _answer_forever(self, link: FleetLink, handler: Handler) -> None:
        while not self._stopping.is_set():
            try:
                incoming = link.pull()
            except MessageError as error:
                log.warning(f"ignored: {error}")
                continue
            if incoming is None:
                continue
            reply = handler.answer(incoming.data)
            if reply is not None:
                link.reply(incoming, reply)

    def _settle_ended(self, api: CoordinatorApi, ledger: Ledger) -> None:
        """Settle studies that ended while we were away or expired, so that no reservation leaks."""
        replies = KeptReplies(self._home.directory / "replies", self._home.replies_keystore())
        for known in known_studies(api):
            digest = canonical.digest(known.study.encode())
            if not approval_path(self._home, digest).exists():
                continue
            approved = load(self._home, digest)
            if known.status in ("offered", "running") and not is_expired(approved):
                continue
            held = ledger.balance().reservations.get(approved.reservation)
            if held is not None and not held.settled:
                study = approved.read_study()
                settle(ledger, replies, self._home, approved, study)
                self._extract(study, ledger)

    def _link(self) -> FleetLink:
        context = client_context(
            (self._home.directory / "ca.pem").read_text(),
            self._home.directory / "certificate.pem",
            self._home.directory / "identity.key",
        )
        return FleetLink(self._home.coordinator.url, context, self._home.identity())

    def _extract(self, study: Study, ledger: Ledger) -> None:
        """Sign the extract of a settled study, keep it, and hand it to the coordinator."""
        document = make_extract(self._home, ledger, study.digest)
        write_private(extract_path(self._home, study.digest), document)
        try:
            with connect(self._home) as api:
                api.call("reports", {"study": study.digest, "extract": document.decode()})
        except FloError as error:
            log.warning(f"the extract is kept here and could not be sent: {error}")


class _Stop(BaseException):
    """Raised by the signal handler so that a long poll ends at once."""
