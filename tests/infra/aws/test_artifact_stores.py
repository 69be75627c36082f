"""One contract for every artifact store: a directory, and a bucket of an emulated S3."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flo.errors import NetworkError, RefusedError, TrustError, UsageError
from flo.infra.aws.s3 import PART_BYTES, S3Artifacts
from flo.storage.artifacts import ArtifactStore, LocalArtifacts
from tests.infra.aws.emulated import Aws

LIMIT = 1 << 20
Open = Callable[[], ArtifactStore]


@pytest.fixture(params=["directory", pytest.param("bucket", marks=pytest.mark.slow)])
def again(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same store, as often as asked."""
    if request.param == "directory":
        return lambda: LocalArtifacts(tmp_path / "kept")
    aws, bucket = request.getfixturevalue("aws"), request.getfixturevalue("bucket")
    key = aws.new_key()
    return lambda: S3Artifacts(aws.client("s3"), bucket, key, "study/")


@pytest.fixture
def store(again: Open) -> ArtifactStore:
    return again()


def test_what_is_put_is_read_again_by_another_process(store: ArtifactStore, again: Open) -> None:
    store.put("runs/run-1/state-3.sealed", b"a state")
    store.put("empty", b"")
    assert again().get("runs/run-1/state-3.sealed", LIMIT) == b"a state"
    assert again().get("empty", LIMIT) == b""


def test_what_is_kept_is_never_overwritten(store: ArtifactStore) -> None:
    store.put("model", b"the first")
    for other in (b"another", b"a longer one than the first"):
        with pytest.raises(RefusedError, match="model already exists"):
            store.put("model", other)
    assert store.get("model", LIMIT) == b"the first"


def test_the_same_bytes_again_are_no_conflict(store: ArtifactStore) -> None:
    store.put("model", b"the first")
    store.put("model", b"the first")  # as when the answer to the first try was lost
    assert store.get("model", LIMIT) == b"the first"


def test_of_many_who_publish_at_once_one_does(again: Open) -> None:
    every, refused = [f"aggregator {number}".encode() for number in range(8)], []
    together = threading.Barrier(len(every))

    def publish(data: bytes) -> None:
        store = again()
        together.wait()
        try:
            store.put("runs/run-1/round-7", data)
        except RefusedError:
            refused.append(data)

    threads = [threading.Thread(target=publish, args=(data,)) for data in every]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = again().get("runs/run-1/round-7", LIMIT)
    assert sorted([*refused, kept]) == every


def test_keys_are_listed_by_how_they_begin(store: ArtifactStore) -> None:
    for key in ("runs/run-1/b", "runs/run-1/a", "runs/run-10/c", "models/m"):
        store.put(key, b"x")
    assert store.keys("runs/run-1/") == ["runs/run-1/a", "runs/run-1/b"]
    assert store.keys("") == ["models/m", "runs/run-1/a", "runs/run-1/b", "runs/run-10/c"]
    assert store.keys("nothing/") == []


def test_what_is_removed_is_gone_and_its_place_is_free(store: ArtifactStore) -> None:
    store.put("runs/a", b"one")
    store.put("runs/ab", b"two")
    store.remove("runs/a")
    store.remove("runs/a")
    assert store.keys("") == ["runs/ab"]
    with pytest.raises(UsageError, match="runs/a does not exist"):
        store.get("runs/a", LIMIT)
    store.put("runs/a", b"three")
    assert store.get("runs/a", LIMIT) == b"three"


def test_nobody_is_made_to_read_more_than_they_would(store: ArtifactStore) -> None:
    store.put("large", bytes(1000))
    assert len(store.get("large", 1000)) == 1000
    with pytest.raises(TrustError, match="large has more than 999 bytes"):
        store.get("large", 999)


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../up", "a/../b", "a//b", "a/", "Ä", "a" * 300]
)
def test_a_key_is_plain_words(store: ArtifactStore, key: str) -> None:
    for call in (lambda: store.put(key, b""), lambda: store.get(key, 1)):
        with pytest.raises(UsageError, match="not a valid key"):
            call()


@pytest.mark.slow
def test_a_large_object_comes_back_as_it_was(store: ArtifactStore) -> None:
    data = os.urandom(70 << 20)  # three parts in S3
    store.put("large", data)
    assert store.get("large", len(data)) == data
    with pytest.raises(RefusedError):
        store.put("large", os.urandom(70 << 20))
    assert store.get("large", len(data)) == data


def test_a_directory_shows_nothing_to_others_and_leaves_nothing_half_written(
    tmp_path: Path,
) -> None:
    store = LocalArtifacts(tmp_path / "kept")
    store.put("runs/run-1/a", b"x")
    with pytest.raises(RefusedError):
        store.put("runs/run-1/a", b"y")
    files = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["a"]
    assert files[0].stat().st_mode & 0o077 == 0
    assert (tmp_path / "kept").stat().st_mode & 0o077 == 0


@pytest.mark.slow
class TestBucket:
    def test_objects_are_encrypted_under_the_key_and_carry_a_checksum(
        self, aws: Aws, bucket: str
    ) -> None:
        key, s3 = aws.new_key(), aws.client("s3")
        store = S3Artifacts(s3, bucket, key)
        store.put("small", b"x")
        store.put("large", bytes(PART_BYTES + 1))
        for name in ("small", "large"):
            head = s3.head_object(Bucket=bucket, Key=name, ChecksumMode="ENABLED")
            assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", key)
        small = s3.head_object(Bucket=bucket, Key="small", ChecksumMode="ENABLED")
        assert small["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(b"x").digest()).decode()

    def test_removing_leaves_no_version_behind(self, aws: Aws, bucket: str) -> None:
        s3 = aws.client("s3")
        store = S3Artifacts(s3, bucket, aws.new_key())
        store.put("a", b"x")
        s3.delete_object(Bucket=bucket, Key="a")  # by someone: it leaves a marker and the version
        store.remove("a")
        assert "Versions" not in s3.list_object_versions(Bucket=bucket)

    def test_a_locked_copy_cannot_be_removed(self, aws: Aws) -> None:
        bucket = aws.new_bucket(f"flo-{secrets.token_hex(6)}", lock=True)
        store = S3Artifacts(aws.client("s3"), bucket, aws.new_key(), "audit/", lock_days=2190)
        store.put("head-1", b"the log")
        with pytest.raises(TrustError, match="AccessDenied"):
            store.remove("head-1")
        assert store.get("head-1", LIMIT) == b"the log"
        found = aws.client("s3").head_object(Bucket=bucket, Key="audit/head-1")
        assert found["ObjectLockMode"] == "COMPLIANCE"

    def test_a_bucket_that_is_not_there_is_named(self, aws: Aws) -> None:
        store = S3Artifacts(aws.client("s3"), "flo-nowhere", aws.new_key())
        with pytest.raises(UsageError, match=r"s3://flo-nowhere/a: NoSuchBucket"):
            store.put("a", b"x")

    def test_silence_is_told_from_a_no(self, bucket: str) -> None:
        import boto3
        from botocore.config import Config

        once = Config(retries={"total_max_attempts": 1})
        dead = boto3.client("s3", endpoint_url="http://127.0.0.1:1", config=once)
        with pytest.raises(NetworkError, match="AWS does not answer"):
            S3Artifacts(dead, bucket, "key").get("a", 1)

    def test_what_flo_would_not_have_put_is_removed_too(self, aws: Aws, bucket: str) -> None:
        s3 = aws.client("s3")
        store = S3Artifacts(s3, bucket, aws.new_key(), "study/")
        s3.put_object(Bucket=bucket, Key="study/ x/../y", Body=b"in the way")
        store.put("a", b"x")
        for key in store.keys(""):
            store.remove(key)
        assert store.keys("") == []
