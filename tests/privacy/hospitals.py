"""Hospitals that ran studies, for tests of extracts and reports: real sites, no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from flo.clients.agent.handler import Handler
from flo.clients.agent.run_keys import RunKeys
from flo.clients.approvals.approve import approve
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.clients.records.extract import make_extract
from flo.documents import canonical
from flo.keys.claims import LedgerHead
from flo.keys.identity import Identity
from flo.protocol.messages import Request, RequestHeader, decode_reply, model_digest
from flo.study.document import Study
from flo.study.models import parameter_count, request_length
from tests.builders import CountingReleaser, SilentApi, make_site, offered, pretend_enrolled
from tests.partners import claims, encode_request


def run(home: SiteHome, study: Study, rounds: int, homes: list[SiteHome]) -> None:
    """Training rounds and one evaluation, or the one survey, through the site's own handler."""
    known, own = (
        {h.read_config().hospital: h.open_identity() for h in homes},
        home.read_config().hospital,
    )
    heads = {h.read_config().hospital: head_of(h) for h in homes if h is not home}
    length = 0 if study.survey else parameter_count(study)
    times = {"training": rounds}
    steps = [(p, n) for p in study.purposes for n in range(1, times.get(p, 1) + 1)]
    with closing(home.open_ledger()) as ledger:
        handler = Handler(
            home,
            ledger,
            CountingReleaser(max(1, length)),
            RunKeys(home.open_identity()),
            lambda _: None,
        )
        for purpose, round_ in steps:
            weights = np.full(request_length(study, purpose), float(round_))
            header = RequestHeader.model_validate(
                {
                    "study": study.digest,
                    "run": "run-1",
                    "purpose": purpose,
                    "round": round_,
                    "attempt": 1,
                    "cohort": ("north", "south"),
                    "model": model_digest(weights),
                    **claims(
                        handler,
                        ledger,
                        study,
                        ("north", "south"),
                        identities=known,
                        own=own,
                        relayed=heads,
                    ),
                }
            )
            answer = handler.answer(encode_request(Request(header, weights)))
            assert answer is not None
            assert decode_reply(answer).header.kind == "release"


def finish(home: SiteHome, study: Study, heads: dict[str, LedgerHead]) -> None:
    """The run ends: the hospital is shown everyone's head, and settles."""
    with closing(home.open_ledger()) as ledger:
        handler = Handler(
            home, ledger, CountingReleaser(1), RunKeys(home.open_identity()), lambda _: None
        )
        header = RequestHeader(
            kind="finish",
            study=study.digest,
            run="run-1",
            purpose="evaluation",
            round=1,
            attempt=1,
            cohort=tuple(sorted(heads)),
            model=model_digest(np.zeros(0)),
            heads=heads,
        )
        answer = handler.answer(encode_request(Request(header, np.zeros(0))))
        assert answer is not None
        assert decode_reply(answer).header.kind == "settled"


def head_of(home: SiteHome) -> LedgerHead:
    with closing(home.open_ledger()) as ledger:
        return ledger.head()


@dataclass(frozen=True)
class World:
    """Hospitals that have run every one of some studies."""

    homes: list[SiteHome]
    studies: list[Study]

    @classmethod
    def of(
        cls, folder: Path, studies: list[Study], rounds: int, names: tuple[str, ...], life: float
    ) -> World:
        homes = [make_site(folder / name, name, epsilon=life) for name in names]
        return cls.at(homes, studies, rounds, Identity.new())

    @classmethod
    def at(
        cls, homes: list[SiteHome], studies: list[Study], rounds: int, coordinator: Identity
    ) -> World:
        """These hospitals approve and run the studies that this coordinator signs."""
        offers = [offered(study, homes, coordinator) for study in studies]
        for home in homes:
            pretend_enrolled(home, coordinator)
            for offer in offers:
                api = cast(CoordinatorApi, SilentApi())
                approve(home, api, offer, home.read_config().population(None))
                run(home, offer.study, rounds, homes)
        return cls(homes, [offer.study for offer in offers])

    def extract(self, site: int = 0, study: int = 0) -> bytes:
        home = self.homes[site]
        with closing(home.open_ledger()) as ledger:
            return make_extract(home, ledger, self.studies[study].digest)

    def forged(
        self, change: Callable[[dict[str, Any]], None], site: int = 0, *, decision: bool = False
    ) -> bytes:
        """An extract that the hospital itself changed and signed again, with its ``decision``."""
        body = json.loads(self.extract(site))["body"]
        change(body)
        identity = self.homes[site].open_identity()
        if decision:
            body["decision_signature"] = identity.sign("approval", body["decision"].encode())
        signature = identity.sign("extract", canonical.encode(body))
        return canonical.encode({"body": body, "signature": signature})
