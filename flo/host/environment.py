"""Digests of the installed code and libraries, for reports.

A report proves its claims only if the software is what the report says. Two hospitals with the same
digest run the same code. The digests contain no secret and identify no patient or machine.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
from importlib.metadata import Distribution
from pathlib import Path

from flo import __version__
from flo.documents import canonical

_FIELD = re.compile(r"^(Name|Version): *(.*?) *$", flags=re.MULTILINE)
NOT_COUNTED = (
    *("bench/", "cli/", "datasets/", "examples/", "lab/", "pages/"),
    *("clients/desk/", "server/console/", "infra/evidence/", "infra/systemd/"),
)
"""Packages whose code touches no patient, noise, ledger or message of a study under way."""
_LIBRARIES = ("torch", "opacus", "dp-accounting", "numpy", "scipy", "cryptography", "flwr")


def code_digest() -> str:
    """Return the SHA-256 over path and content of the source files that approvals depend on.

    These are all modules but those in ``NOT_COUNTED``: an edited page or command ends no approval.
    A new package counts until it is named there.
    """
    root = Path(__file__).parents[1]
    whole = hashlib.sha256()
    # In a checkout the top-level packages are links, which a glob would not follow.
    found = {
        (Path(folder) / name).relative_to(root).as_posix(): Path(folder) / name
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
        if name.endswith(".py")
    }
    for name, path in sorted(found.items()):
        if name.startswith(NOT_COUNTED):
            continue
        whole.update(f"{name}\0".encode())
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def software() -> dict[str, str]:
    """Return versions of FLO, Python and main libraries, and digests of code and environment."""
    installed = dict(_name_and_version(found) for found in importlib.metadata.distributions())
    named = {name: installed[name] for name in _LIBRARIES if name in installed}
    return {
        "flo": __version__,
        "python": platform.python_version(),
        **named,
        "code_digest": code_digest(),
        "environment_digest": canonical.digest(canonical.encode(installed)),
    }


def _name_and_version(installed: Distribution) -> tuple[str, str]:
    """Read two lines of the metadata; parsing all of it takes ten times as long."""
    text = installed.read_text("METADATA") or installed.read_text("PKG-INFO") or ""
    fields = dict(_FIELD.findall(text.partition("\n\n")[0]))
    return fields.get("Name", "").lower(), fields.get("Version", "")
