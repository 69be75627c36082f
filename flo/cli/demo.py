"""``flo demo``: the whole system on this machine; only the distance is simulated.

One coordinator and one agent per hospital, each a process with its own folder, keys and ledger,
communicate over mutual TLS on loopback. The demo runs the same commands that people would type.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.panel import Panel

from flo import datasets
from flo.cli.coordinator.operator import Operator, call_once
from flo.cli.demo_cast import Cast, stage
from flo.cli.demo_screen import show_last_screen
from flo.cli.terminal.output import console
from flo.cli.terminal.progress import ProgressScreen
from flo.clients.home.site_home import SiteHome
from flo.clients.records.finished_model import TOO_FEW, FinishedModel, finished_called
from flo.errors import FloError, NetworkError, RefusedError, UsageError
from flo.privacy.report.page import render
from flo.published.model_card import read_card
from flo.server.api.site_api import MAX_MODEL_REPLY
from flo.server.home.coordinator_home import CoordinatorHome
from flo.storage.files import write_public
from flo.study.document import Study
from flo.study.loading import from_canonical, load
from flo.study.terms import Hospital

STUDY = Path(__file__).parent.parent / "examples" / "heart" / "study.toml"
_MARK = ".flo-demo"


def run_demo(directory: Path, study_file: Path, data: Path | None) -> dict[str, Any]:
    """Run the demo in ``directory`` (emptied first). Returns the fields of ``flo demo --json``.

    ``data``: a folder with HOSPITAL.csv for each of the study's hospitals; None for the data set
    with the study's name. ``seconds_from_launch``: from the offer of the study to the verified
    report, approvals included.
    """
    out = console()
    began = time.monotonic()
    _make_room(directory)
    chosen = load(study_file)
    credit = ""
    if data is None:
        data = directory / "data"
        datasets.write(chosen.name, data)
        credit = f"\n{datasets.CREDITS[chosen.name]}"
    _refuse_missing(data, chosen)
    out.print(Panel(f"[bold]{chosen.purpose}[/]{credit}", title="FLO demo"))
    with contextlib.ExitStack() as stack:
        cast = stack.enter_context(stage(directory))
        home = _coordinator(cast)
        _sites(cast, home, chosen, data)
        operator = stack.enter_context(Operator(home))
        _wait_for_agents(operator, {hospital.id for hospital in chosen.hospitals}, directory)
        launched = time.monotonic()
        offered = operator.call("POST", "studies", body=chosen.canonical_bytes)
        digest = str(offered["digest"])
        signed = from_canonical(str(offered["study"]).encode())
        out.print("[bold]approving[/]: each steward checks its own data and reserves the budget")
        out.print(
            "  the demo enters the roster's digest at each hospital; in a real study the stewards"
        )
        out.print("  are on one call, and each says that the roster holds their key")
        with ThreadPoolExecutor() as pool, ProgressScreen(signed) as progress:
            roster = _roster_digest(home)
            approvals = [
                pool.submit(_approve, cast, signed, h.id, roster) for h in signed.hospitals
            ]
            for approval in approvals:
                approval.result()
            summary = progress.follow(
                lambda after: operator.call("GET", f"studies/{digest}?after={after}")
            )
            seconds = statistics.median(progress.seconds) if progress.seconds else float("nan")
        report = _report(cast, home, digest)
        ended = time.monotonic()
        finished = _finished(cast, signed) if summary["status"] == "done" else {}
        _show_risks(cast, report)
    result = _result(signed, summary, report) | {
        "seconds_per_round": seconds,
        "seconds_from_launch": ended - launched,
        "seconds_total": ended - began,
    }
    hospitals = [hospital.id for hospital in signed.hospitals]
    show_last_screen(result, summary, report, data, hospitals, finished)
    return result


def _make_room(directory: Path) -> None:
    """Create or empty the folder. Refuse a non-empty folder that is not an earlier demo's."""
    if directory.exists() and any(directory.iterdir()):
        if not (directory / _MARK).exists():
            raise FloError(
                f"{directory} is not an earlier demo and is not empty", hint="choose another --dir"
            )
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _MARK).touch()


def _coordinator(cast: Cast) -> Path:
    home = cast.directory / "coordinator"
    port, private_port = _free_ports(2)
    cast.do(
        *("coordinator", "init", "--home", str(home)),
        *("--port", str(port), "--private-port", str(private_port)),
    )
    cast.start("coordinator", "serve", "--home", str(home), log="coordinator.log")
    console().print(
        f"[bold]coordinator[/] on 127.0.0.1:{port} (hospitals), :{private_port} (private)"
    )
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(NetworkError):
            call_once(home, "GET", "studies")
            return home
        time.sleep(0.1)
    raise NetworkError(
        "the coordinator did not start", hint=f"see {cast.directory / 'coordinator.log'}"
    )


def _refuse_missing(data: Path, chosen: Study) -> None:
    for hospital in chosen.hospitals:
        if not (data / f"{hospital.id}.csv").is_file():
            raise UsageError(
                f"no file {data / hospital.id}.csv for hospital {hospital.id!r}",
                hint="give a folder with one HOSPITAL.csv for each hospital of the study",
            )


def _sites(cast: Cast, home: Path, chosen: Study, data: Path) -> None:
    def enrol(hospital: Hospital) -> str:
        site = _site(cast, hospital.id)
        invitation = cast.directory / f"{hospital.id}.invitation.json"
        cast.do(
            *("coordinator", "invite", hospital.id, "--out", str(invitation)),
            *("--home", str(home)),
        )
        cast.do(
            *("site", "init", hospital.id, "--home", str(site)),
            *("--data", str(data / f"{hospital.id}.csv")),
            *("--declared-size", str(hospital.declared_size)),
        )
        cast.do("site", "enrol", str(invitation), "--home", str(site))
        cast.start("site", "run", "--home", str(site), log=f"{hospital.id}.log")
        return hospital.id

    with ThreadPoolExecutor(2) as pool:
        for name in pool.map(enrol, chosen.hospitals):
            console().print(f"[bold]enrolled[/] {name}; its agent is starting")


def _wait_for_agents(operator: Operator, hospitals: set[str], directory: Path) -> None:
    """Wait until every hospital's agent is connected, as it usually is when a study is offered.

    Raises:
        NetworkError: an agent did not connect within a minute.
    """
    end = time.monotonic() + 60
    while missing := hospitals - _online(operator):
        if time.monotonic() > end:
            name = min(missing)
            raise NetworkError(
                f"the agent of {name} did not connect", hint=f"see {directory / name}.log"
            )
        time.sleep(0.1)
    console().print("[bold]connected[/]: every hospital's agent waits for studies")


def _online(operator: Operator) -> set[str]:
    return {one["id"] for one in operator.call("GET", "hospitals") if one["online"]}


def _roster_digest(home: Path) -> str:
    with closing(CoordinatorHome.open(home).open_store()) as store:
        return store.roster().roster.digest


def _approve(cast: Cast, signed: Study, hospital: str, roster: str) -> None:
    """Confirm the partners' keys, as on a call on which ``roster`` was read out, then approve."""
    home = str(_site(cast, hospital))
    cast.do("site", "roster", roster, "--heard", "all", "--yes", "--home", home)
    cast.do("site", "approve", signed.digest, "--yes", "--home", home)


def _site(cast: Cast, hospital: str) -> Path:
    return cast.directory / "sites" / hospital


def _report(cast: Cast, home: Path, digest: str) -> Path:
    folder = cast.directory / "extracts"
    cast.do("study", "extracts", digest, "--out", str(folder), "--home", str(home))
    paths = [str(path) for path in sorted(folder.glob("*.json"))]
    if len(paths) < 2:  # one file has the ledger heads that the coordinator stored
        raise FloError("no hospital sent its extract", hint=f"see the logs in {cast.directory}")
    cast.do("audit", "report", *paths, "--out", str(cast.directory))
    cast.do("audit", "verify", str(cast.directory / "report.json"))
    return cast.directory / "report.json"


def _show_risks(cast: Cast, report: Path) -> None:
    """Write the report's page again, with the risks of the model card if a hospital fetched one."""
    for card in sorted((cast.directory / "models").glob("*/*.card.json"))[:1]:
        page = render(report.read_bytes(), read_card(card).risks_of_yes_or_no)
        write_public(report.with_suffix(".html"), page.encode())


def _finished(cast: Cast, signed: Study) -> dict[str, FinishedModel | None]:
    """Let each hospital fetch the model and finish it; return the results that each one sees."""
    console().print("[bold]finishing[/]: each hospital refits the model on its own patients")

    models = (cast.directory / "coordinator" / "models").glob("*.safetensors")
    if any(model.stat().st_size > MAX_MODEL_REPLY for model in models):
        console().print("[bold]not finished[/]: the model is too large for hospitals to fetch")
        return {}

    def finish(hospital: str) -> tuple[str, FinishedModel | None]:
        site = _site(cast, hospital)
        fetched = cast.directory / "models" / hospital
        cast.do("model", "fetch", signed.digest, "--out", str(fetched), "--home", str(site))
        (card,) = fetched.glob("*.card.json")
        try:
            cast.do("model", "finish", str(card), "--home", str(site))
        except RefusedError as refusal:
            if TOO_FEW not in str(refusal):
                raise
            return hospital, None
        home = SiteHome.open(site)
        return hospital, FinishedModel.load(home, finished_called(home, signed.name))

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(finish, [hospital.id for hospital in signed.hospitals]))


def _result(signed: Study, summary: dict[str, Any], report: Path) -> dict[str, Any]:
    outcome = summary["result"] or {}
    estimate = outcome.get("estimate")
    facts = {
        site["hospital"]: site for site in json.loads(report.read_bytes())["facts"]["hospitals"]
    }
    return {
        "schema_version": 1,
        "private": True,
        "status": summary["status"],
        "auc": estimate["auc"] if estimate else None,
        "auc_interval": [estimate["low"], estimate["high"]] if estimate else None,
        "epsilon": outcome.get("epsilon"),
        "delta": outcome.get("delta"),
        "trust_model": f"{signed.mechanism.noise} noise",
        "rounds": outcome.get("rounds"),
        "report": str(report.with_suffix(".html")),
        "sites": {
            hospital.id: {
                "declared_size": hospital.declared_size,
                "epsilon": facts[hospital.id]["epsilon_released"],
                "delta": facts[hospital.id]["delta"],
                "rounds": facts[hospital.id]["releases_training"],
            }
            for hospital in signed.hospitals
            if hospital.id in facts
        },
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports
