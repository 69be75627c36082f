"""Findings of ``flo doctor``, and its checks of any machine: Python, libraries, disk, clock.

Each check takes values and returns a finding, so that it can be tried with the values of any
machine. Checks of a site or a coordinator are in ``flo.clients.maintenance.doctor`` and
``flo.server.maintenance.doctor``.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from flo.errors import FloError

State = Literal["ok", "warning", "broken"]

DISTRIBUTION = "flo-federated"
CLOCK_WORTH_TELLING_SECONDS = 5.0
_MIB = 1 << 20
_LEAST_FREE, _LITTLE_FREE = 200 * _MIB, 2048 * _MIB
# SQLite's write-ahead log needs shared memory and real locks, which these do not provide.
_NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "afs")
_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)


@dataclass(frozen=True)
class Finding:
    """Result of a check: its subject, state and text, and how to ``fix`` it unless ``ok``.

    ``broken``: no round could run. ``warning``: a round could run, but a person should inspect it.
    """

    subject: str
    state: State
    message: str
    fix: str = ""


def could_run(findings: Iterable[Finding]) -> bool:
    """Return whether a round could run: no finding is broken."""
    return all(finding.state != "broken" for finding in findings)


def tried(what: str, attempt: Callable[[], str], mend: str) -> Finding:
    """Return the text of ``attempt``, or the error that it raised with its hint, or ``mend``."""
    try:
        return Finding(what, "ok", attempt())
    except FloError as error:
        return Finding(what, "broken", str(error), error.hint or mend)
    except OSError as error:
        return Finding(what, "broken", f"{error.filename}: {error.strerror}", mend)
    except sqlite3.Error as error:
        return Finding(what, "broken", f"the database cannot be read: {error}", mend)


def key_store(fingerprint: Callable[[], str]) -> Finding:
    """Check that a folder's key store opens its identity key, by reading ``fingerprint``."""
    return tried(
        "key store",
        lambda: f"opens; fingerprint {fingerprint()[:16]}",
        "restore the key store that sealed this folder's keys",
    )


def machine(folder: Path) -> list[Finding]:
    """Check this machine and the disk of ``folder``."""
    free = shutil.disk_usage(folder).free
    return [
        python(sys.version_info[:3], platform.system(), sys.maxsize > 1 << 32),
        libraries(_required(), _installed()),
        disk(folder, free, filesystem_of(folder, Path("/proc/self/mountinfo").read_text())),
    ]


def python(version: tuple[int, ...], system: str, has_64_bits: bool) -> Finding:
    """Check the interpreter and the operating system."""
    said = f"Python {'.'.join(map(str, version))} on {system}"
    if version < (3, 11):
        return Finding("python", "broken", said, "install Python 3.11 or newer, and FLO with it")
    if system != "Linux":
        return Finding(
            "python",
            "broken",
            f"{said}; agents and coordinators run on Linux",
            "move it to Linux; `flo audit verify` and `flo study check` work here",
        )
    if not has_64_bits:
        return Finding("python", "broken", f"{said}, 32 bits", "install a 64-bit Python")
    return Finding("python", "ok", said)


def libraries(required: Iterable[str], installed: Mapping[str, str]) -> Finding:
    """Check that the installed libraries meet the requirements of FLO's own metadata.

    ``required``: PEP 508 requirements. ``installed``: normalised name -> version.
    """
    wrong = []
    for text in required:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = installed.get(_normalised(wanted.name))
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            wrong.append((wanted, version or "missing"))
    if not wrong:
        return Finding("libraries", "ok", f"FLO {installed.get(DISTRIBUTION, 'unknown')}")
    named = ", ".join(f"{wanted.name} {version}" for wanted, version in wrong)
    wishes = " ".join(f"'{wanted.name}{wanted.specifier}'" for wanted, _ in wrong)
    return Finding(
        "libraries",
        "broken",
        f"missing or of a wrong version: {named}",
        f"{sys.executable} -m pip install {wishes}",
    )


def disk(folder: Path, free: int, filesystem: str) -> Finding:
    """Check that the disk can hold a ledger: free space and file system. ``free``: bytes."""
    said = f"{free / _MIB:,.0f} MiB free for {folder} ({filesystem})"
    if filesystem in _NETWORK_FILESYSTEMS:
        return Finding(
            "disk",
            "broken",
            f"{folder} is on a network file system ({filesystem}), where a ledger can be lost",
            "move the folder to a local disk and give its new place with --home",
        )
    if free < _LEAST_FREE:
        return Finding(
            "disk", "broken", said, f"free at least {_LEAST_FREE // _MIB} MiB, or move the folder"
        )
    if free < _LITTLE_FREE:
        return Finding("disk", "warning", said, "models, snapshots and logs will need more space")
    return Finding("disk", "ok", said)


def private(folder: Path, mode: int, owners: Mapping[Path, int], user: int) -> Finding:
    """Check that the folder and all in it belong to this user, and that it is closed to others.

    ``mode``: of the folder. ``owners``: owner of the folder and of each entry in it.
    """
    others = {path: owner for path, owner in owners.items() if owner != user}
    broken = partial(Finding, "folder", "broken")
    if folder in others:
        return broken(
            f"{folder} belongs to user {others[folder]}, and this is user {user}",
            f"run FLO as its owner: sudo -u '#{others[folder]}' flo doctor {folder}",
        )
    if others:
        path, owner = next(iter(others.items()))
        return broken(
            f"{len(others)} files in {folder} belong to others, such as {path.name} (user {owner})",
            f"chown -R '#{user}' {folder} (as root); run FLO as the folder's owner only",
        )
    if mode & 0o077:
        return broken(f"{folder} is open to other users ({mode:o})", f"chmod 700 {folder}")
    return Finding("folder", "ok", f"{folder} is private to this user")


def looked_at(folder: Path) -> Finding:
    """Apply ``private`` to an actual folder."""
    paths = [folder, *folder.rglob("*")]
    owners = {path: path.lstat().st_uid for path in paths}
    return private(folder, stat.S_IMODE(folder.stat().st_mode), owners, os.geteuid())


def clock_beside(offset: float) -> Finding:
    """Compare this machine's clock with the other side's. ``offset``: seconds that ours is ahead.

    Rounds run in any case: agents sign with the coordinator's time.
    """
    if abs(offset) <= CLOCK_WORTH_TELLING_SECONDS:
        return Finding("clock", "ok", "same as the coordinator's")
    return Finding(
        "clock",
        "warning",
        f"this machine's clock is {abs(offset):.0f} s "
        f"{'ahead of' if offset > 0 else 'behind'} the coordinator's",
        "synchronise both with a time server: timedatectl set-ntp true, or chrony",
    )


def clock_alone(state: int) -> Finding:
    """Report whether the kernel's clock is synchronised. ``state``: as adjtimex(2) returns it."""
    if state == _UNSYNCHRONISED:
        return Finding(
            "clock",
            "warning",
            "the kernel reports that the clock is not synchronised; rounds continue, but times in "
            "logs may be wrong",
            "timedatectl set-ntp true, or chrony",
        )
    return Finding("clock", "ok", "synchronised with a time server")


def kernel_clock_state() -> int:
    """Return the state from adjtimex(2), without changing the clock."""
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))


def filesystem_of(folder: Path, mounts: str) -> str:
    """Return a folder's type of file system, from the text of /proc/self/mountinfo."""
    place, best, kind = folder.resolve(), Path("/"), "unknown"
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].replace("\\040", " "))
        if place.is_relative_to(point) and (kind == "unknown" or point.is_relative_to(best)):
            best, kind = point, after.split()[0]
    return kind


def _required() -> list[str]:
    return importlib.metadata.requires(DISTRIBUTION) or []


def _installed() -> dict[str, str]:
    """Return name -> version; of duplicates the first on the path, which Python imports."""
    found: dict[str, str] = {}
    for one in importlib.metadata.distributions():
        found.setdefault(_normalised(str(one.metadata["Name"])), one.version)
    return found


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
