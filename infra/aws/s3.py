"""The artifact store in an S3 bucket: the same keys and the same guarantees as in a directory.

Every write is conditional (``If-None-Match: *``), so that one of two aggregators is refused; has a
SHA-256 that S3 verifies; and is encrypted under the KMS key of its purpose. ``lock_days`` puts an
object under Object Lock, whose period cannot be shortened.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from flo.documents.canonical import Bytes
from flo.errors import RefusedError, TrustError
from flo.infra.aws.clients import code_of, translate_errors
from flo.storage.artifacts import already_kept, checked, not_kept, too_large

PART_BYTES = 32 << 20  # larger objects are uploaded in parts
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict"}
_MISSING = {"NoSuchKey", "404", "NotFound"}


class S3Artifacts:
    """Objects under ``prefix`` of ``bucket``, encrypted under ``kms_key`` (an ARN)."""

    def __init__(
        self, client: Any, bucket: str, kms_key: str, prefix: str = "", lock_days: int = 0
    ) -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix
        self._kms_key, self._lock_days = kms_key, lock_days

    def put(self, key: str, data: Bytes) -> None:
        """Write only a new key (If-None-Match); the same bytes again are no error."""
        from botocore.exceptions import ClientError

        whole = bytes(data)
        try:
            with translate_errors(f"writing s3://{self._bucket}/{self._prefix}{key}"):
                try:
                    self._write(checked(key), whole)
                except ClientError as error:
                    if code_of(error) not in _TAKEN:
                        raise
                    raise already_kept(key) from error
        except RefusedError:
            if not self._holds(key, whole):  # it does if our earlier try arrived
                raise

    def get(self, key: str, limit: int) -> bytes:
        """Return the object. The SDK verifies its checksum; a body above the limit is not read."""
        from botocore.exceptions import ClientError

        with translate_errors(f"reading s3://{self._bucket}/{self._prefix}{key}"):
            try:
                found = self._client.get_object(**self._place(checked(key)), ChecksumMode="ENABLED")
            except ClientError as error:
                # S3 denies a missing object, too, to whoever may not list the whole bucket.
                denied = code_of(error) == "AccessDenied"
                if code_of(error) in _MISSING or (denied and key not in self.keys(key)):
                    raise not_kept(key) from error
                raise
            if found["ContentLength"] > limit:
                raise too_large(key, limit)
            data: bytes = found["Body"].read()
            return data

    def keys(self, prefix: str) -> list[str]:
        """Return all pages of the listing, without the store's prefix."""
        pages = self._client.get_paginator("list_objects_v2")
        with translate_errors(f"listing s3://{self._bucket}/{self._prefix}{prefix}"):
            return sorted(
                item["Key"].removeprefix(self._prefix)
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)
                for item in page.get("Contents", [])
            )

    def remove(self, key: str) -> None:
        """Remove every version and delete marker, so that the object cannot be restored."""
        place = self._place(key)  # not checked: any object can be removed
        with translate_errors(f"removing s3://{self._bucket}/{place['Key']}"):
            for version in self._versions(place["Key"]):
                self._client.delete_object(**place, VersionId=version)

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self.get(key, len(data)) == data
        except TrustError:  # larger
            return False

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _protection(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "ServerSideEncryption": "aws:kms",
            "SSEKMSKeyId": self._kms_key,
            "BucketKeyEnabled": True,
            "ChecksumAlgorithm": "SHA256",
        }
        if self._lock_days:
            until = datetime.now(UTC) + timedelta(days=self._lock_days)
            found |= {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
        return found

    def _write(self, key: str, data: bytes) -> None:
        place, protection = self._place(key), self._protection()
        if len(data) <= PART_BYTES:
            self._client.put_object(**place, **protection, Body=data, IfNoneMatch="*")
            return
        upload = {
            **place,
            "UploadId": self._client.create_multipart_upload(**place, **protection)["UploadId"],
        }
        try:
            parts = [self._part(upload, number, part) for number, part in _parts(data)]
            self._client.complete_multipart_upload(
                **upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
            )
        except BaseException:  # also on a stop: incomplete parts cost money
            with contextlib.suppress(Exception):  # report the first error
                self._client.abort_multipart_upload(**upload)
            raise

    def _part(self, upload: dict[str, str], number: int, part: memoryview) -> dict[str, Any]:
        digest = base64.b64encode(hashlib.sha256(part).digest()).decode()
        done = self._client.upload_part(
            **upload, PartNumber=number, Body=bytes(part), ChecksumSHA256=digest
        )
        return {"PartNumber": number, "ETag": done["ETag"], "ChecksumSHA256": digest}

    def _versions(self, key: str) -> Iterator[str]:
        pages = self._client.get_paginator("list_object_versions")
        for page in pages.paginate(Bucket=self._bucket, Prefix=key):
            for version in page.get("Versions", []) + page.get("DeleteMarkers", []):
                if version["Key"] == key:
                    yield version["VersionId"]


def _parts(data: bytes) -> Iterator[tuple[int, memoryview]]:
    whole = memoryview(data)
    for number, start in enumerate(range(0, len(data), PART_BYTES), start=1):
        yield number, whole[start : start + PART_BYTES]
