"""Move the coordinator's secrets to another key store: a new KMS key, a passphrase, a key file.

    1. seal each secret with the new key store, in a file next to the old one;
    2. write the new key store into the configuration, atomically;
    3. replace the old files by the new ones.

After an interruption, the coordinator and other commands refuse the folder until this command is
run again. If step 2 was not done, the old files are valid, and it starts again at step 1; otherwise
it finishes step 3.
"""

from __future__ import annotations

from pathlib import Path

import tomli_w

from flo.errors import RefusedError, TrustError
from flo.keys.keystore import KeyStoreConfig, read_secret, write_secret
from flo.server.home.coordinator_home import REWRAPPED, SECRETS, CoordinatorHome
from flo.storage.files import write_public


def rewrap(home: CoordinatorHome, config: KeyStoreConfig) -> int:
    """Move all secrets to the key store of ``config``; return how many were moved.

    Raises:
        RefusedError: the coordinator is running, its key is being replaced, or this key store is in
        use already. TrustError, NetworkError: a key store does not open, or an interrupted move was
        to another one; no secret was replaced.
    """
    if home.next_key_path.exists():
        home.require_no_pending_rotation()
    with home.serving():
        moved = _begun(home)
        if home.read_config().keystore != config:
            moved = _seal_for(home, config)
            document = home.read_config().model_copy(update={"keystore": config})
            text = tomli_w.dumps(document.model_dump(mode="json", exclude_none=True))
            write_public(home.config_path, text.encode())
        elif not moved:
            raise RefusedError("the secrets are in this key store already", hint="name another")
        for path in moved:
            path.replace(path.with_name(path.name.removesuffix(REWRAPPED)))
    with home.recording() as store:
        store.add_event(None, "rewrapped", keystore=home.open_keystore().key_id)
    return len(moved)


def _begun(home: CoordinatorHome) -> list[Path]:
    """Return the new files of a move interrupted after step 2; before it, remove them.

    Until step 2, the old files open with the configured key store.
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


def _seal_for(home: CoordinatorHome, config: KeyStoreConfig) -> list[Path]:
    old, new = home.open_keystore(), config.open_new(home.directory)
    made = []
    for name, purpose in SECRETS.items():
        path = home.directory / name
        if path.exists():
            secret = read_secret(path, old, purpose)
            made.append(path.with_name(name + REWRAPPED))
            write_secret(made[-1], new, purpose, secret)
            if read_secret(made[-1], new, purpose) != secret:
                raise TrustError(f"the new key store cannot open {made[-1]}, which it sealed")
    return made
