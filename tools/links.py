"""Every link of the built site that leads within it leads to something: ``links.py FOLDER``.

Links to elsewhere are counted and not followed; the build machine may have no internet.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page leads to, and the places in it that can be led to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect targets and places."""
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


def broken(folder: Path) -> tuple[list[str], int]:
    """Links that lead nowhere, as "page: link", and how many lead elsewhere."""
    pages = {path: Page(path) for path in folder.rglob("*.html")}
    found, outside = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                outside += 1
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = target in pages and unquote(parts.fragment) in pages[target].places
            if not there and not (target.is_file() and not parts.fragment):
                found.append(f"{path.relative_to(folder)}: {link}")
    return found, outside


def main() -> None:
    """Print what is broken; exit code 1 if anything is."""
    found, outside = broken(Path(sys.argv[1]).resolve())
    for line in found:
        sys.stderr.write(f"{line}\n")
    sys.stdout.write(f"{len(found)} broken links; {outside} lead elsewhere\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
