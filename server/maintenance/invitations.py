"""Invitations: the coordinator's address and key, and a one-time certificate for enrolment."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from flo.keys.identity import Identity
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.keys.authority import BOOTSTRAP_DAYS


def invite(home: CoordinatorHome, hospital: str) -> bytes:
    """Create an invitation file for a hospital.

    It contains a private key that allows one enrolment within a week: treat it like a password. It
    also contains the coordinator's public key, so an attacker who changes the file in transit could
    impersonate the coordinator: both sides compare fingerprints by telephone.
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
