"""Sealed objects, under a key of our own and under KMS: whatever differs is refused and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flo.documents import canonical
from flo.errors import NetworkError, TrustError, UsageError
from flo.infra.aws.kms import KmsKeyStore
from flo.keys import sealed
from flo.keys.keystore import KeyStore, LocalKeyStore
from tests.infra.aws.emulated import Aws

CONTEXT = {"purpose": "checkpoint", "study": "ab" * 32, "run": "run-1", "round": "3"}
DATA = b"weights" * 1000
Make = Callable[[str], KeyStore]


@pytest.fixture(params=["own key", pytest.param("KMS", marks=pytest.mark.slow)])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Opens the key store of a name: the same name, the same key."""
    if request.param == "own key":
        return lambda name: LocalKeyStore(tmp_path / f"{name}.key")
    aws: Aws = request.getfixturevalue("aws")
    arns: dict[str, str] = {}

    def opened(name: str) -> KeyStore:
        arn = arns.setdefault(name, "") or aws.new_key()
        arns[name] = arn
        return KmsKeyStore(arn, aws.client("kms"))

    return opened


def test_what_was_sealed_opens_again_elsewhere(make: Make) -> None:
    kept = sealed.seal(make("ours"), CONTEXT, DATA)
    assert sealed.unseal(make("ours"), CONTEXT, kept, "round 3") == DATA
    assert DATA[:70] not in kept


def test_the_same_data_is_never_sealed_to_the_same_bytes(make: Make) -> None:
    assert sealed.seal(make("ours"), CONTEXT, DATA) != sealed.seal(make("ours"), CONTEXT, DATA)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param({"round": "4"}, "sealed for round 3, not 4", id="an older object, replayed"),
        pytest.param({"run": "run-2"}, "sealed for run run-1, not run-2", id="another run"),
        pytest.param({"purpose": "model"}, "sealed for purpose checkpoint", id="another purpose"),
        pytest.param({"more": "x"}, "sealed for more nothing, not x", id="a pair too many"),
    ],
)
def test_another_context_is_refused_and_named(
    make: Make, change: dict[str, str], named: str
) -> None:
    kept = sealed.seal(make("ours"), CONTEXT, DATA)
    with pytest.raises(TrustError, match=f"round 3 was {named}"):
        sealed.unseal(make("ours"), {**CONTEXT, **change}, kept, "round 3")


@pytest.mark.parametrize("left_out", [*CONTEXT])
def test_a_context_that_is_left_out_opens_nothing(make: Make, left_out: str) -> None:
    kept = sealed.seal(make("ours"), CONTEXT, DATA)
    less = {name: value for name, value in CONTEXT.items() if name != left_out}
    for context in (less, {}):
        with pytest.raises(TrustError, match="was sealed for"):
            sealed.unseal(make("ours"), context, kept, "round 3")


def test_a_header_that_lies_about_its_context_opens_nothing(make: Make) -> None:
    kept = sealed.seal(make("ours"), CONTEXT, DATA)
    lying = kept.replace(b'"round":"3"', b'"round":"4"', 1)
    assert lying != kept
    with pytest.raises(TrustError, match="was changed"):
        sealed.unseal(make("ours"), {**CONTEXT, "round": "4"}, lying, "round 4")


@pytest.mark.parametrize("left_out", [*CONTEXT])
def test_a_context_that_is_left_out_opens_nothing_without_the_header_either(
    make: Make, left_out: str
) -> None:
    store = make("ours")
    body = store.seal(CONTEXT, DATA)
    assert store.open(CONTEXT, body) == DATA
    for context in ({n: v for n, v in CONTEXT.items() if n != left_out}, {}):
        with pytest.raises(TrustError):
            store.open(context, body)


def test_another_key_is_refused_and_named(make: Make) -> None:
    ours, theirs = make("ours"), make("theirs")
    kept = sealed.seal(theirs, CONTEXT, DATA)
    with pytest.raises(TrustError, match=f"round 3 was sealed by another key, {theirs.key_id}"):
        sealed.unseal(ours, CONTEXT, kept, "round 3")
    lying = kept.replace(theirs.key_id.encode(), ours.key_id.encode(), 1)
    with pytest.raises(TrustError):
        sealed.unseal(ours, CONTEXT, lying, "round 3")


def test_every_flipped_byte_is_refused(make: Make) -> None:
    store = make("ours")
    kept = sealed.seal(store, CONTEXT, b"short")
    for place in range(len(kept)):
        flipped = kept[:place] + bytes([kept[place] ^ 1]) + kept[place + 1 :]
        with pytest.raises(TrustError, match="round 3"):
            sealed.unseal(store, CONTEXT, flipped, "round 3")


def test_every_truncation_is_refused(make: Make) -> None:
    store = make("ours")
    kept = sealed.seal(store, CONTEXT, b"short")
    for length in range(len(kept)):
        with pytest.raises(TrustError, match=r"truncated|cut|header cannot be read"):
            sealed.unseal(store, CONTEXT, kept[:length], "round 3")
    with pytest.raises(TrustError, match="cut or extended"):
        sealed.unseal(store, CONTEXT, kept + b"x", "round 3")


def test_a_header_of_any_other_kind_is_refused() -> None:
    for text in (b"[]", b"{}", b"nonsense", canonical.encode({"schema_version": 2})):
        kept = b"flo-object-1\n" + len(text).to_bytes(4, "big") + text
        with pytest.raises(TrustError, match="round 3 was changed"):
            sealed.unseal(_Never(), CONTEXT, kept, "round 3")


class _Never:
    """A key store that must not be asked."""

    key_id = "-"

    def seal(self, context: dict[str, str], data: canonical.Bytes) -> bytes:
        raise AssertionError

    def open(self, context: dict[str, str], data: bytes) -> bytes:
        raise AssertionError


@pytest.mark.slow
class TestKms:
    def test_nothing_is_sealed_without_a_context(self, aws: Aws) -> None:
        store = KmsKeyStore(aws.new_key(), aws.client("kms"))
        with pytest.raises(UsageError, match="without a context"):
            store.seal({}, DATA)

    def test_a_key_that_is_not_there_is_named(self, aws: Aws) -> None:
        arn = aws.new_key()[:-12] + "0" * 12
        with pytest.raises(UsageError, match=r"NotFoundException: .*does not exist"):
            KmsKeyStore(arn, aws.client("kms")).seal(CONTEXT, DATA)

    def test_a_key_that_was_deleted_opens_nothing_any_more(self, aws: Aws) -> None:
        arn, kms = aws.new_key(), aws.client("kms")
        store = KmsKeyStore(arn, kms)
        kept = sealed.seal(store, CONTEXT, DATA)
        backend_forgets(aws, arn)
        with pytest.raises(TrustError, match="KMS does not open it"):
            sealed.unseal(store, CONTEXT, kept, "round 3")

    def test_silence_is_told_from_a_no(self, aws: Aws) -> None:
        import boto3
        from botocore.config import Config

        arn = aws.new_key()
        once = Config(retries={"total_max_attempts": 1})
        kept = KmsKeyStore(arn, aws.client("kms")).seal(CONTEXT, DATA)
        dead = KmsKeyStore(arn, boto3.client("kms", endpoint_url="http://127.0.0.1:1", config=once))
        with pytest.raises(NetworkError, match="AWS does not answer"):
            dead.seal(CONTEXT, DATA)
        with pytest.raises(NetworkError, match="AWS does not answer"):
            dead.open(CONTEXT, kept)

    def test_a_rotated_key_opens_what_it_sealed_before(self, aws: Aws) -> None:
        arn, kms = aws.new_key(), aws.client("kms")
        before = sealed.seal(KmsKeyStore(arn, kms), CONTEXT, DATA)
        kms.enable_key_rotation(KeyId=arn)
        kms.rotate_key_on_demand(KeyId=arn)
        store = KmsKeyStore(arn, kms)
        assert sealed.unseal(store, CONTEXT, before, "round 3") == DATA
        assert sealed.unseal(store, CONTEXT, sealed.seal(store, CONTEXT, DATA), "x") == DATA


def backend_forgets(aws: Aws, arn: str) -> None:
    """What KMS does when the waiting time of a scheduled deletion is over."""
    from moto.backends import get_backend
    from moto.core import DEFAULT_ACCOUNT_ID

    kms = get_backend("kms")[DEFAULT_ACCOUNT_ID][arn.split(":")[3]]
    del kms.keys[arn.rpartition("/")[2]]
