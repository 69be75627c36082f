"""The map of the rooms: the picture and the table of docs/architecture.md.

    python -m tools.rooms

Floors are the layers of the import contract in pyproject.toml. A room's sentence is the first
paragraph of its package's docstring.
"""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tools.draw import BLUE, GREEN, HERE, INK, RED, SOFT, Drawing

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "architecture.md", HERE / "rooms.svg"
BEGIN, END = "<!-- made by tools/rooms.py -->\n", "<!-- end -->\n"
_CONTRACT = "floors: a room imports only from the floors below it"
_COLORS = {"clients": BLUE, "server": GREEN, "privacy": RED}
_WIDTH, _LEFT, _FLOOR, _GAP = 1000, 40, 46, 10


@dataclass(frozen=True)
class Room:
    """A package, or a single module, in a layer of the import contract."""

    module: str
    floor: int
    sentence: str

    @property
    def folder(self) -> str:
        """Its folder relative to the root of the checkout, or its file."""
        return _path(self.module).relative_to(ROOT).as_posix()

    @property
    def area(self) -> str:
        """The first part of its name after ``flo``."""
        return self.module.split(".")[1]


def rooms() -> list[Room]:
    """Return every room of the contract, from the top floor down."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one["name"] == _CONTRACT)
    found = []
    for number, layer in enumerate(layers):
        for module in layer.split(" | "):
            found.append(Room(module, len(layers) - number, _sentence(_path(module))))
    return found


def picture(known: list[Room]) -> Drawing:
    """Draw one row for each floor, the lowest at the bottom; a colour marks each area."""
    floors = sorted({room.floor for room in known}, reverse=True)
    height = _FLOOR * len(floors) + 50
    drawn = Drawing(_WIDTH, height, "The rooms of FLO: each imports only from the floors below it")
    for row, floor in enumerate(floors):
        here, top = [room for room in known if room.floor == floor], 10 + _FLOOR * row
        drawn.text(20, top + 23, str(floor), size=12, color=SOFT)
        width = (_WIDTH - _LEFT - 10) / len(here)
        for place, room in enumerate(here):
            color = _COLORS.get(room.area, INK)
            name = room.module.removeprefix("flo.").replace(".", "/")
            drawn.box(_LEFT + place * width, top, width - _GAP, _FLOOR - _GAP, name, color=color)
    labels = (("a hospital's site", BLUE), ("the coordinator", GREEN), ("privacy", RED))
    for place, (words, color) in enumerate((*labels, ("shared", INK))):
        drawn.bar(_LEFT + 200 * place, height - 26, 12, 12, color)
        drawn.text(_LEFT + 20 + 200 * place, height - 15, words, anchor="start", size=13)
    return drawn


def table(known: list[Room]) -> str:
    """Return one line for each room."""
    lines = ["| floor | room | what it holds |", "|---|---|---|"]
    lines += [f"| {room.floor} | `{room.folder}` | {room.sentence} |" for room in known]
    return "\n".join(lines) + "\n"


def page(text: str, known: list[Room]) -> str:
    """Return the page with its table replaced by the current one."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table(known) + END + rest.split(END)[1]


def _path(module: str) -> Path:
    own = module.removeprefix("flo.").replace(".", "/")
    for base in (ROOT / own, ROOT / "flo" / own):
        if base.is_dir():
            return base
        if base.with_suffix(".py").is_file():
            return base.with_suffix(".py")
    raise FileNotFoundError(module)


def _sentence(path: Path) -> str:
    file = path / "__init__.py" if path.is_dir() else path
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return re.sub(r"\s+", " ", text.split("\n\n")[0]).replace("``", "`")


def main() -> None:
    """Write the picture and the table."""
    known = rooms()
    PICTURE.write_text(picture(known).svg(), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), known), encoding="utf-8")


if __name__ == "__main__":
    main()
