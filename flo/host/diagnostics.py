"""What ``flo doctor`` finds, and what it finds of any machine: Python, libraries, disk, clock.

Every check takes values and returns a finding, so that it can be told of any machine. What only a
site or a coordinator has stands in ``flo.clients.maintenance.doctor`` and
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
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from flo.errors import FloError

State = Literal["ok", "warning", "broken"]

DISTRIBUTION = "flo-federated"
CLOCK_WORTH_TELLING_SECONDS = 5.0
_MIB = 1 << 20
_LEAST_FREE, _LITTLE_FREE = 200 * _MIB, 2048 * _MIB
# Where SQLite's write-ahead log, which needs shared memory and real locks, does not hold.
_NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "afs")
_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)


@dataclass(frozen=True)
class Finding:
    """``what`` was looked at, how it is, and for all but ``ok`` how to ``mend`` it.

    ``broken``: no round could run. ``warning``: one could, and somebody should look at it.
    """

    what: str
    state: State
    says: str
    mend: str = ""


def could_run(findings: Iterable[Finding]) -> bool:
    """Whether a round could run: nothing is broken."""
    return all(finding.state != "broken" for finding in findings)


def tried(what: str, attempt: Callable[[], str], mend: str) -> Finding:
    """What ``attempt`` says of itself, or the error it raised with its way out, or ``mend``."""
    try:
        return Finding(what, "ok", attempt())
    except FloError as error:
        return Finding(what, "broken", str(error), error.hint or mend)
    except OSError as error:
        return Finding(what, "broken", f"{error.filename}: {error.strerror}", mend)
    except sqlite3.Error as error:
        return Finding(what, "broken", f"the database cannot be read: {error}", mend)


def key_store(fingerprint: Callable[[], str]) -> Finding:
    """Whether a folder's key store opens its identity key, whose fingerprint is asked for."""
    return tried(
        "key store",
        lambda: f"opens; fingerprint {fingerprint()[:16]}",
        "put the key store back that sealed this folder's keys",
    )


def machine(folder: Path) -> list[Finding]:
    """What holds of this machine and of the disk that a folder is on."""
    free = shutil.disk_usage(folder).free
    return [
        python(sys.version_info[:3], platform.system(), sys.maxsize > 1 << 32),
        libraries(_required(), _installed()),
        disk(folder, free, filesystem_of(folder, Path("/proc/self/mountinfo").read_text())),
    ]


def python(version: tuple[int, ...], system: str, has_64_bits: bool) -> Finding:
    """The interpreter and the operating system."""
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
    """Whether what is installed is what FLO's own metadata asks for.

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
        return Finding("libraries", "ok", f"FLO {installed.get(DISTRIBUTION, 'unknown')} and all")
    named = ", ".join(f"{wanted.name} {version}" for wanted, version in wrong)
    wishes = " ".join(f"'{wanted.name}{wanted.specifier}'" for wanted, _ in wrong)
    return Finding(
        "libraries",
        "broken",
        f"not what FLO needs: {named}",
        f"{sys.executable} -m pip install {wishes}",
    )


def disk(folder: Path, free: int, filesystem: str) -> Finding:
    """Whether the ledger can be written, and on what. ``free``: bytes."""
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
        return Finding("disk", "warning", said, "models, frozen patients and logs will need more")
    return Finding("disk", "ok", said)


def private(folder: Path, mode: int, owners: Mapping[Path, int], user: int) -> Finding:
    """Whether the folder, and all in it, is this user's and nobody else's.

    ``mode``: of the folder. ``owners``: who owns it, and each thing in it.
    """
    others = {path: owner for path, owner in owners.items() if owner != user}
    if folder in others:
        return Finding(
            "folder",
            "broken",
            f"{folder} belongs to user {others[folder]}, and this is user {user}",
            f"run FLO as its owner: sudo -u '#{others[folder]}' flo doctor {folder}",
        )
    if others:
        path, owner = next(iter(others.items()))
        return Finding(
            "folder",
            "broken",
            f"{len(others)} files in {folder} are another user's, such as {path.name} ({owner})",
            f"chown -R '#{user}' {folder} (as root); run FLO as the folder's owner only",
        )
    if mode & 0o077:
        return Finding(
            "folder",
            "broken",
            f"{folder} is open to other users ({mode:o})",
            f"chmod 700 {folder}",
        )
    return Finding("folder", "ok", f"{folder} is this user's only")


def looked_at(folder: Path) -> Finding:
    """``private`` of a folder as it is."""
    paths = [folder, *folder.rglob("*")]
    owners = {path: path.lstat().st_uid for path in paths}
    return private(folder, stat.S_IMODE(folder.stat().st_mode), owners, os.geteuid())


def clock_beside(offset: float) -> Finding:
    """This machine's clock beside the other side's. ``offset``: seconds that ours is ahead.

    Rounds go on in any case: agents sign by the coordinator's clock.
    """
    if abs(offset) <= CLOCK_WORTH_TELLING_SECONDS:
        return Finding("clock", "ok", "as the coordinator's")
    return Finding(
        "clock",
        "warning",
        f"this machine's clock is {abs(offset):.0f} s "
        f"{'ahead of' if offset > 0 else 'behind'} the coordinator's",
        "let both follow the same time: timedatectl set-ntp true, or chrony",
    )


def clock_alone(state: int) -> Finding:
    """What the kernel knows of its own clock. ``state``: as adjtimex(2) returns it."""
    if state == _UNSYNCHRONISED:
        return Finding(
            "clock",
            "warning",
            "the kernel does not know that its clock follows a time server; rounds go on, and "
            "times in logs may be wrong",
            "timedatectl set-ntp true, or chrony",
        )
    return Finding("clock", "ok", "follows a time server")


def kernel_clock_state() -> int:
    """What adjtimex(2) returns when asked and told nothing."""
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))


def filesystem_of(folder: Path, mounts: str) -> str:
    """The type of file system a folder is on, from the text of /proc/self/mountinfo."""
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
    """Of what is installed twice, the one that Python imports: it stands first on the path."""
    found: dict[str, str] = {}
    for one in importlib.metadata.distributions():
        found.setdefault(_normalised(str(one.metadata["Name"])), one.version)
    return found


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
