"""``flo site encoder``: frozen encoders, and frozen layers' numbers, that are installed."""

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
        Path | None,
        typer.Argument(
            help="To install: ONNX, tokenizer.json, or a pack's .safetensors; without one, list."
        ),
    ] = None,
    home: SiteFolder = SITE_FOLDER,
) -> results.EncodersResult:
    """Install a frozen encoder, its tokenizer, or a pack's frozen numbers, after a try; or list."""
    from flo.cli.terminal.output import plain, say, working
    from flo.clients.data_process.encoding import install, installed, installed_numbers
    from flo.clients.home.site_home import SiteHome

    opened = SiteHome.open(home)
    allowed = opened.read_policy().encoders
    if file is None:
        found = installed(opened.encoders_path)
        for one in found:
            say(f"{one}  {'allowed' if one in allowed else 'not allowed'} by policy.toml")
        numbers = installed_numbers(opened.encoders_path)
        for one in numbers:
            say(f"{one}  numbers of frozen layers, allowed with the pack that names them")
        if not found + numbers:
            say("no encoder is installed: flo site encoder FILE installs one")
        return results.EncodersResult(found + numbers)
    with working("trying the file out"):
        digest, states = install(opened, file)
    say(plain(f"{file.name}: {states}"))
    say(f"installed: {digest}")
    if digest in installed(opened.encoders_path) and digest not in allowed:
        say(
            f'to allow it, add "{digest}" to `encoders` in policy.toml; then flo site policy --sign'
        )
    return results.EncodersResult([digest])
