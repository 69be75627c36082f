"""Replacement of the coordinator's identity key: the old key signs over to a new one.

Each step names an old and a new public key and is signed by both, so that a site that trusts any
key of the chain can follow it. The steward still compares the newest fingerprint by telephone
before the site accepts its signatures. If the old key may be compromised, the chain is no proof:
create a new coordinator and invite all hospitals again.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from flo.errors import FloError, RefusedError
from flo.keys.identity import Identity
from flo.keys.rotation import KeyRotation, RotationStep
from flo.server.home.coordinator_home import CoordinatorHome, sign_events
from flo.server.store.store import Store
from flo.server.studies.publish import (
    has_result,
    published,
    published_result,
    write_card,
    write_result,
)
from flo.storage.files import write_public
from flo.study.document import UNDER_WAY


def replace_key(home: CoordinatorHome) -> RotationStep:
    """Create a new identity key, sign over to it, and issue a new listeners' certificate.

    Earlier signatures still verify with the old key. Tokens and open invitations become invalid.
    The new key is stored next to the old one until all other steps are done: running the command
    again finishes an interrupted replacement.

    Raises:
        RefusedError: the key is in KMS, the coordinator is running, or a study is under way: all of
        its hospitals must have approved it under one key.
    """
    if home.read_config().signing_key is not None:
        raise RefusedError(
            "the coordinator's key is in KMS: FLO cannot replace it",
            hint="if it must be replaced, create a new coordinator and invite all hospitals again",
        )
    with home.serving():
        old, kept = home.open_tls_identity(), home.next_key_path
        with closing(home.open_store()) as store:
            _refuse_under_way(store)
            if not kept.exists():
                _sign_what_waits(home, store)
                Identity.new().save(kept, home.open_keystore())
            new = Identity.load(kept, home.open_keystore())
            step = RotationStep.signed(old, new, datetime.now(UTC).isoformat(timespec="seconds"))
            with closing(home.open_audit_log()) as log:
                if log.owner == step.old:
                    sign_events(store, log)  # may change the owner
                if log.owner == step.old:
                    store.add_event(None, "key-replaced", old=step.old, new=step.new)
                    sign_events(store, log)
        earlier = tuple(before for before in home.read_succession().steps if before.new != step.new)
        document = KeyRotation(steps=(*earlier, step)).to_bytes()
        write_public(home.succession_path, document)
        home.issue_certificate(new)
        kept.replace(home.key_path)
        with home.recording() as store:
            store.end_all_invitations()  # they contain the old key
            store.add_event(None, "key-in-use", fingerprint=new.fingerprint)
    return step


def _refuse_under_way(store: Store) -> None:
    under_way = [o.study.name for o in store.offers() if o.status in UNDER_WAY]
    if under_way:
        raise RefusedError(
            f"studies are under way under the current key: {', '.join(under_way)}",
            hint="wait for their end, or stop them: flo study stop STUDY",
        )


def _sign_what_waits(home: CoordinatorHome, store: Store) -> None:
    """Sign pending events and model cards, the old key's last signatures."""
    for offer in store.offers():
        record = store.last_run(offer.study.digest)
        result = (record.result or {}) if record else {}
        there = Path(str(result.get("model", ""))).is_file()  # not fetched yet, or shredded
        if record and there and not published(store, offer.study.digest):
            study = offer.study.digest
            shown = store.extracts(study), store.study_heads(study)
            write_card(home, offer, record.id, result, *shown)
        if record and has_result(result) and not published_result(store, record.study):
            shown = store.extracts(record.study), store.study_heads(record.study)
            try:
                path = write_result(home, offer, record.id, result, *shown)
            except FloError as error:  # as the running coordinator found, too: it is not published
                store.add_event(record.study, "no-card", why=str(error))
                continue
            store.add_event(record.study, "published", card=str(path))
    with closing(home.open_audit_log()) as log:
        sign_events(store, log)
