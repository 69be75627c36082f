"""The coordinator's secrets move to another key store: whole, or not at all, or finished later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flo.errors import RefusedError, TrustError
from flo.keys.keystore import KeyStore, KeyStoreConfig, read_secret
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.maintenance.rewrap import rewrap
from tests.commands import flo
from tests.server.real_coordinator import kinds

SECRETS = {"identity.key": "identity-key", "ca.key": "ca-key", "checkpoint.key": "checkpoints"}


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    made = CoordinatorHome.create(tmp_path / "coordinator", CoordinatorConfig())
    made.open_checkpoint_key()
    return made


def opened(home: CoordinatorHome, keystore: KeyStore) -> dict[str, bytes]:
    return {name: read_secret(home.directory / name, keystore, p) for name, p in SECRETS.items()}


def test_every_secret_moves_and_the_old_key_opens_none(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    before, old = opened(home, home.open_keystore()), home.open_keystore()
    (tmp_path / "token").mkdir()
    assert rewrap(home, KeyStoreConfig(path=tmp_path / "token" / "key")) == 3
    again = CoordinatorHome.open(home.directory)
    assert opened(again, again.open_keystore()) == before
    for name, purpose in SECRETS.items():
        with pytest.raises(TrustError):
            read_secret(home.directory / name, old, purpose)
    assert kinds(again).count("rewrapped") == 1


def test_the_key_store_in_use_is_no_other(home: CoordinatorHome) -> None:
    with pytest.raises(RefusedError, match="in this key store already"):
        rewrap(home, KeyStoreConfig())


@pytest.mark.slow
def test_nothing_is_changed_while_the_coordinator_runs(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    with home.serving(), pytest.raises(RefusedError, match="already runs"):
        rewrap(home, KeyStoreConfig(path=tmp_path / "key"))
    opened(home, home.open_keystore())


class Killed(BaseException):
    """As if by kill -9."""


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Dies at the so many-th file that takes its place."""
    replace, count = Path.replace, [0]

    def counted(path: Path, target: Any) -> Path:
        count[0] += 1
        if count[0] == number:
            raise Killed
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", counted)
    return lambda: count[0]


def test_a_move_that_was_killed_anywhere_is_finished_by_asking_again(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    before, number, finished = opened(home, home.open_keystore()), 0, False
    while not finished:
        number += 1
        config = KeyStoreConfig(path=tmp_path / f"key-{number}")
        with pytest.MonkeyPatch.context() as patched:
            killed_at(number, patched)
            try:
                rewrap(home, config)
                finished = True
            except Killed:
                pass
        if not finished:
            if home.read_config().keystore == config:  # it was switched: nothing else is done now
                with pytest.raises(RefusedError, match="was interrupted") as refusal:
                    home.require_no_pending_rotation()
                assert "flo coordinator rewrap" in refusal.value.hint
            else:
                assert opened(home, home.open_keystore()) == before
            rewrap(home, config)
        assert opened(home, home.open_keystore()) == before
        home.require_no_pending_rotation()
    assert number > 7
    assert not list(home.directory.glob("*.rewrapped"))


def test_a_move_that_never_switched_is_given_up_by_asking_for_what_is(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    before = opened(home, home.open_keystore())
    with pytest.MonkeyPatch.context() as patched:
        killed_at(3, patched)
        with pytest.raises(Killed):
            rewrap(home, KeyStoreConfig(path=tmp_path / "another"))
    with pytest.raises(RefusedError, match="in this key store already"):
        rewrap(home, KeyStoreConfig())
    assert opened(home, home.open_keystore()) == before
    home.require_no_pending_rotation()


@pytest.mark.processes
def test_by_command(home: CoordinatorHome, tmp_path: Path) -> None:
    done = flo(
        *("coordinator", "rewrap", "--keystore", "file", "--keystore-path", tmp_path / "key"),
        *("--home", home.directory),
    )
    assert done.returncode == 0, done.stderr
    assert "3 secrets were sealed again" in done.stdout
    assert CoordinatorHome.open(home.directory).read_config().keystore.path == tmp_path / "key"
