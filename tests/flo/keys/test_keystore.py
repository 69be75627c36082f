"""Key stores: a folder that was copied opens nothing without its key file or its passphrase."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flo.documents import canonical
from flo.errors import TrustError, UsageError
from flo.keys.identity import Identity
from flo.keys.keystore import (
    PASSPHRASE_VARIABLE,
    SEALED_MORE,
    AesKeyStore,
    KeyStore,
    KeyStoreConfig,
    LocalKeyStore,
    PassphraseKeyStore,
    is_sealed,
    passphrase,
    read_secret,
    write_secret,
)
from flo.storage.files import write_private

SECRET = bytes(range(32))
WORDS = b"correct horse battery"

STORES: dict[str, Callable[[Path], KeyStore]] = {
    "key file": lambda folder: LocalKeyStore(folder / "keystore.key"),
    "passphrase": lambda folder: PassphraseKeyStore(folder / "keystore.json", WORDS),
}
every_store = pytest.mark.parametrize("open_store", STORES.values(), ids=STORES.keys())


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """``keystore.json`` of a store that WORDS opens."""
    path = tmp_path_factory.mktemp("wrapped") / "keystore.json"
    PassphraseKeyStore(path, WORDS)
    return path.read_bytes()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# -- secrets ---------------------------------------------------------------------------------------


@every_store
def test_a_secret_is_sealed_and_reads_back(
    tmp_path: Path, open_store: Callable[[Path], KeyStore]
) -> None:
    path = tmp_path / "split.key"
    write_secret(path, open_store(tmp_path), "split.key", SECRET)
    assert read_secret(path, open_store(tmp_path), "split.key") == SECRET
    assert is_sealed(path.read_bytes())
    assert SECRET not in path.read_bytes()
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    with pytest.raises(TrustError, match="another purpose"):
        read_secret(path, open_store(tmp_path), "patients.key")


@every_store
def test_a_copied_folder_opens_nothing_under_another_key(
    tmp_path: Path, open_store: Callable[[Path], KeyStore]
) -> None:
    (tmp_path / "other").mkdir()
    write_secret(tmp_path / "split.key", open_store(tmp_path), "split.key", SECRET)
    with pytest.raises(TrustError):
        read_secret(tmp_path / "split.key", open_store(tmp_path / "other"), "split.key")


def test_no_changed_bit_opens(tmp_path: Path) -> None:
    path, store = tmp_path / "split.key", LocalKeyStore(tmp_path / "k")
    write_secret(path, store, "split.key", SECRET)
    sealed = path.read_bytes()
    for place in range(len(b"flo-sealed-1\n"), len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(TrustError):
            read_secret(path, store, "split.key")


def test_a_key_that_flo_0_1_wrote_in_the_clear_is_read_and_sealed_when_saved(
    tmp_path: Path,
) -> None:
    path, store, identity = tmp_path / "identity.key", LocalKeyStore(tmp_path / "k"), Identity.new()
    write_private(path, identity.pem())
    assert not is_sealed(path.read_bytes())
    read = Identity.load(path, store)
    assert read.fingerprint == identity.fingerprint
    read.save(path, store)
    assert is_sealed(path.read_bytes())
    assert Identity.load(path, store).fingerprint == identity.fingerprint


def test_a_secret_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no key at"):
        read_secret(tmp_path / "split.key", LocalKeyStore(tmp_path / "k"), "split.key")


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_key_file_of_a_wrong_length_is_refused(tmp_path: Path, length: int) -> None:
    write_private(tmp_path / "k", bytes(length))
    with pytest.raises(TrustError, match="not a key file of 32 bytes"):
        LocalKeyStore(tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == bytes(length)


# -- a passphrase ----------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [b"", WORDS[:-1], WORDS + b" ", WORDS.upper()])
def test_a_wrong_passphrase_opens_nothing(tmp_path: Path, wrapped: bytes, given: bytes) -> None:
    path = tmp_path / "keystore.json"
    path.write_bytes(wrapped)
    with pytest.raises(TrustError, match="this passphrase does not open") as raised:
        PassphraseKeyStore(path, given)
    assert "nothing was changed" in raised.value.hint
    assert path.read_bytes() == wrapped


def test_a_new_passphrase_has_twelve_characters(tmp_path: Path) -> None:
    path = tmp_path / "keystore.json"
    with pytest.raises(UsageError, match="at least 12"):
        PassphraseKeyStore(path, b"eleven char")
    assert not path.exists()
    PassphraseKeyStore(path, b"twelve chars")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schema_version", 2),
        ("kind", "file"),
        ("salt", "00"),
        ("wrapped", "00" * 59),
        ("cost", 1),  # a cheap one, to try passphrases fast
        ("cost", 1 << 30),  # one that takes all memory
        ("cost", 20_000),
        ("more", 1),
    ],
)
def test_a_key_store_of_another_shape_is_refused(
    tmp_path: Path, wrapped: bytes, name: str, value: object
) -> None:
    path = tmp_path / "keystore.json"
    document = canonical.decode(wrapped, limit=4096, what="keystore")
    path.write_bytes(canonical.encode({**document, name: value}))
    with pytest.raises(UsageError, match=name):
        PassphraseKeyStore(path, WORDS)


@pytest.mark.parametrize("name", ["salt", "wrapped"])
def test_a_changed_digit_of_a_key_store_does_not_open(
    tmp_path: Path, wrapped: bytes, name: str
) -> None:
    path = tmp_path / "keystore.json"
    document = canonical.decode(wrapped, limit=4096, what="keystore")
    last = "0" if document[name][-1] != "0" else "1"
    path.write_bytes(canonical.encode({**document, name: document[name][:-1] + last}))
    with pytest.raises(TrustError, match="does not open"):
        PassphraseKeyStore(path, WORDS)


def test_neither_the_passphrase_nor_the_key_is_in_any_file(tmp_path: Path) -> None:
    key, path = bytes(range(100, 132)), tmp_path / "keystore.json"
    PassphraseKeyStore.rewrap(path, WORDS, key)
    identity, store = Identity.new(), PassphraseKeyStore(path, WORDS)
    identity.save(tmp_path / "identity.key", store)
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    scalar = identity.key.private_numbers().private_value.to_bytes(48, "big")
    for secret in (WORDS, key, scalar):
        for form in (secret, secret.hex().encode(), secret.hex().upper().encode()):
            assert form not in written
    assert b"PRIVATE" not in written


@pytest.mark.slow
def test_a_new_passphrase_for_the_same_key_opens_what_was_sealed_before(tmp_path: Path) -> None:
    key, path = bytes(range(100, 132)), tmp_path / "keystore.json"
    PassphraseKeyStore.rewrap(path, WORDS, key)
    sealed = PassphraseKeyStore(path, WORDS).seal({"purpose": "x"}, SECRET)
    PassphraseKeyStore.rewrap(path, b"another passphrase", key)
    again = PassphraseKeyStore(path, b"another passphrase")
    assert again.open({"purpose": "x"}, sealed) == SECRET
    with pytest.raises(TrustError, match="does not open"):
        PassphraseKeyStore(path, WORDS)


# -- where a passphrase comes from -----------------------------------------------------------------


def test_a_passphrase_is_read_from_the_named_file_without_its_newline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_private(tmp_path / "words", b" " + WORDS + b" \r\n")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, str(tmp_path / "words"))
    assert passphrase("passphrase", new=True, ask=_must_not_ask) == b" " + WORDS + b" "
    monkeypatch.setenv(PASSPHRASE_VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="nothing cannot be read"):
        passphrase("passphrase", new=False, ask=_must_not_ask)


def _must_not_ask(prompt: str) -> str:
    raise AssertionError(prompt)


def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{WORDS.decode()}\n" * 2))
    with pytest.raises(UsageError, match="no terminal") as raised:
        passphrase("passphrase", new=True, ask=_must_not_ask)
    assert PASSPHRASE_VARIABLE in raised.value.hint


@pytest.mark.parametrize(
    ("new", "typed", "prompts"),
    [(False, ["one"], ["for x: "]), (True, ["one", "one"], ["for x: ", "repeat it: "])],
)
def test_on_a_terminal_a_new_passphrase_is_typed_twice(
    monkeypatch: pytest.MonkeyPatch, new: bool, typed: list[str], prompts: list[str]
) -> None:
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "stdin", Terminal())
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return typed[len(asked) - 1]

    assert passphrase("for x", new=new, ask=ask) == b"one"
    assert asked == prompts


def test_two_typed_passphrases_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "stdin", Terminal())
    typed = iter(["correct horse", "correct house"])
    with pytest.raises(UsageError, match="differ") as raised:
        passphrase("passphrase", new=True, ask=lambda prompt: next(typed))
    assert "horse" not in str(raised.value) + raised.value.hint


# -- a folder's configuration ----------------------------------------------------------------------


def test_a_folders_key_store_is_where_its_configuration_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_private(tmp_path / "words", WORDS)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, str(tmp_path / "words"))
    for config, written in (
        (KeyStoreConfig(), "keystore.key"),
        (KeyStoreConfig(path=tmp_path / "elsewhere.key"), "elsewhere.key"),
        (KeyStoreConfig(kind="passphrase"), "keystore.json"),
    ):
        assert not (tmp_path / written).exists()
        sealed = config.open(tmp_path).seal({}, SECRET)
        assert (tmp_path / written).exists()
        assert config.open(tmp_path).open({}, sealed) == SECRET


def test_a_passphrase_is_asked_for_once_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_private(tmp_path / "words", WORDS)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, str(tmp_path / "words"))
    store = KeyStoreConfig(kind="passphrase").open(tmp_path)
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert KeyStoreConfig(kind="passphrase").open(tmp_path) is store


def test_a_key_file_on_a_disk_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no key store"):
        KeyStoreConfig(path=tmp_path / "not-mounted" / "keystore.key").open(tmp_path)


@pytest.mark.parametrize("kind", ["file", "passphrase"])
def test_a_lost_key_store_is_never_made_anew_for_keys_that_it_sealed(
    tmp_path: Path, kind: str
) -> None:
    config = KeyStoreConfig.model_validate({"kind": kind})
    Identity.new().save(tmp_path / "identity.key", LocalKeyStore(tmp_path / "elsewhere"))
    with pytest.raises(UsageError, match="no key store at"):
        config.open(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"identity.key", "elsewhere"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_key_file_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    LocalKeyStore(tmp_path / "k")
    (tmp_path / "k").chmod(mode)
    with pytest.raises(TrustError, match="can be read by other users"):
        LocalKeyStore(tmp_path / "k")


@pytest.mark.parametrize("kind", ["", "kms", "none"])
def test_an_unknown_kind_of_key_store_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="kind"):
        KeyStoreConfig.model_validate({"kind": kind})


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (5 << 20) + 3])
def test_pieces_are_what_sealing_gives_and_open_under_their_context_only(size: int) -> None:
    store, data = AesKeyStore(os.urandom(32)), os.urandom(size)
    whole = b"".join(store.seal_pieces({"purpose": "checkpoint"}, memoryview(data)))
    assert len(whole) == size + SEALED_MORE == len(store.seal({}, data))
    assert store.open({"purpose": "checkpoint"}, whole) == data
    with pytest.raises(TrustError):
        store.open({"purpose": "model"}, whole)
    with pytest.raises(TrustError):
        store.open({"purpose": "checkpoint"}, whole[:-1] + bytes([whole[-1] ^ 1]))
