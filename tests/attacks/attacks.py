"""All rows of the table. ``python -m tests.attacks`` prints it for docs/threat-model.md."""

from __future__ import annotations

from tests.attacks import (
    on_the_agent,
    on_the_bodies,
    on_the_certificate,
    on_the_chains,
    on_the_claims,
    on_the_console,
    on_the_handshake,
    on_the_jobs,
    on_the_operator,
    on_the_paths,
    on_the_steward,
)

ATTACKS = (
    *on_the_handshake.ATTACKS,
    *on_the_certificate.ATTACKS,
    *on_the_paths.ATTACKS,
    *on_the_bodies.ATTACKS,
    *on_the_claims.ATTACKS,
    *on_the_operator.ATTACKS,
    *on_the_console.ATTACKS,
    *on_the_jobs.ATTACKS,
    *on_the_agent.ATTACKS,
    *on_the_steward.ATTACKS,
    *on_the_chains.ATTACKS,
)
