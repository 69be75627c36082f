"""``flo coordinator console``, ``flo site desk``, and the red button: pages for people."""

from __future__ import annotations

from typing import Annotated

import typer

from flo.cli import coordinator, results, site
from flo.cli.command import command

_HOURS = 8


@command(coordinator.app)
def console(home: coordinator.Home = coordinator.DEFAULT_HOME) -> results.ConsoleLink:
    """Show the link that opens the console; --home may be an access file of yours."""
    from flo.cli.operator import read_access
    from flo.cli.screen import say
    from flo.server.console.door import SIGN_IN
    from flo.server.home import CoordinatorHome
    from flo.server.tokens import issue

    if home.is_file():
        access = read_access(home)
        say("open this link, which is like a password, in your browser:")
        link = f"{access.url}{SIGN_IN}#{access.token}"
        say(link)
        return results.ConsoleLink(link, None, None)
    opened = CoordinatorHome.open(home)
    text, made = issue(opened.identity(), "owner of the folder", "operator", _HOURS * 3600)
    with opened.recording() as store:
        store.add_event(
            None,
            "token-issued",
            id=made.id,
            name=made.name,
            role=made.role,
            expires=made.expires,
        )
    say(f"open this link, which is like a password for {_HOURS} hours, in your browser:")
    link = f"{opened.private_url}{SIGN_IN}#{text}"
    say(link)
    say(
        f"A browser that does not know {opened.ca_path} asks whether to trust it: import that file,"
    )
    say("or compare the certificate's SHA-256 fingerprint with this one:")
    certificate = _certificate_fingerprint(opened.certificate_path.read_bytes())
    say(certificate)
    say(f"It is there while this runs: flo coordinator serve --home {home}")
    return results.ConsoleLink(link, _HOURS, certificate)


@site.app.command()
def desk(
    home: site.Home = site.DEFAULT_HOME,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any that is free.")] = 0,
) -> None:
    """Open the steward's desk: inbox, decisions, budget, log, stop button. On this machine only."""
    from flo.cli.screen import say
    from flo.clients.desk.serve import serve_desk
    from flo.clients.home import SiteHome
    from flo.logs import start_logging

    opened = SiteHome.open(home)
    start_logging(home / "log" / "desk.jsonl", verbosity=-1)
    say(f"the desk of {opened.config.hospital}; Ctrl-C ends it, and nothing else")

    def show_link(link: str) -> None:
        say(f"open it in your browser, once, with: {link}")

    serve_desk(opened, port, show_link)


@command(site.app)
def stop(home: site.Home = site.DEFAULT_HOME) -> results.Halted:
    """Stop everything: nothing more leaves this hospital until `flo site resume`."""
    from flo.cli.screen import say
    from flo.clients.halt import halt
    from flo.clients.home import SiteHome

    made, but = halt(SiteHome.open(home))
    say(f"[bold red]everything is stopped[/] since {made.time}; nothing more leaves this hospital")
    if but:
        say(f"[yellow]but:[/] {but}")
    say("approvals and reservations stay; to let it go on: flo site resume")
    return results.Halted(made.time)


@command(site.app)
def resume(home: site.Home = site.DEFAULT_HOME) -> results.Halted:
    """Let a site go on that was stopped."""
    from flo.cli.screen import say
    from flo.clients.halt import go_on
    from flo.clients.home import SiteHome

    go_on(SiteHome.open(home))
    say("it goes on: what is approved is answered again")
    return results.Halted(None)


def _certificate_fingerprint(pem: bytes) -> str:
    """As browsers show it: SHA-256 of the certificate, in pairs."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex(":").upper()
