"""Sites that a process makes once; a copy takes a tenth to a quarter of the time.

A module declares the kinds that its tests need most. They are made after collection, before any
test has changed anything that they are made of. In one test no two sites have the same keys: only
the first of a kind is a copy.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Hashable
from pathlib import Path

from flo.clients.home.site_home import SiteHome

Make = Callable[[Path], SiteHome]  # makes a site in FOLDER/site, its data file in FOLDER
_declared: dict[Hashable, Make] = {}
_made: dict[Hashable, Path] = {}
_copied: set[Hashable] = set()


def declare(kind: Hashable, make: Make) -> None:
    """Tests will ask for sites of this kind."""
    _declared[kind] = make


def make_declared() -> None:
    """Make one of each kind, but for those that cannot be made: tests of them fail and say why."""
    for number, (kind, make) in enumerate(_declared.items()):
        place = Path(_folder().name) / str(number)
        with contextlib.suppress(Exception):
            make(place)
            _made[kind] = place


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Removed when this process ends."""
    return tempfile.TemporaryDirectory(
        prefix="flo-sites-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")
    )


def begin_test() -> None:
    """The next site of each kind may be a copy again."""
    _copied.clear()


def new_site(kind: Hashable, folder: Path, make: Make) -> SiteHome:
    """A site of this kind in ``folder / "site"``: a copy, or one that ``make`` makes."""
    if kind not in _made or kind in _copied:
        return make(folder)
    _copied.add(kind)
    shutil.copytree(_made[kind], folder, dirs_exist_ok=True)
    home = SiteHome.open(folder / "site")
    configuration = home.config_path.read_text()
    home.config_path.write_text(configuration.replace(str(_made[kind]), str(folder)))
    return home
