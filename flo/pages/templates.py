"""Templates of the console and the desk: value filters, live blocks, standalone pages.

Every value is escaped; control characters and characters that reorder a line are shown as �.
The console and the desk decide the content of their pages and who may see them.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from flo.documents.text import escape_for_terminal, of_auc
from flo.keys.identity import format_fingerprint
from flo.pages import plots
from flo.pages.responses import HEADERS

_HERE = Path(__file__).parent
LIVE = "live_"  # name prefix of template blocks that are sent again when they change
_MACROS = ("plane", "intervals", "bar", "bars", "wide")


class Pages:
    """Templates in ``folders``. ``always``: values that every template gets."""

    def __init__(self, *folders: Path, **always: Any) -> None:
        self._environment = Environment(
            loader=FileSystemLoader([*folders, _HERE]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=lambda value: escape_for_terminal(value) if type(value) is str else value,
        )
        self._environment.filters.update(
            spoken=format_fingerprint,
            short=lambda digest: str(digest)[:12],
            day=lambda time: str(time)[:10],
            moment=lambda time: str(time)[:19].replace("T", " "),
            percent=lambda share: f"{100 * share:.1f} %",
            eps=lambda epsilon: f"{epsilon:.4f}",
            auc=lambda found: of_auc(found["auc"], found["low"], found["high"]),
            facts=_facts,
        )
        self._environment.globals.update(plots=plots, **always)
        macros = self._environment.get_template("plots.html.j2").module
        # As globals, so that a live block can be rendered without the page around it.
        self._environment.globals.update({name: getattr(macros, name) for name in _MACROS})

    def page(self, template: str, status: int = 200, /, **values: Any) -> Response:
        """Render a whole page."""
        return HTMLResponse(self._render(template, values), status, headers=HEADERS)

    def text(self, template: str, /, **values: Any) -> str:
        """Render a standalone page: its style is inline (``style``), and it loads no other file."""
        style = Markup((_HERE / "style.css").read_text(encoding="utf-8"))  # noqa: S704 - our own
        return self._render(template, {**values, "style": style})

    def _render(self, template: str, values: dict[str, Any]) -> str:
        return self._environment.get_template(template).render(values)

    def parts(self, template: str, /, **values: Any) -> dict[str, str]:
        """Render the live blocks of a page; keys are the ids of the elements that contain them."""
        found = self._environment.get_template(template)
        context = found.new_context(values)
        return {
            name.removeprefix(LIVE): "".join(block(context))
            for name, block in found.blocks.items()
            if name.startswith(LIVE)
        }


def now() -> str:
    """Return the current time, to the second, with this machine's UTC offset."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _facts(facts: dict[str, Any]) -> str:
    """Format an audit entry's facts on one line; abbreviate long hexadecimal numbers."""
    return " ".join(f"{name}={_brief(value)}" for name, value in facts.items())


def _brief(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) > 40 and all(letter in "0123456789abcdef" for letter in text):
        return f"{text[:12]}…"
    return text if len(text) <= 200 else f"{text[:199]}…"
