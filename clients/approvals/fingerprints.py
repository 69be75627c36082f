"""Partners whose keys the steward has confirmed: on one call, by telephone or in person.

A study names every partner's fingerprint, but the coordinator wrote the study. Only the hospital
itself can confirm that the key is its own. Under distributed noise the partners' noise protects a
patient, so their identity matters: with more than b of them unconfirmed (b: the study's
``colluders``), the coordinator could be all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from flo.clients.home.site_home import SiteHome
from flo.documents.document import Document, parse, read_json
from flo.errors import PolicyError, TrustError, UsageError
from flo.keys.claims import Digest
from flo.keys.identity import format_fingerprint, parse_fingerprint
from flo.storage.files import write_private
from flo.study.document import Study
from flo.study.terms import Identifier

_LIMIT = 1 << 20


class AddressBook(Document):
    """Confirmed fingerprints by hospital: ``partners.json`` in the site's folder."""

    schema_version: Literal[1] = 1
    confirmed: dict[Identifier, Digest] = Field(default_factory=dict)

    @classmethod
    def load(cls, home: SiteHome) -> AddressBook:
        """Load the site's address book; it is empty if there is no file yet."""
        path = home.directory / "partners.json"
        if not path.exists():
            return cls()
        return read_json(cls, path, limit=_LIMIT)

    @classmethod
    def confirm(cls, home: SiteHome, entries: dict[str, str]) -> AddressBook:
        """Store fingerprints as they were read out, and enter them in the audit log.

        Spaces and letter case do not matter.

        Raises:
            UsageError: not a fingerprint.
        """
        plain = {name: parse_fingerprint(text) for name, text in entries.items()}
        with home.partners_lock():
            document = {"schema_version": 1, "confirmed": {**cls.load(home).confirmed, **plain}}
            book = parse(AddressBook, document, "fingerprints (64 hexadecimal digits each)")
            write_private(home.directory / "partners.json", book.to_bytes())
        for hospital in entries:
            home.record(
                "partner-confirmed", hospital=hospital, fingerprint=book.confirmed[hospital]
            )
        return book

    @classmethod
    def forget(cls, home: SiteHome, hospital: str) -> AddressBook:
        """Take back a confirmation. Raises UsageError if there is none."""
        with home.partners_lock():
            confirmed = dict(cls.load(home).confirmed)
            if confirmed.pop(hospital, None) is None:
                raise UsageError(f"no key of {hospital!r} is confirmed here")
            book = AddressBook(confirmed=confirmed)
            write_private(home.directory / "partners.json", book.to_bytes())
        home.record("partner-forgotten", hospital=hospital)
        return book

    def unconfirmed(self, study: Study, hospital: str) -> list[str]:
        """Return partners in the study whose fingerprints were not compared.

        Raises:
            TrustError: the study names a key for a partner that differs from the compared one.
        """
        missing = []
        for partner in study.hospitals:
            if partner.id == hospital:
                continue
            known = self.confirmed.get(partner.id)
            if known is None:
                missing.append(partner.id)
            elif known != partner.fingerprint:
                raise TrustError(
                    f"the study names another key for {partner.id} than the one you compared: "
                    f"{format_fingerprint(partner.fingerprint)}",
                    hint=f"ask {partner.id} by telephone; if its key really changed: "
                    f"flo site confirm {partner.id}=FINGERPRINT",
                )
        return missing


def refuse_strangers(study: Study, unconfirmed: Sequence[str], *, if_broken: bool) -> None:
    """Check the number of unconfirmed partners under distributed noise. Raises PolicyError."""
    if study.mechanism.noise == "local" or if_broken or len(unconfirmed) <= study.colluders:
        return
    raise PolicyError(
        f"{len(unconfirmed)} partners are unconfirmed ({', '.join(unconfirmed)}), and this study's "
        f"distributed noise protects against at most {study.colluders} colluding partners",
        hint="confirm all keys on one call: flo site roster (or one by one: flo site confirm); "
        "or approve with --as-if-broken, which charges ε as if the coordinator saw every upload",
    )


def parse_entries(texts: list[str]) -> dict[str, str]:
    """Parse ``HOSPITAL=FINGERPRINT`` arguments. Raises UsageError."""
    entries = {}
    for text in texts:
        hospital, found, fingerprint = text.partition("=")
        if not found:
            raise UsageError(f"{text!r} is not HOSPITAL=FINGERPRINT")
        entries[hospital.strip()] = fingerprint
    return entries
