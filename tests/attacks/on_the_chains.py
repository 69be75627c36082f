"""Attacks on a site's ledger and on both audit logs, as the site sees them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing

from flo.audit.chain import ZERO_HASH, LogExtension, LogHead, chained
from flo.clients.connection.cosigning import confirm_head
from flo.clients.connection.enrolment import connect
from flo.keys.claims import row_statement
from flo.keys.identity import Identity
from flo.keys.roster import Roster
from tests.attacks.attack import Attack, Logged, refusal, shown
from tests.attacks.lying_coordinator import Said, roster_of, shown_roster
from tests.attacks.on_the_agent import says, until
from tests.attacks.stage import SITE, Stage


def rolled_back(stage: Stage) -> Iterable[str]:
    """North's ledger is restored from a copy that is older than its approval."""
    home = stage.homes["north"]
    with (
        closing(sqlite3.connect(home.directory / "ledger.sqlite")) as database,
        closing(sqlite3.connect(":memory:")) as good,
    ):
        database.backup(good)
        database.execute("DELETE FROM rows WHERE sequence > 1")
        for table in ("generations", "salts"):  # an old copy has no later patients either
            database.execute(f"DELETE FROM {table} WHERE row > 1")
        database.commit()
        try:
            with closing(home.open_ledger()) as ledger, connect(home) as api:
                yield from refusal(stage, lambda: confirm_head(api, ledger))
        finally:
            good.backup(database)


def receipt_by_another_key(stage: Stage) -> Iterable[str]:
    def answer(body: bytes) -> Said:
        return Said.document(stage.liar.countersigned(body, Identity.new()))

    return says("audit", answer, "audit logs disagree: this audit-receipt is signed by")(stage)


def forked_audit_log(stage: Stage) -> Iterable[str]:
    """The coordinator shows two first entries of its log, each under its own signature."""
    identity, visits = stage.liar.identity, stage.liar.visits

    def first(digest: str) -> Callable[[bytes], Said]:
        hash_ = chained(ZERO_HASH, digest)
        signature = identity.sign("audit-entry", row_statement(1, hash_))
        head = LogHead(number=1, hash=hash_, signature=signature, public=identity.public.hex())
        growth = LogExtension(head=head, after=0, digests=(digest,)).model_dump()
        return lambda body: Said.document(stage.liar.countersigned(body, identity, growth))

    before = visits.count("/v1/site/audit")
    with stage.liar.saying("audit", first("a" * 64)):  # shown, and countersigned
        assert until(lambda: visits.count("/v1/site/audit") >= before + 2)
    yield from says("audit", first("b" * 64), "audit logs disagree: this audit log was truncated")(
        stage
    )


def roster_with_another_key(stage: Stage) -> Iterable[str]:
    held = stage.liar.roster
    forged = held.joined("north", Identity.new().fingerprint, held.entries[0].time)
    shown = shown_roster(Roster(entries=(*held.entries, forged)))
    return says("roster", Said.document(shown), "another key for north")(stage)


def rewritten_roster(stage: Stage) -> Iterable[str]:
    """An entry that the site has fetched gets another time."""
    shown = shown_roster(roster_of(stage.site.home.open_identity().public, "01"))
    return says("roster", Said.document(shown), "does not continue")(stage)


ATTACKS = (
    Attack(
        "a ledger restored from an old copy",
        rolled_back,
        "TrustError",
        shown(4, "rolled back"),
    ),
    Attack(
        "a receipt that another key signed",
        receipt_by_another_key,
        "refused",
        Logged(SITE, "audit-disagreement", "signed by another key"),
    ),
    Attack(
        "two ends of the coordinator's audit log",
        forked_audit_log,
        "refused",
        Logged(SITE, "audit-disagreement", "was truncated or forked"),
    ),
    Attack(
        "a roster with another key for the site",
        roster_with_another_key,
        "refused",
        Logged(SITE, "roster-disagreement", "another key for north"),
    ),
    Attack(
        "a roster whose entries were rewritten",
        rewritten_roster,
        "refused",
        Logged(SITE, "roster-disagreement", "does not continue"),
    ),
)
