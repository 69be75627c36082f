"""`flo site`: commands of a hospital."""

from __future__ import annotations

from flo.cli.site import backup, desk, encoder, mapping, policy, roster, setup, steward

PARTS = (
    setup.app,
    roster.app,
    steward.app,
    policy.app,
    encoder.app,
    mapping.app,
    desk.app,
    backup.app,
)
"""In the order of ``flo site --help``."""
