"""What a report says about the software: the same code has the same digest, other code another."""

from __future__ import annotations

import getpass
import importlib.metadata
import inspect
import json
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import flo
from flo import __version__
from flo.documents import canonical
from flo.host import environment
from flo.host.environment import software

SOURCE = Path(flo.__file__).parent
NAMED = {"torch", "opacus", "dp-accounting", "numpy", "scipy", "cryptography", "flwr"}
code_digest = inspect.unwrap(environment.code_digest)  # computed anew at every call
IGNORED = shutil.ignore_patterns("__pycache__")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package as a wheel installs it: folders, no links."""
    copy = Path(shutil.copytree(SOURCE, tmp_path / "flo", ignore=IGNORED))
    monkeypatch.setattr(environment, "__file__", str(copy / "host" / "environment.py"))
    return copy


def test_the_same_code_has_the_same_digest_wherever_it_lies(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = code_digest()
    again = shutil.copytree(installed, tmp_path / "elsewhere" / "flo")
    monkeypatch.setattr(environment, "__file__", str(Path(again) / "host" / "environment.py"))
    assert code_digest() == first
    assert len(first) == 64


def edit(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a message": lambda root: edit(root / "protocol" / "messages.py"),
    "a mechanism": lambda root: edit(root / "privacy" / "mechanisms" / "mechanisms.py"),
    "the trainer": lambda root: edit(root / "clients" / "data_process" / "trainer.py"),
    "the ledger": lambda root: edit(root / "privacy" / "ledger" / "store.py"),
    "a new file": lambda root: (root / "privacy" / "extra.py").write_text(""),
    "a missing file": lambda root: (root / "privacy" / "patients" / "split.py").unlink(),
    "a renamed file": lambda root: (root / "host" / "logs.py").rename(root / "host" / "log.py"),
    "two files swapped": lambda root: swap(root / "errors.py", root / "host" / "logs.py"),
}


def swap(one: Path, two: Path) -> None:
    first, second = one.read_text(), two.read_text()
    one.write_text(second)
    two.write_text(first)


@pytest.mark.parametrize("what", CHANGES)
def test_other_code_has_another_digest(installed: Path, what: str) -> None:
    before = code_digest()
    CHANGES[what](installed)
    assert code_digest() != before


def test_a_checkout_has_the_digest_of_the_wheel_made_from_it(installed: Path) -> None:
    wheel = code_digest()
    environment.__file__ = str(SOURCE / "host" / "environment.py")
    assert any(path.is_symlink() for path in SOURCE.iterdir())
    assert code_digest() == wheel


@pytest.mark.processes
def test_whatever_an_agent_and_its_data_process_load_counts() -> None:
    script = (
        "import sys, flo.clients.agent.agent, flo.clients.data_process.child\n"
        "import flo.clients.data_process.trainer, flo.clients.approvals.approve\n"
        "print(*(n for n in sys.modules if n.startswith('flo.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = [name.replace(".", "/").removeprefix("flo/") + "/" for name in done.stdout.split()]
    assert "privacy/ledger/ledger/" in loaded
    assert [name for name in loaded if name.startswith(environment.NOT_COUNTED)] == []


def test_what_is_not_code_and_pages_and_commands_do_not_count(installed: Path) -> None:
    before = code_digest()
    (installed / "__pycache__").mkdir()
    (installed / "__pycache__" / "messages.cpython-311.pyc").write_bytes(b"x")
    (installed / "notes.txt").write_text("x")
    edit(installed / "cli" / "demo.py")
    edit(installed / "clients" / "desk" / "facts.py")
    edit(installed / "clients" / "desk" / "inbox.html.j2")
    edit(installed / "server" / "console" / "routes.py")
    assert code_digest() == before


def test_versions_and_digests_are_named() -> None:
    found = software()
    assert set(found) == {"flo", "python", "code_digest", "environment_digest"} | NAMED
    assert (found["flo"], found["python"]) == (__version__, platform.python_version())
    for name in NAMED:
        assert found[name] == importlib.metadata.version(name)
    assert found == software()


def test_another_library_version_has_another_environment_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.distributions

    def environment_of(**versions: str) -> str:
        """The digest where only these are installed, in this order."""
        folders = []
        for name, version in versions.items():
            folders.append(tmp_path / f"{name}-{version}")
            where = folders[-1] / f"{name}-{version}.dist-info"
            where.mkdir(parents=True, exist_ok=True)
            fields = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            (where / "METADATA").write_text(f"{fields}\nName: a description\nVersion: 0\n")
        found = list(real(path=list(map(str, folders))))
        assert len(found) == len(versions)
        monkeypatch.setattr(importlib.metadata, "distributions", lambda: iter(found))
        return software()["environment_digest"]

    one = environment_of(numpy="2.0", pandas="2.2")
    assert one == canonical.digest(canonical.encode({"numpy": "2.0", "pandas": "2.2"}))
    assert one == environment_of(pandas="2.2", numpy="2.0")
    assert one == environment_of(NumPy="2.0", pandas="2.2")
    assert one != environment_of(numpy="2.0", pandas="2.3")
    assert one != environment_of(numpy="2.0")


def test_every_installed_library_is_named_as_the_standard_library_reads_it() -> None:
    installed = {
        found.metadata["Name"].lower(): found.version
        for found in importlib.metadata.distributions()
    }
    assert len(installed) > 50
    expected = canonical.digest(canonical.encode(installed))
    assert software()["environment_digest"] == expected


def test_nothing_names_a_machine_or_a_person() -> None:
    text = json.dumps(software())
    for secret in (str(Path.home()), str(SOURCE.parent), socket.gethostname(), getpass.getuser()):
        assert len(secret) < 4 or secret not in text
    assert "/" not in text


@pytest.mark.processes
def test_asking_loads_no_library() -> None:
    program = (
        "import sys; from flo.host.environment import software; software();"
        "print([m for m in ('torch', 'flwr', 'opacus', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.strip() == "[]"
