"""Check that every internal link of the built site has a target: ``links.py FOLDER``.

External links are counted but not followed, as the build machine may have no internet.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """Links of a page, and the anchors in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect links and anchors."""
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


def broken(folder: Path) -> tuple[list[str], int]:
    """Return the links without a target, as "page: link", and the number of external links."""
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
    """Print the broken links; exit with code 1 if there are any."""
    found, outside = broken(Path(sys.argv[1]).resolve())
    for line in found:
        sys.stderr.write(f"{line}\n")
    sys.stdout.write(f"{len(found)} broken links; {outside} lead elsewhere\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
