"""``flo site unit`` and ``flo coordinator unit``: a hardened unit for systemd."""

from __future__ import annotations

from typing import Annotated

import typer

from flo.cli import coordinator, results, site
from flo.cli.command import command

User = Annotated[str, typer.Option(help="The user that owns the folder and runs FLO.")]


@command(site.app, "unit")
def site_unit(home: site.Home = site.DEFAULT_HOME, user: User = "flo") -> results.Unit:
    """Print a systemd unit for the agent of this site, locked in as far as an agent can be."""
    from flo.clients.home import SiteHome
    from flo.infra.systemd.units import unit

    device = SiteHome.open(home).config.device
    return _shown(unit("site", home, user, device))


@command(coordinator.app, "unit")
def coordinator_unit(
    home: coordinator.Home = coordinator.DEFAULT_HOME, user: User = "flo"
) -> results.Unit:
    """Print a systemd unit for this coordinator, locked in as far as it can be."""
    from flo.infra.systemd.units import unit
    from flo.server.home import CoordinatorHome

    CoordinatorHome.open(home)
    return _shown(unit("coordinator", home, user))


def _shown(text: str) -> results.Unit:
    from flo.cli.screen import console

    console().out(text, end="", highlight=False)
    return results.Unit(text)
