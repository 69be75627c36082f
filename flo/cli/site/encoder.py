"""``flo site encoder``: the frozen encoders that a hospital installed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flo.cli.site import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder

app = typer.Typer()


@command(app)
def encoder(
    file: Annotated[
        Path | None, typer.Argument(help="An ONNX file to install; without one, list all.")
    ] = None,
    home: SiteFolder = SITE_FOLDER,
) -> results.EncodersResult:
    """Install a frozen encoder, after trying it out in a confined process; or list them."""
    from flo.cli.terminal.output import plain, say, working
    from flo.clients.data_process.encoding import in_words, install, installed
    from flo.clients.home.site_home import SiteHome

    opened = SiteHome.open(home)
    allowed = opened.read_policy().encoders
    if file is None:
        found = installed(opened.encoders_path)
        for one in found:
            say(f"{one}  {'allowed' if one in allowed else 'not allowed'} by policy.toml")
        if not found:
            say("no encoder is installed: flo site encoder FILE installs one")
        return results.EncodersResult(found)
    with working("trying the encoder out"):
        digest, facts = install(opened, file)
    say(plain(f"{file.name}: {in_words(facts)}"))
    say(f"installed: {digest}")
    if digest not in allowed:
        say(
            f'to allow it, add "{digest}" to `encoders` in policy.toml; then flo site policy --sign'
        )
    return results.EncodersResult([digest])
