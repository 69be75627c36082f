"""A site whose steward is told of studies, and a coordinator that offers them."""

from __future__ import annotations

import json
import shlex
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.offers import Offered
from flo.clients.inbox.inbox import decided, notify_steward
from flo.keys.identity import Identity
from flo.study.document import Study
from tests.builders import SilentApi, offered
from tests.clients.approving_site import COORDINATOR, enrolled_site


@dataclass
class Listing(SilentApi):
    """A coordinator that lists studies."""

    listed: list[dict[str, str]] = field(default_factory=list)
    steps: list[Any] = field(default_factory=list)
    calls: list[tuple[str, Any]] = field(default_factory=list)

    def call(self, name: str, body: Any) -> Any:
        answer = super().call(name, body)
        keys = {"schema_version": 1, "steps": self.steps}
        return {"studies": self.listed, "keys": keys}.get(name, answer)


class Steward:
    """A site, a coordinator that offers studies, and what the site's command was told."""

    def __init__(self, folder: Path) -> None:
        self.site, self.api = enrolled_site(folder), Listing()
        self.home, self.heard = self.site.home, folder / "heard"

    def commands(self, *command: str) -> None:
        """Name the command in site.toml."""
        self.site.edit_config("notify = []", f"notify = {json.dumps(command)}")

    def listens(self) -> None:
        """The command writes down its arguments and its standard input."""
        told = f"{{ echo $#; cat; echo; }} >> {shlex.quote(str(self.heard))}"
        self.commands("/bin/sh", "-c", told, "steward")

    def offers(
        self, study: Study, *, status: str = "offered", signer: Identity = COORDINATOR
    ) -> Offered:
        offer = offered(study, [self.home], signer)
        text, signature = offer.study.canonical_bytes.decode(), offer.signature
        self.api.listed.append({"study": text, "signature": signature, "status": status})
        return offer

    def looks(self) -> None:
        """The agent looks around."""
        notify_steward(self.home, cast(CoordinatorApi, self.api))

    def told(self) -> list[dict[str, Any]]:
        lines = self.heard.read_text().splitlines() if self.heard.exists() else []
        assert lines[::2] == ["0"] * (len(lines) // 2)  # no argument but the command's own
        return [json.loads(line) for line in lines[1::2]]

    def entries(self) -> list[dict[str, Any]]:
        with closing(self.home.open_audit_log()) as log:
            return [
                {"study": entry.study, **entry.facts}
                for entry in log.entries()
                if entry.kind == "steward-told"
            ]

    def decided(self, offer: Offered) -> str:
        return decided(self.home, offer.study.digest)
