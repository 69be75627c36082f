"""Move the coordinator's secrets to another key store: a new KMS key, a passphrase, a key file.

    1. each secret is sealed by the new key store, beside the old one;
    2. the configuration names the new key store, in one write;
    3. the new ones take the places of the old ones.

Cut off before 2, the old ones count and asking again begins anew; cut off after it, nothing else is
done in the folder until asking again has finished it.
"""

from __future__ import annotations

from pathlib import Path

import tomli_w

from flo.errors import RefusedError, TrustError
from flo.keys.keystore import KeyStoreConfig, read_secret, write_secret
from flo.server.home.coordinator_home import REWRAPPED, SECRETS, CoordinatorHome
from flo.storage.files import write_public


def rewrap(home: CoordinatorHome, config: KeyStoreConfig) -> int:
    """How many secrets were moved.

    Raises:
        RefusedError: the coordinator is running, its key is being replaced, or another move was cut
        off. TrustError, NetworkError: a key store does not open; nothing was changed.
    """
    if home.next_key_path.exists():
        home.require_no_pending_rotation()
    with home.serving():
        moved = _begun(home)
        if home.read_config().keystore != config:
            moved = _seal_anew(home, config)
            document = home.read_config().model_copy(update={"keystore": config})
            text = tomli_w.dumps(document.model_dump(mode="json", exclude_none=True))
            write_public(home.config_path, text.encode())
        elif not moved:
            raise RefusedError("this key store is in use already", hint="name another one")
        for path in moved:
            path.replace(path.with_name(path.name.removesuffix(REWRAPPED)))
    with home.recording() as store:
        store.add_event(None, "rewrapped", keystore=home.open_keystore().key_id)
    return len(moved)


def _begun(home: CoordinatorHome) -> list[Path]:
    """Secrets of a move that was cut off after the switch; those of one before it are removed.

    Before it, what lies in its place opens with the key store that the configuration names.
    """
    found = []
    for name, purpose in SECRETS.items():
        path = home.directory / (name + REWRAPPED)
        if path.exists():
            try:
                read_secret(home.directory / name, home.open_keystore(), purpose)
            except TrustError:
                found.append(path)
            else:
                path.unlink()
    return found


def _seal_anew(home: CoordinatorHome, config: KeyStoreConfig) -> list[Path]:
    old, new = home.open_keystore(), config.open_new(home.directory)
    made = []
    for name, purpose in SECRETS.items():
        path = home.directory / name
        if path.exists():
            secret = read_secret(path, old, purpose)
            made.append(path.with_name(name + REWRAPPED))
            write_secret(made[-1], new, purpose, secret)
            if read_secret(made[-1], new, purpose) != secret:
                raise TrustError(f"the new key store does not open what it sealed, {made[-1]}")
    return made
