"""A site that approves or refuses, and tells nothing when it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from flo.clients.approvals.approve import approve, dry_run_approval
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.offers import Offered
from flo.clients.home.policy import Policy
from flo.clients.home.policy_file import sign, write_toml
from flo.clients.home.site_home import SiteHome
from flo.clients.records.approval import Approval
from flo.errors import FloError
from flo.keys.identity import Identity
from flo.study.document import Study
from tests.builders import SilentApi, make_site, offered, pretend_enrolled, small_study

COORDINATOR = Identity.new()


@dataclass
class Site:
    """A site of ``north``, enrolled at COORDINATOR, and what it told the coordinator."""

    home: SiteHome
    api: SilentApi

    def offer(self, study: Study | None = None) -> Offered:
        return offered(study or small_study(), [self.home], COORDINATOR)

    def approve(
        self, offer: Offered, population: str = "main", *, if_broken: bool = False
    ) -> Approval:
        api, patients = (
            cast(CoordinatorApi, self.api),
            self.home.read_config().population(population),
        )
        return approve(self.home, api, offer, patients, if_broken=if_broken)

    def dry_run(
        self, offer: Offered, population: str = "main", *, if_broken: bool = False
    ) -> list[tuple[str, str]]:
        api, patients = (
            cast(CoordinatorApi, self.api),
            self.home.read_config().population(population),
        )
        return dry_run_approval(self.home, api, offer, patients, if_broken=if_broken)

    def kinds(self) -> list[str]:
        ledger = self.home.open_ledger()
        found = [str(row.public["kind"]) for row in ledger.rows()]
        ledger.close()
        return found

    def approved(self) -> list[Path]:
        return list((self.home.directory / "approved").glob("*.json"))

    def heads(self) -> list[tuple[str, Any]]:
        """The calls that compare our head with what others saw of us, and show it."""
        ledger = self.home.open_ledger()
        head = ledger.head().model_dump(mode="json")
        ledger.close()
        return [("heads", {"head": None}), ("heads", {"head": head})]

    def refuses(
        self,
        offer: Offered,
        error: type[FloError],
        why: str,
        name: str = "main",
        *,
        heads: bool = False,
        if_broken: bool = False,
    ) -> None:
        """``approve`` raises ``error``, and so does its dry run; nothing was changed or told.

        ``heads``: the refusal needs the ledger or the data. Before either the head is confirmed,
        so that what is called tells nothing of the data.
        """
        before = self.kinds(), self.approved()
        for said in (self.dry_run, self.approve):
            calls = [*self.api.calls, *(self.heads() if heads else [])]
            with pytest.raises(error, match=why):
                said(offer, name, if_broken=if_broken)
            assert before == (self.kinds(), self.approved())
            assert self.api.calls == calls

    def allow(self, **rules: Any) -> None:
        """Put a policy with these rules in force."""
        write_toml(self.home.directory / "policy.toml", Policy.model_validate(rules))
        sign(self.home.directory, self.home.open_identity())

    def edit_config(self, old: str, new: str) -> None:
        text = self.home.config_path.read_text()
        assert old in text
        self.home.config_path.write_text(text.replace(old, new))


def enrolled_site(folder: Path) -> Site:
    home = make_site(folder)
    pretend_enrolled(home, COORDINATOR)
    return Site(home, SilentApi())
