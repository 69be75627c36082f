"""Parties that keep something: a site's handler and files, and the coordinator's calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from flo.audit.chain import ZERO_HASH, LogHead, Receipt, chained
from flo.clients.connection.enrolment import request
from flo.clients.records import approval
from flo.documents import canonical
from flo.errors import RefusedError
from flo.keys.claims import row_statement
from flo.keys.identity import Identity
from flo.keys.roster import RosterStatement
from flo.keys.rotation import KeyRotation
from flo.protocol.decisions import Approve, Signed
from flo.protocol.messages import decode_reply
from flo.server.api.site_api import SITE_CALLS, SiteApi
from flo.server.audit.rate_limited import RateLimitedAudit
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.keys.authority import Peer, read_peer
from flo.server.studies.signing import StudySigner
from tests.attacks.fuzz import Accepted, Target
from tests.attacks.fuzz_documents import mended, signed_body
from tests.attacks.state import coordinator_state, site_state
from tests.builders import small_study
from tests.clients.approved_site import Site
from tests.partners import signed


def handler(site: Site) -> Target:
    """A site that answered round 1: a changed request gets a code, or it is a good one as well."""
    seeds = [site.request(), site.request(kind="join"), site.request(round=2)]

    def answer(data: bytes) -> None:
        reply = site.handler.answer(data)
        if reply is None:
            raise RefusedError("not a request")
        header = decode_reply(reply).header
        if header.kind == "refused":
            raise RefusedError(str(header.code))

    return Target("handler", seeds, answer, state=lambda: site_state(site.home))


# -- a site's files ------------------------------------------------------------------------------


def files(site: Site) -> Iterator[Target]:
    home = site.home
    path = approval.approval_path(home, site.study.digest)
    kept = approval.load(home, site.study.digest)

    def load(data: bytes) -> None:
        path.write_bytes(data)
        if approval.load(home, site.study.digest) != kept:
            raise Accepted("a changed approval")

    def in_force(name: str) -> Callable[[bytes], None]:
        good, place = home.read_policy(), home.directory / name

        def read(data: bytes) -> None:
            place.write_bytes(data)
            if home.read_policy() != good:
                raise Accepted("a changed policy")

        return read

    yield from restored(Target("approval file", [path.read_bytes()], load), path)
    for name in ("policy.signed.json", "policy.toml"):
        place = home.directory / name
        yield from restored(Target(f"file {name}", [place.read_bytes()], in_force(name)), place)


def restored(target: Target, path: Path) -> Iterator[Target]:
    """The target, and the file as it was after each reading."""
    good = path.read_bytes()

    def read(data: bytes) -> None:
        try:
            target.read(data)
        finally:
            path.write_bytes(good)

    yield Target(target.name, target.seeds, read, target.mend)


# -- the coordinator's calls ---------------------------------------------------------------------


class Calls:
    """The coordinator's own calls, over a store with two hospitals and a study on offer."""

    def __init__(self, folder: Path, home: CoordinatorHome) -> None:
        self.home, self.store, self.log = home, home.open_store(), home.open_audit_log()
        self.api = SiteApi(
            self.store,
            home.open_authority(),
            home.open_identity(),
            self.log,
            KeyRotation(steps=()),
            lambda member: None,
            RateLimitedAudit(self.store),
        )
        self.north, self.south = Identity.new(), Identity.new()
        self.guest = Identity.new()
        self.peers = {"north": self._enrol("north", self.north)}
        self._enrol("south", self.south), self._enrol("west", Identity.new())
        offer = StudySigner(home, self.store).offer(small_study(), "tests")
        self.study = offer.study

    def close(self) -> None:
        self.store.close()
        self.log.close()

    def _bootstrap(self, name: str) -> Peer:
        key = Identity.new()
        pem, serial = self.home.open_authority().issue_client(
            name, "bootstrap", key.key.public_key()
        )
        self.store.add_invitation(serial, name)
        return _peer(pem)

    def _enrol(self, name: str, identity: Identity) -> Peer:
        body = canonical.encode({"request": request(name, identity)})
        reply = self.api.call("/v1/site/enrol", self._bootstrap(name), body)
        return _peer(reply["certificate"].encode())

    def targets(self) -> Iterator[Target]:
        for path, (peer, seeds) in self._seeds().items():
            yield Target(path, seeds, self._calls(path, peer), mended(self._resigned), self.state)

    def state(self) -> object:
        return coordinator_state(self.home.directory)

    def _calls(self, path: str, peer: Peer) -> Callable[[bytes], None]:
        def call(body: bytes) -> None:
            canonical.encode(self.api.call(path, peer, body))

        return call

    def _seeds(self) -> dict[str, tuple[Peer, list[bytes]]]:
        north, head = self.peers["north"], signed(self.north, 3)
        decision = Signed.by(
            self.north, Approve(study=self.study.digest, hospital="north", time="now", head=head)
        )
        own = {"hospital": "north", "study": self.study.canonical_bytes.decode(), "rows": []}
        extract = canonical.encode(
            signed_body(self.north, "extract")({"body": own | {"public": self.north.public.hex()}})
        )
        shown, hash_ = self.log.growth(()), chained(ZERO_HASH, "d" * 64)
        assert shown is not None
        receipt = Receipt.given(self.north, shown.head).model_dump()
        roster = self.store.roster().roster.digest
        statement = RosterStatement.signed(self.north, "north", 1, roster, ("south",))
        own_head = signed_entry(self.north, 1, hash_)
        bodies: dict[str, list[Any]] = {
            "enrol": [{"request": request("guest", self.guest)}],
            "studies": [{}],
            "approvals": [decision.model_dump()],
            "heads": [{"head": head.model_dump()}, {"head": None}],
            "reports": [{"study": self.study.digest, "extract": extract.decode()}],
            "models": [{"study": self.study.digest}],
            "renew": [{"request": request("north", self.north)}],
            "audit": [
                {"growth": None, "receipt": receipt},
                {"growth": {"head": own_head, "after": 0, "digests": ["d" * 64]}},
            ],
            "keys": [{}],
            "leave": [{}],
            "given": [{"after": ""}, {"after": "a" * 64}],
            "software": [{}],
            "roster": [
                {"statement": None, "known": roster},
                {"statement": statement.model_dump(mode="json"), "known": roster},
            ],
            "states": [{"known": "a" * 64}],
            "monitor": [{"card": "a" * 64, "known": ["b" * 64]}],
        }
        assert {f"/v1/site/{name}" for name in bodies} == set(SITE_CALLS)
        peers = {"enrol": self._bootstrap("guest")}
        return {
            f"/v1/site/{name}": (peers.get(name, north), [canonical.encode(b) for b in found])
            for name, found in bodies.items()
        }

    def _resigned(self, body: dict[str, Any]) -> dict[str, Any]:
        """A hospital's own lie: an approval or an extract that it signed again."""
        if "document" in body:
            return body | {"signature": self.north.sign("approval", body["document"].encode())}
        document = json.loads(body["extract"])
        extract = canonical.encode(signed_body(self.north, "extract")(document))
        return body | {"extract": extract.decode()}


def _peer(pem: bytes) -> Peer:
    return read_peer(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER))


def signed_entry(identity: Identity, number: int, hash_: str) -> dict[str, Any]:
    """The head of an audit log that ``identity`` made up."""
    signature = identity.sign("audit-entry", row_statement(number, hash_))
    public = identity.public.hex()
    return LogHead(number=number, hash=hash_, signature=signature, public=public).model_dump()
