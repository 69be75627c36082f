"""The victims: a real coordinator with three hospitals, a site, and a coordinator that lies."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # flwr 1.42 imports typer and pathspec names that their newest releases deprecate.
    warnings.simplefilter("ignore", DeprecationWarning)
    import flo.clients.flower
    import flo.server.superlink  # noqa: F401
