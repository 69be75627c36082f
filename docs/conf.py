"""How the documentation is built (``make docs``). Pages load nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.domains.python import ObjectEntry, PythonDomain
from typer.main import get_command

import flo
import flo.cli
import flo.server.api.operator_api  # autodoc reloads modules, and FastAPI's cannot be made twice

commands: Any = types.ModuleType("flo_commands")  # where reference/commands.md finds them
commands.app = get_command(flo.cli.app)
sys.modules["flo_commands"] = commands

project, author = "FLO", "the FLO authors"
version = release = flo.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
]
exclude_patterns = ["reference/api/modules.rst"]
html_theme, html_title = "furo", f"FLO {release}"
html_static_path, html_css_files = ["_static"], ["flo.css"]
html_copy_source = html_show_copyright = False
toc_object_entries = False  # each page would copy all names of the API into its navigation
myst_heading_anchors = 4
# Names that several rooms have are links to none of them.
suppress_warnings = ["config.cache", "ref.python"]

_HERE, _ROOT = Path(__file__).parent, Path(__file__).parents[1]
_FLO = _ROOT / "flo"
# The repository's other pages are part of the site; copies, which git does not see.
shutil.copytree(_ROOT / "examples", _HERE / "examples", dirs_exist_ok=True)
shutil.copy(_ROOT / "CHANGELOG.md", _HERE / "changelog.md")
apidoc_modules = [
    {
        "path": _FLO,
        "destination": "reference/api",
        "exclude_patterns": [str(_FLO / "examples"), str(_FLO / "bench" / "references" / "*_*")],
        "follow_links": True,
        "separate_modules": False,
        "module_first": True,
    }
]
autodoc_inherit_docstrings = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_mock_imports = [
    *("aws_cryptographic_material_providers", "aws_encryption_sdk", "boto3", "botocore"),
    *("ray", "sagemaker"),
]

_SECTIONS = ("Raises:", "Attributes:")
_ELSEWHERE = re.compile(r"\]\((?:\.\./)*(examples/|CHANGELOG\.md|docs/)")
_PLACES = {"examples/": "/examples/", "CHANGELOG.md": "/changelog.md", "docs/": "/"}


class QuickNames(PythonDomain):
    """Sphinx' own, which compares each type that is not FLO's with every name of FLO.

    A name that no object of FLO ends in is none of FLO's: half a minute less.
    """

    _last_words: tuple[int, frozenset[str]] = 0, frozenset()

    def find_obj(
        self, env: Any, modname: str, classname: str, name: str, type: Any, searchmode: int = 0
    ) -> list[tuple[str, ObjectEntry]]:
        """Return Sphinx' answer, at once if there is none."""
        if self._last_words[0] != len(self.objects):
            words = frozenset(known.rpartition(".")[2] for known in self.objects)
            self._last_words = len(self.objects), words
        if name.removesuffix("()").rpartition(".")[2] not in self._last_words[1]:
            return []
        return super().find_obj(env, modname, classname, name, type, searchmode)


def stay_on_the_site(_: Any, __: str, source: list[str]) -> None:
    """Lead links to the repository's other pages to their copies here."""
    source[0] = _ELSEWHERE.sub(lambda found: f"]({_PLACES[found[1]]}", source[0])


def keep_the_shape(*event: Any) -> None:
    """Docstrings are plain text: what is indented or drawn as a table is shown as it stands."""
    lines: list[str] = event[-1]
    lines[:] = list(_shaped(lines))


def _shaped(lines: list[str]) -> Iterator[str]:
    before, as_it_stands = "", False
    for line in lines:
        drawn = line.startswith("|") or (
            line.startswith("  ") and not before.startswith((" ", *_SECTIONS))
        )
        if as_it_stands and line and not line.startswith((" ", "|")):
            as_it_stands = False
            yield ""
        if drawn and not as_it_stands and not before.startswith(_SECTIONS):
            as_it_stands = True
            yield from ("", "::", "")
        if as_it_stands:
            yield f"    {line}" if line else ""
        else:
            yield re.sub(r"(``.*?``)|\|", lambda found: found[1] or "\\|", line)
        before = line or before


def setup(app: Any) -> None:
    """Sphinx calls it."""
    app.add_domain(QuickNames, override=True)
    app.connect("source-read", stay_on_the_site)
    app.connect("autodoc-process-docstring", keep_the_shape, priority=100)
