"""The documentation: what it shows is current, what it tells people to type works."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flo.clients.home.site_config import Population, SiteConfig
from flo.server.home.coordinator_home import CoordinatorConfig
from tests.paths import ROOT
from tests.ports import free_ports
from tools import draw, links, rooms

DOCS = ROOT / "docs"
MAP = "python -m tools.rooms"
# A day with FLO: the pages whose console blocks are typed, in this order, in one folder.
WALK = (
    "start.md",
    "guides/auditor.md",
    "guides/clinician.md",
    "guides/data-scientist.md",
    "operating/monitor.md",
    "operating/incident.md",
    "operating/backup.md",
    "operating/rotate.md",
)


def test_drawings_are_as_their_program_draws_them() -> None:
    for path, make in draw.DRAWINGS.items():
        kept = path.read_text(encoding="utf-8")
        assert kept == make().svg(), f"{path.name}: python -m tools.draw"


def test_the_map_of_rooms_is_as_the_import_contract_has_it() -> None:
    known = rooms.rooms()
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.picture(known).svg(), MAP
    text = rooms.PAGE.read_text(encoding="utf-8")
    assert text == rooms.page(text, known), MAP


def test_every_package_is_a_room_of_the_import_contract_or_within_one() -> None:
    known = tuple(room.module for room in rooms.rooms())
    packages = {
        ".".join(Path(folder).relative_to(ROOT).parts)
        for folder, _, names in os.walk(ROOT / "flo", followlinks=True)
        if "__init__.py" in names
    }
    parents = {"flo", "flo.clients", "flo.server", "flo.privacy", "flo.examples"}
    homeless = {one for one in packages - parents if not f"{one}.".startswith(_dotted(known))}
    assert homeless == set()


def _dotted(modules: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{module}." for module in modules)


def test_files_named_in_the_walks_exist() -> None:
    named = re.findall(r"`((?:flo|clients|server|privacy)/[\w./]+)`", rooms.PAGE.read_text("utf-8"))
    assert len(named) > 40
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_setting_has_its_line_and_none_is_made_up() -> None:
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    site, coordinator = page.split("## `site.toml`")[1].split("## `coordinator.toml`")
    for text, models in [(site, (SiteConfig, Population)), (coordinator, (CoordinatorConfig,))]:
        first = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
        named = {word for cell in first for word in re.findall(r"`\[*([a-z_]+)\]*`", cell)}
        known = {name for model in models for name in model.model_fields}
        assert named == known | {"kind", "path", "key"}


def test_every_variable_has_its_line_and_none_is_made_up() -> None:
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    rooms = ("flo", "clients", "server", "infra/systemd")
    sources = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    inner = {"FLO_CHECKPOINT_KEY"}  # a coordinator's, to a process that it starts
    used = {
        name
        for path in sources
        for name in re.findall(r'"(FLO_[A-Z_]+[A-Z])"', path.read_text(encoding="utf-8"))
    }
    assert set(re.findall(r"`(FLO_[A-Z_]+)`", page)) == used - inner


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="#here"></a><a href="#there"></a><a href="b.html#up"></a>'
        '<img src="no.svg"><a href="https://elsewhere.org"></a>'
    )
    (tmp_path / "b.html").write_text('<h1 id="up"></h1><a href="a.html"></a><a href="c.html">')
    found, outside = links.broken(tmp_path)
    assert sorted(found) == ["a.html: #there", "a.html: no.svg", "b.html: c.html"]
    assert outside == 1


def typed(page: str) -> list[str]:
    """The console blocks of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)


def test_pages_that_are_typed_say_so_and_others_do_not() -> None:
    """``console``: typed by the test below. ``sh``: for machines that are not here."""
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    own = {page for page in pages if not page.startswith(("examples/", "changelog"))}
    assert {page for page in own if typed(page)} == set(WALK)


def script() -> Iterator[str]:
    """All that is typed, and what a person does without saying: wait until a server is up."""
    for page in WALK:
        for block in typed(page):
            yield f"echo '=== {page}' >&2"
            for line in block.splitlines():
                yield line
                if "coordinator serve" in line:
                    yield "until flo study list > listed 2>&1; do sleep 1; done"
                elif line.startswith("kill "):
                    ended = line.partition("#")[0].replace("kill ", "kill -0 ")
                    yield f"while {ended} 2> listed; do sleep 1; done"


@pytest.mark.slow
def test_everything_that_the_pages_tell_people_to_type_works(tmp_path: Path) -> None:
    ports = dict(zip(("FLO_PORT", "FLO_PRIVATE_PORT"), map(str, free_ports(2)), strict=True))
    kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said = tmp_path / "said.txt"
    folder, day = tmp_path / "day", tmp_path / "day.sh"
    folder.mkdir()
    day.write_text("\n".join(script()), encoding="utf-8")
    with (
        said.open("wb") as out,
        subprocess.Popen(
            ["bash", "-euxo", "pipefail", day],
            cwd=folder,
            env={**kept, **ports, "PATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.wait(timeout=900) == 0, said.read_text()[-4000:]
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert (folder / "report.json").is_file()
    assert (folder / "scores.csv").is_file()
