"""``flo model serve``: models answer the hospital's record system; and what they answered."""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from flo.cli import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, Quiet, ServiceUser, SiteFolder, Verbose
from flo.cli.terminal.results import UnitResult

app = typer.Typer()


@app.command()
def serve(
    home: SiteFolder = SITE_FOLDER,
    draft: Annotated[
        bool, typer.Option("--draft", help="Only write serve.toml, to be completed.")
    ] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Answer the record system with the models that serve.toml names, until stopped."""
    from flo.cli.terminal.output import explain, say
    from flo.clients.home.site_home import SiteHome
    from flo.clients.serving.settings import read_serve_config
    from flo.clients.serving.supervisor import Supervisor, open_sockets
    from flo.host.logs import start_logging

    site = SiteHome.open(home)
    if draft:
        _write_draft(home)
        return
    config = read_serve_config(home)
    start_logging(home / "log" / "serve.jsonl", verbosity=-1 if quiet else verbose)
    supervisor = Supervisor(site, config, open_sockets(site, config), explain)
    say(f"models answer at {config.url} once they are loaded: {', '.join(sorted(config.models))}")
    raise typer.Exit(supervisor.run())


def _write_draft(home: Path) -> None:
    from flo.cli.terminal.output import say
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction import versions
    from flo.clients.serving.settings import DRAFT, DRAFT_MODEL, FILE
    from flo.errors import UsageError
    from flo.storage.files import write_private

    path, found = home / FILE, versions.read(SiteHome.open(home))
    if path.exists():
        raise UsageError(f"{path} exists already", hint="edit it")
    names = [name for name in found.names if found.current(name)] or ["NAME"]
    models = "".join(DRAFT_MODEL.format(name=name) for name in names)
    write_private(path, DRAFT.format(host=socket.getfqdn(), models=models).encode())
    say(f"{path}: complete it, then: flo model serve --home {home}")


@command(app)
def answers(
    answer_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Id on a card: find this answer.")
    ] = None,
    home: SiteFolder = SITE_FOLDER,
) -> results.AnswersResult:
    """Check the log of what models answered here; count by version, or find one answer."""
    from rich.table import Table

    from flo.audit.log import AuditLog
    from flo.cli.terminal.output import console, plain, say
    from flo.clients.home.site_home import SiteHome
    from flo.clients.serving import answer_log
    from flo.errors import UsageError

    site = SiteHome.open(home)
    identity = site.open_identity()
    with closing(site.open_audit_log()) as log:
        anchors = [one.facts for one in log.entries() if one.kind == answer_log.ANCHOR]
    entries = answer_log.check(home, identity, anchors)
    counted, found = Counter[tuple[str, str, str, int, str]](), list[results.AnswerLine]()
    refused = Counter[str]()
    for path in answer_log.paths(home):
        with closing(AuditLog(path, identity)) as log:
            for entry in log.entries():
                refused.update(entry.facts.get("reasons", {}))
                for one, caller, service, version, outcome in entry.facts.get("answers", ()):
                    counted[path.stem[8:], caller, service, version, outcome] += 1
                    if one == answer_id:
                        line = (entry.time, caller, service, version, outcome)
                        found.append(results.AnswerLine(*line))
    say(f"the log of answers is whole: {sum(entries.values())} entries in {len(entries)} files")
    if answer_id is not None:
        if not found:
            raise UsageError(
                f"no answer has the id {answer_id}", hint="the id is on the card, as its uuid"
            )
        for one in found:
            who = f"version {one.version} of {one.service}" if one.version else one.service
            say(plain(f"{one.time[:19]}: {who} answered {one.caller}: {one.outcome}"))
    else:
        table = Table("month", "caller", "model", "version", "outcome", "answers")
        for (*words, version, outcome), count in sorted(counted.items()):
            table.add_row(*map(plain, words), str(version or ""), plain(outcome), str(count))
        console().print(table)
        for why, count in refused.most_common():
            say(plain(f"refused {count} times: {why}"))
    lines = [results.AnswersLine(*key, count) for key, count in sorted(counted.items())]
    return results.AnswersResult(entries, lines, found, dict(refused))


@command(app, "unit")
def serve_unit(home: SiteFolder = SITE_FOLDER, user: ServiceUser = "flo") -> UnitResult:
    """Print a systemd unit for the server of this site's models."""
    from flo.cli.terminal.output import verbatim
    from flo.clients.home.site_home import SiteHome
    from flo.infra.systemd.units import unit

    SiteHome.open(home)
    return UnitResult(verbatim(unit("model", home, user)))
