"""From a release to the next and back, with everything an installation keeps.

The older release is the wheel in ``tests/kept/releases``; the newer one is built from this tree.
Both are installed as at a hospital, and one consortium's folders go from hand to hand.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from flo.clients.home.site_home import SiteHome
from tests.builders import csv_text, study_document
from tests.packaging.environments import KEPT, Installed, build, install
from tests.ports import free_ports

pytestmark = pytest.mark.slow
SITES = ("north", "south", "west")


@pytest.fixture(scope="module")
def older(environments: Path) -> Installed:
    (wheel,) = KEPT.glob("*.whl")
    return install(wheel, environments / "older")


@pytest.fixture(scope="module")
def newer(environments: Path) -> Installed:
    return install(build(environments), environments / "newer")


class Consortium:
    """Folders of a coordinator and three hospitals, which outlive any installation."""

    def __init__(self, folder: Path, made_by: Installed) -> None:
        self.folder, self.coordinator = folder, folder / "coordinator"
        port, self.private_port = free_ports(2)
        made_by.done(
            *("coordinator", "init", "--home", self.coordinator),
            *("--port", str(port), "--private-port", str(self.private_port)),
        )
        for name in SITES:
            (folder / f"{name}.csv").write_text(csv_text(prefix=name))
            made_by.done(
                *("site", "init", name, "--data", folder / f"{name}.csv"),
                *("--declared-size", "40", "--home", self.site(name)),
            )

    def site(self, name: str) -> Path:
        return self.folder / name

    def enrol(self, installed: Installed) -> None:
        with self.serving(installed):
            for name in SITES:
                invitation = self.folder / f"{name}.json"
                installed.done(
                    *("coordinator", "invite", name, "--out", invitation),
                    *("--home", self.coordinator),
                )
                installed.done("site", "enrol", invitation, "--home", self.site(name))

    def carry_out(
        self, version: int, at_coordinator: Installed, at_sites: dict[str, Installed]
    ) -> Path:
        """A study from launch to verified report; its report."""
        document = study_document(version=version, schema_version=2)  # which both releases know
        document["hospitals"] = [{"id": name, "declared_size": 40} for name in SITES]
        document["mechanism"] |= {"masking": "on", "noise": "distributed", "epsilon": 0.3}
        document["evaluation"]["epsilon"] = 0.3
        file = self.folder / f"study-{version}.toml"
        file.write_text(tomli_w.dumps(document))
        own = {
            name: f"{name}={SiteHome.open(self.site(name)).open_identity().fingerprint}"
            for name in SITES
        }
        with ExitStack() as running:
            running.enter_context(self.serving(at_coordinator))
            for name, installed in at_sites.items():
                log = self.folder / f"{name}.log"
                agent = ("site", "run", "--home", self.site(name))
                running.enter_context(installed.running(*agent, log=log))
            at_coordinator.done(*("study", "launch", file, "--detach", "--home", self.coordinator))
            for name, installed in at_sites.items():
                home = ("--home", self.site(name))
                if version == 1:
                    installed.done("site", "confirm", *own.values(), *home)
                installed.done("site", "review", *home)
                installed.done("site", "approve", "--yes", "--wait", "30", *home)
            studies = self._studies(at_coordinator)
            digest = next(one["digest"] for one in studies if one["version"] == version)
            at_coordinator.done("study", "watch", digest, "--home", self.coordinator)
            (status,) = {
                one["status"] for one in self._studies(at_coordinator) if one["version"] == version
            }
            logs = [path.read_text()[-2000:] for path in self.folder.glob("*.log")]
            assert status == "done", "\n".join(logs)
            out = self.folder / f"extracts-{version}"
            at_coordinator.done(
                *("study", "extracts", digest, "--out", out, "--home", self.coordinator)
            )
        at_coordinator.done("audit", "report", *sorted(out.glob("*.json")), "--out", out)
        return out / "report.json"

    def shares(self, installed: Installed, name: str) -> Any:
        """What a site's ledger says of its life, by this release."""
        text = installed.done("site", "budget", "--home", self.site(name), "--json", "-")
        since = {"generations", "rooms"}  # what the newer one says besides
        return [
            {name: said for name, said in one.items() if name not in since}
            for one in json.loads(text)["populations"]
        ]

    @contextmanager
    def serving(self, installed: Installed) -> Iterator[None]:
        """``flo coordinator serve``, from when it answers on."""
        serve, log = ("coordinator", "serve", "--home", self.coordinator), self.folder / "serve.log"
        with installed.running(*serve, log=log):
            end = time.monotonic() + 40
            while not self._listens():
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            yield

    def _listens(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.private_port), timeout=1).close()
            return True
        return False

    def _studies(self, installed: Installed) -> list[dict[str, Any]]:
        done = installed.flo("study", "list", "--home", self.coordinator, "--json", "-")
        return list(json.loads(done.stdout)["studies"]) if done.returncode == 0 else []


@dataclass
class History:
    """A consortium and the reports of its studies, which two releases carried out.

    ``reports``: by the study's name, in order. ``seen``: what the older and the newer release said
    of north's life budget after each.
    """

    consortium: Consortium
    backup: Path
    reports: dict[str, Path] = field(default_factory=dict)
    seen: dict[str, list[Any]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def history(
    tmp_path_factory: pytest.TempPathFactory, older: Installed, newer: Installed
) -> Iterator[History]:
    """Three studies: a hospital is upgraded, then the coordinator and another; then all go back."""
    folder = tmp_path_factory.mktemp("consortium")
    (folder / "passphrase").write_text("correct horse battery staple\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLO_PASSPHRASE_FILE", str(folder / "passphrase"))
        made = Consortium(folder, older)
        made.enrol(older)
        found = History(made, folder / "north.backup")
        older.done("site", "backup", found.backup, "--home", made.site("north"))
        one = {"north": newer, "south": older, "west": older}
        studies = [
            ("a newer hospital", older, one),
            ("newer", newer, one | {"south": newer}),
            ("older", older, dict.fromkeys(SITES, older)),
        ]
        for version, (name, at_coordinator, at_sites) in enumerate(studies, start=1):
            found.reports[name] = made.carry_out(version, at_coordinator, at_sites)
            found.seen[name] = [made.shares(release, "north") for release in (older, newer)]
        yield found


def test_a_consortium_is_upgraded_goes_on_and_is_rolled_back(
    history: History, older: Installed, newer: Installed
) -> None:
    for report in history.reports.values():
        newer.done("audit", "verify", report)
    older.done("audit", "verify", history.reports["older"])
    refused = older.flo("audit", "verify", history.reports["newer"])  # holds what it does not know
    assert refused.returncode == 4
    assert "not a report of schema version" in refused.stderr
    log = ("audit", "log", "--home", history.consortium.coordinator)
    assert newer.done(*log).count("done") == older.done(*log).count("done") > 0


def test_both_releases_read_the_same_ledger_alike(history: History) -> None:
    for by_older, by_newer in history.seen.values():
        assert by_older == by_newer, "what the newer one spent is never forgotten"
    assert history.seen["older"] != history.seen["newer"]


def test_an_older_backup_is_restored_by_the_newer_release(
    history: History, newer: Installed
) -> None:
    """Last, because it takes north's folder away."""
    consortium, site = history.consortium, history.consortium.site("north")
    site.rename(consortium.folder / "lost")
    with consortium.serving(newer):
        newer.done("site", "restore", history.backup, "--home", site)
    (restored,), (_, (lost,)) = consortium.shares(newer, "north"), history.seen["older"]
    for side, before in lost["sub_ledgers"].items():
        assert restored["sub_ledgers"][side]["free"] <= before["free"] + 1e-12, side
