"""A site that lives through all that it can do, without a network, and what it says on the way."""

from __future__ import annotations

import json
import ssl
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.audit.chain import LogExtension, Receipt
from flo.audit.log import AuditLog
from flo.clients.agent.agent import Agent
from flo.clients.agent.handler import Handler
from flo.clients.agent.run_keys import RunKeys
from flo.clients.approvals import roster
from flo.clients.approvals.approve import approve, terms_of
from flo.clients.approvals.approvers import add_approver
from flo.clients.approvals.decline import refuse
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.cosigning import cosign
from flo.clients.connection.enrolment import (
    accept_coordinator,
    connect,
    enrol,
    leave,
    renew_when_due,
)
from flo.clients.home.policy import Person, Policy
from flo.clients.home.policy_file import sign, write_toml
from flo.clients.home.site_home import RESTORED
from flo.clients.maintenance.doctor_network import check_coordinator
from flo.clients.maintenance.recover import recover
from flo.clients.prediction import monitor_news, version_news
from flo.clients.prediction.fetched_models import fetch
from flo.documents import canonical
from flo.documents.canonical import Bytes
from flo.errors import FloError
from flo.host.diagnostics import could_run
from flo.host.environment import software
from flo.keys.identity import Identity
from flo.keys.keystore import LocalKeyStore
from flo.keys.roster import Roster
from flo.privacy.ledger.ledger import Ledger
from flo.protocol.messages import Request, RequestHeader, model_digest
from flo.published.model_states import ModelVersion
from flo.server.keys.authority import Authority
from flo.study.document import Study
from tests.builders import (
    CountingReleaser,
    counting,
    make_site,
    offered,
    small_study,
    study_document,
)
from tests.flo.published.test_monitor_series import result
from tests.monitored import period
from tests.partners import claims, encode_request, join, run_key, signed

TIME = "2026-11-28T12:00:00.000+00:00"


class Overheard(Handler):
    """A handler whose answers are written down."""

    heard: list[bytes]

    def answer(self, data: Bytes) -> bytes | None:
        reply = super().answer(data)
        if reply is not None:
            self.heard.append(reply)
        return reply


class WholeLife:
    """One site, from its invitation to its last extract.

    ``said``: calls of the coordinator, name and body. ``replies``: answers to requests.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[tuple[str, Any]] = []
        self.replies: list[bytes] = []
        self.listed: list[dict[str, str]] = []
        self.seen = 0
        self.coordinator, self.partner = Identity.new(), Identity.new()
        self.person = Identity.new()
        self.home = make_site(folder)
        ca = folder / "ca"
        ca.mkdir()
        self.authority = Authority.create(ca, LocalKeyStore(ca / "keystore.key"))
        self.log = AuditLog(ca / "audit.sqlite", self.coordinator)
        self.log.append("begun")
        monkeypatch.setattr(
            CoordinatorApi, "call", lambda _, name, body, **_more: self._hear(name, body)
        )
        monkeypatch.setattr(
            "flo.clients.connection.enrolment.client_context",
            lambda *_: ssl.create_default_context(),
        )

    def _hear(self, name: str, body: Any) -> Any:
        self.said.append((name, json.loads(canonical.encode(body))))
        known = {"heads": {"head": None}, "studies": self.listed, "keys": {"steps": []}}
        known["given"] = {"given": []}
        known["states"] = {"states": None}
        known["roster"] = {"roster": {"roster": self.roster().model_dump(mode="json")}}
        known["software"] = {"software": software(), "time": datetime.now(UTC).isoformat()}
        if name in ("enrol", "renew"):
            key = self.home.open_identity().key.public_key()
            pem, _ = self.authority.issue_client("north", "site", key)
            return {"certificate": pem.decode(), "coordinator": self.coordinator.public.hex()}
        if name == "audit":
            return self._countersigned(body)
        if name == "monitor":
            first = result(period(card=body["card"]), 0.0, identity=self.coordinator)
            return {"result": None if body["known"] else first.model_dump(mode="json")}
        return known.get(name, {})

    def roster(self) -> Roster:
        """The roster of this hospital and its partner."""
        made, keys = Roster(), {"north": self.home.open_identity(), "south": self.partner}
        for name, identity in keys.items():
            made = Roster(entries=(*made.entries, made.joined(name, identity.fingerprint, TIME)))
        return made

    def _countersigned(self, body: Any) -> Any:
        receipt = None
        if body.get("growth"):
            head = LogExtension.model_validate(body["growth"]).head
            self.seen, receipt = head.number, Receipt.given(self.coordinator, head)
        growth = self.log.growth(())
        assert growth is not None
        return {
            "receipt": receipt and receipt.model_dump(mode="json"),
            "growth": growth.model_dump(mode="json"),
            "seen": self.seen,
        }

    def live(self) -> None:
        self._enrol()
        with connect(self.home) as api, closing(self.home.open_audit_log()) as log:
            renew_when_due(self.home, api, days=1000)
            cosign(api, log, self.home.read_coordinator())
            accept_coordinator(self.home, api, self.coordinator.fingerprint)
            roster.confirm(self.home, api, self.roster().digest, ("south",))
        assert could_run(check_coordinator(self.home, issuer=""))
        with connect(self.home) as api:
            refuse(self.home, api, "a" * 64, "Not now.")
        for study in _studies():
            if study.statistics:
                self._name_people()
            offer = offered(self._with_partner(study), [self.home], self.coordinator)
            with connect(self.home) as api:
                patients = self.home.read_config().population(None)
                terms = terms_of(self.home, offer.study, patients, if_broken=False)
                person = self.person if study.statistics else None
                people = add_approver(self.home, offer.study, terms, person)
                approve(self.home, api, offer, patients, people=people)
            with closing(self.home.open_ledger()) as ledger:
                self._answer(offer.study, ledger)
                agent = Agent(self.home, "cpu")
                agent._worker._layers = {"seccomp": True}  # as a child would have said
                with connect(self.home) as api:
                    agent._settle_ended(api, ledger)
                agent._extract(offer.study, ledger)
        text, signature = offer.study.canonical_bytes.decode(), offer.signature
        self.listed = [{"study": text, "signature": signature, "status": "done"}]
        with connect(self.home) as api, pytest.raises(FloError):  # it asks, and gets none
            fetch(self.home, api, offer.study.name, self.home.directory)
        with connect(self.home) as api:
            version_news.ask(self.home, api)
            version = ModelVersion(version=1, study="a" * 64, card="b" * 64)
            assert monitor_news.fetch(self.home, api, version)
            (self.home.directory / RESTORED).touch()  # as if it came out of a backup
            recover(self.home, api)
            leave(self.home, api)
        self.log.close()

    def _enrol(self) -> None:
        invitation = {
            "schema_version": 1,
            "hospital": "north",
            "url": "https://127.0.0.1:1",
            "coordinator": self.coordinator.public.hex(),
            "ca": "",
            "certificate": "",
            "key": "",
            "expires": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
        }
        path = self.home.directory / "invitation.json"
        path.write_bytes(canonical.encode(invitation))
        enrol(self.home, path)

    def _name_people(self) -> None:
        """From now on the policy names who approves."""
        ada = Person(name="Ada", role="steward", public=self.person.public.hex())
        write_toml(self.home.directory / "policy.toml", Policy(people=(ada,)))
        sign(self.home.directory, self.home.open_identity())

    def _with_partner(self, study: Study) -> Study:
        return study.with_fingerprints({"south": self.partner.fingerprint})

    def _answer(self, study: Study, ledger: Ledger) -> None:
        """A call to join, a release of every purpose, a repeat, a refusal, the end."""
        handler = Overheard(
            self.home,
            ledger,
            CountingReleaser(6),
            RunKeys(self.home.open_identity()),
            lambda _: None,
        )
        handler.heard = self.replies
        _, key = run_key(self.partner, study.digest)
        join(handler, study, keys={"south": key})
        head = len(self.replies) + 1
        requests = [(purpose, 1, "release") for purpose in study.purposes]
        requests += [(study.purposes[0], 2, "release"), (study.purposes[0], 1, "finish")]
        for purpose, attempt, kind in [*requests, (study.purposes[0], 9, "release")]:
            weights = np.zeros(0 if study.statistics else 6)
            header = RequestHeader.model_validate(
                {
                    "kind": kind,
                    "study": study.digest,
                    "run": "run-1",
                    "purpose": purpose,
                    "round": 1,
                    "attempt": attempt,
                    "cohort": ("north", "south"),
                    "model": model_digest(weights),
                    **claims(
                        handler,
                        ledger,
                        study,
                        ("north", "south"),
                        identities={"south": self.partner},
                        relayed={"south": signed(self.partner, head)},
                    ),
                }
            )
            handler.answer(encode_request(Request(header, weights)))


def _studies() -> list[Study]:
    sampled = study_document(name="sampled")
    sampled["mechanism"] |= {"sampling": 0.5, "epsilon": 0.3, "masking": "on"}
    sampled["evaluation"] |= {"subgroups": ["ward"], "epsilon": 0.3}
    asked = counting(small_study(), 0.3, ["ward"])
    newer = study_document(name="newer", schema_version=4)
    newer["mechanism"]["epsilon"] = newer["evaluation"]["epsilon"] = 0.3
    return [small_study(**sampled), small_study(**newer), asked]
