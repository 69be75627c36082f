"""Invitations: where to go, whom to trust, and a one-time certificate to enrol with."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from flo.keys.identity import Identity
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.keys.authority import BOOTSTRAP_DAYS


def invite(home: CoordinatorHome, hospital: str) -> bytes:
    """An invitation file.

    It holds a private key that opens enrolment once, for a week: pass it on like a password. It
    also holds the coordinator's public key, so whoever could change the file on its way could pose
    as the coordinator: both sides compare fingerprints by telephone.
    """
    bootstrap = Identity.new()
    certificate, serial = home.open_authority().issue_client(
        hospital, "bootstrap", bootstrap.key.public_key()
    )
    with home.recording() as store:
        store.add_invitation(serial, hospital)
        store.add_event(None, "invited", hospital=hospital, certificate=serial)
    config = home.read_config()
    return json.dumps(
        {
            "schema_version": 1,
            "hospital": hospital,
            "url": f"https://{config.host}:{config.port}",
            "coordinator": home.open_identity().public.hex(),
            "ca": home.ca_path.read_text(),
            "certificate": certificate.decode(),
            "key": bootstrap.pem().decode(),
            "expires": (datetime.now(UTC) + timedelta(days=BOOTSTRAP_DAYS)).isoformat(
                timespec="seconds"
            ),
        },
        indent=1,
    ).encode()
