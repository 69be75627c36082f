"""A unit for the site, its models or the coordinator in a folder, for the current Python."""

from __future__ import annotations

import pwd
import sys
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from flo import __version__
from flo.errors import UsageError

What = Literal["site", "coordinator", "model"]
_VERBS = {"site": "run", "coordinator": "serve", "model": "serve"}


def unit(what: What, home: Path, user: str, device: str = "cpu") -> str:
    """Return the unit file's text.

    ``user``: owns the folder and runs FLO. ``device``: auto, cpu or cuda, as in site.toml.

    Raises:
        UsageError: no such user, it does not own the folder, or a path that systemd would split
        or hide.
    """
    place = home.resolve()
    try:
        number = pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise UsageError(
            f"there is no user {user!r} on this machine",
            hint=f"create it with useradd --system --shell /usr/sbin/nologin {user}, or name "
            "another user with --user",
        ) from error
    if place.stat().st_uid != number:
        raise UsageError(
            f"{place} does not belong to {user}",
            hint=f"change that with chown -R {user} {place}, or name its owner with --user",
        )
    python, elsewhere = Path(sys.executable), "install FLO elsewhere, such as in /opt/flo"
    for path, way_out in (
        (place, "move the folder, such as to /var/lib/flo"),
        (python, elsewhere),
        (python.resolve(), elsewhere),
    ):
        if is_temporary(path):
            raise UsageError(
                f"{path} is in a folder for temporary files, which a systemd unit cannot see: it "
                "has a /tmp of its own",
                hint=way_out,
            )
    for name in (str(place), sys.executable):
        if not name.isascii() or any(sign in name for sign in " \t%\\\"'$;"):
            raise UsageError(
                f"{name!r} contains a character that systemd interprets, or one outside ASCII",
                hint="use a path of letters, digits, hyphens, dots and slashes",
            )
    pages = Environment(
        loader=PackageLoader("flo.infra.systemd", ""),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - not HTML
    )
    return pages.get_template("unit.service.j2").render(
        what=what,
        verb=_VERBS[what],
        home=place,
        user=user,
        device=device,
        python=sys.executable,
        version=__version__,
        environment=f"/etc/flo/{what}.env",
        written_by=f"flo {what} unit",
        in_home=any(
            path.is_relative_to(above)
            for path in (place, python, python.resolve())
            for above in ("/home", "/root")
        ),
    )


def is_temporary(path: Path) -> bool:
    """Return whether a unit, which has its own /tmp, would not see the path."""
    return any(path.is_relative_to(shared) for shared in ("/tmp", "/var/tmp"))  # noqa: S108
