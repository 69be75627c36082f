"""``flo coordinator console``: the link that opens the console."""

from __future__ import annotations

import typer

from flo.cli.coordinator import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import COORDINATOR_FOLDER, CoordinatorFolder

app = typer.Typer()
_HOURS = 8


@command(app)
def console(home: CoordinatorFolder = COORDINATOR_FOLDER) -> results.ConsoleLinkResult:
    """Show the link that opens the console; --home may be your access file."""
    from flo.cli.coordinator.operator import issue_recorded, read_access
    from flo.cli.terminal.output import say
    from flo.server.console.sign_in import SIGN_IN
    from flo.server.home.coordinator_home import CoordinatorHome

    if home.is_file():
        access = read_access(home)
        say("open this link, which is like a password, in your browser:")
        link = f"{access.url}{SIGN_IN}#{access.token}"
        say(link)
        return results.ConsoleLinkResult(link, None, None)
    opened = CoordinatorHome.open(home)
    text, _ = issue_recorded(opened, "owner of the folder", "operator", _HOURS * 3600)
    say(f"open this link, which is like a password for {_HOURS} hours, in your browser:")
    link = f"{opened.read_private_url()}{SIGN_IN}#{text}"
    say(link)
    say(f"If your browser does not trust the certificate, import {opened.ca_path},")
    say("or compare the certificate's SHA-256 fingerprint with this one:")
    certificate = _certificate_fingerprint(opened.certificate_path.read_bytes())
    say(certificate)
    say(f"The console is available while this runs: flo coordinator serve --home {home}")
    return results.ConsoleLinkResult(link, _HOURS, certificate)


def _certificate_fingerprint(pem: bytes) -> str:
    """Return the certificate's SHA-256 as browsers show it, in pairs of digits."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex(":").upper()
