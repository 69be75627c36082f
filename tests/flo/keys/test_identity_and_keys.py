"""Keys: who signed, for which purpose, and what is sealed for whom."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from flo.errors import TrustError, UsageError
from flo.keys.identity import (
    Identity,
    fingerprint,
    format_fingerprint,
    low_s,
    parse_fingerprint,
    public_bytes,
    verify,
)
from flo.keys.keystore import LocalKeyStore

KEY = Identity.new()
CONTEXT = {"purpose": "kept-reply", "study": "a"}


def test_of_two_equal_signatures_the_one_with_the_smaller_s_is_made() -> None:
    """So that what is signed twice alike cannot be written in two ways."""
    identity = Identity.new()
    order = 2**384 - 1388124618062372383947042015309946732620727252194336364173  # FIPS 186-4
    for number in range(20):
        made = identity.sign("test", bytes([number]))
        r, s = decode_dss_signature(bytes.fromhex(made))
        assert s <= order // 2
        other = encode_dss_signature(r, order - s).hex()
        verify(identity.public, "test", bytes([number]), other)  # as earlier releases made them
        assert low_s(other) == low_s(made) == made


@pytest.mark.parametrize(
    "text",
    [
        *("", "zz", "00", "30060201"),
        *(encode_dss_signature(1, s).hex() for s in (0, 2**384, 2**400)),
        encode_dss_signature(0, 1).hex(),
    ],
)
def test_what_is_no_signature_has_no_such_form(text: str) -> None:
    with pytest.raises(TrustError):
        low_s(text)


def test_a_signature_is_accepted_for_its_message_and_purpose() -> None:
    verify(KEY.public, "study", b"text", KEY.sign("study", b"text"))


def _signature() -> str:
    return KEY.sign("study", b"text")


@pytest.mark.parametrize(
    ("public", "purpose", "message", "signature"),
    [
        pytest.param(KEY.public, "study", b"texu", _signature(), id="another message"),
        pytest.param(KEY.public, "approval", b"text", _signature(), id="another purpose"),
        pytest.param(KEY.public, "study\0te", b"xt", _signature(), id="purpose runs into message"),
        pytest.param(Identity.new().public, "study", b"text", _signature(), id="another key"),
        pytest.param(KEY.public, "study", b"text", _signature().upper(), id="upper case"),
        pytest.param(KEY.public, "study", b"text", " " + _signature(), id="space"),
        pytest.param(KEY.public, "study", b"text", _signature()[:-2], id="cut off"),
        pytest.param(KEY.public, "study", b"text", "", id="empty"),
        pytest.param(KEY.public, "study", b"text", "xyz", id="not hexadecimal"),
        pytest.param(b"", "study", b"text", _signature(), id="no key"),
        pytest.param(
            public_bytes(ec.generate_private_key(ec.SECP256R1()).public_key()),
            "study",
            b"text",
            _signature(),
            id="P-256 key",
        ),
    ],
)
def test_a_signature_that_does_not_match_is_refused(
    public: bytes, purpose: str, message: bytes, signature: str
) -> None:
    with pytest.raises(TrustError, match="does not match"):
        verify(public, purpose, message, signature)


def test_a_key_file_is_for_its_owner_only_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    keystore = LocalKeyStore(tmp_path / "keystore.key")
    KEY.save(path, keystore)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(tmp_path.iterdir()) == {path, tmp_path / "keystore.key"}
    assert b"PRIVATE" not in path.read_bytes()
    read = Identity.load(path, keystore)
    assert read.fingerprint == KEY.fingerprint == fingerprint(KEY.public)


def test_a_key_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no key"):
        Identity.load(tmp_path / "none.key", LocalKeyStore(tmp_path / "k"))


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(ec.generate_private_key(ec.SECP256R1()), id="P-256"),
        pytest.param(ed25519.Ed25519PrivateKey.generate(), id="Ed25519"),
        pytest.param(None, id="no key at all"),
    ],
)
def test_a_key_of_another_kind_is_refused(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | None
) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(
        b"nonsense"
        if key is None
        else key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(TrustError, match="is not"):
        Identity.load(path, LocalKeyStore(tmp_path / "k"))


def test_repr_hides_the_key() -> None:
    secret = KEY.key.private_numbers().private_value
    assert str(secret) not in repr(KEY)
    assert "key" not in repr(KEY).lower()


def test_a_fingerprint_is_spoken_in_groups_of_four_and_heard_as_it_was() -> None:
    assert format_fingerprint("0123456789ab") == "0123 4567 89ab"
    assert parse_fingerprint(" 0123 4567\n89AB ") == "0123456789ab"


def test_what_is_sealed_opens_again_also_after_a_restart(tmp_path: Path) -> None:
    sealed = LocalKeyStore(tmp_path / "k").seal(CONTEXT, b"bits")
    assert LocalKeyStore(tmp_path / "k").open(CONTEXT, sealed) == b"bits"
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    assert b"bits" not in sealed


def test_sealing_twice_never_gives_the_same_bytes(tmp_path: Path) -> None:
    store = LocalKeyStore(tmp_path / "k")
    assert store.seal(CONTEXT, b"bits") != store.seal(CONTEXT, b"bits")


def test_another_context_does_not_open(tmp_path: Path) -> None:
    store = LocalKeyStore(tmp_path / "k")
    sealed = store.seal(CONTEXT, b"bits")
    for context in ({**CONTEXT, "study": "b"}, {"purpose": "kept-reply"}, {}):
        with pytest.raises(TrustError, match="another purpose"):
            store.open(context, sealed)


def test_another_key_does_not_open(tmp_path: Path) -> None:
    sealed = LocalKeyStore(tmp_path / "one").seal(CONTEXT, b"bits")
    with pytest.raises(TrustError):
        LocalKeyStore(tmp_path / "two").open(CONTEXT, sealed)


def test_no_flipped_bit_and_no_cut_opens(tmp_path: Path) -> None:
    store = LocalKeyStore(tmp_path / "k")
    sealed = store.seal(CONTEXT, b"bits")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(TrustError):
            store.open(CONTEXT, bytes(changed))
        with pytest.raises(TrustError):
            store.open(CONTEXT, sealed[:place])
