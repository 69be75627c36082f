"""Keys that never leave KMS: a key store, and a signer.

The key store is envelope encryption by the AWS Encryption SDK.

Every ``seal`` uses a new data key, which KMS encrypts under the context. The suite commits to the
key, so that no ciphertext opens under two keys. KMS's policies and logs see the context: purpose,
study and run, all of them public. The SDK *accepts* a context with fewer pairs than were sealed;
here the context must be equal, pair by pair.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
from typing import Any

from flo.documents.canonical import Bytes
from flo.errors import NetworkError, TrustError, UsageError
from flo.infra.aws.clients import client, translate_errors
from flo.keys.identity import fingerprint, framed, load_public, low_s, public_bytes
from flo.keys.keystore import Context

_FRAME_BYTES = 1 << 19  # the default, 4 KiB, is fifty times slower
_OF_THE_SDK = "aws-crypto-"


class KmsKeyStore:
    """``key``: the ARN of a symmetric KMS key. ``kms``: a boto3 client."""

    def __init__(self, key: str, kms: Any) -> None:
        """Raises UsageError if the extra ``aws`` is not installed."""
        try:
            from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
            from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
            from aws_cryptographic_material_providers.mpl.models import CreateAwsKmsKeyringInput
            from aws_encryption_sdk import CommitmentPolicy, EncryptionSDKClient
        except ImportError as error:
            raise UsageError(
                "the key store is in KMS, but the AWS libraries are not installed",
                hint="pip install 'flo-federated[aws]'",
            ) from error
        # It logs whole tracebacks of errors that a TrustError describes in one line.
        logging.getLogger("aws_encryption_sdk").setLevel(logging.CRITICAL)
        self.key_id = key
        self._kms = _Heard(kms)
        self._sdk = EncryptionSDKClient(
            commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT,
            max_encrypted_data_keys=1,
        )
        providers = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
        self._keyring = providers.create_aws_kms_keyring(
            CreateAwsKmsKeyringInput(kms_key_id=key, kms_client=self._kms)
        )

    def seal(self, context: Context, data: Bytes) -> bytes:
        """Seal. Raises UsageError without a context, or KMS's error: NetworkError, TrustError."""
        from aws_encryption_sdk.identifiers import AlgorithmSuite

        if not context:
            raise UsageError("cannot seal without a context, which states the purpose")
        try:
            sealed, _ = self._sdk.encrypt(
                source=bytes(data),
                keyring=self._keyring,
                encryption_context=context,
                algorithm=AlgorithmSuite.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
                frame_length=_FRAME_BYTES,
            )
        except Exception as error:  # the SDK's own, or KMS's wrapped in it
            self._kms.raise_what_it_said("sealing under KMS")
            raise TrustError(f"sealing under {self.key_id} failed: {error}") from error
        return bytes(sealed)

    def open(self, context: Context, sealed: bytes) -> bytes:
        """Unseal. Raises TrustError, also for an empty context, or NetworkError if KMS is away."""
        if not context:
            raise TrustError("cannot unseal without the context that the data were sealed for")
        try:
            data, header = self._sdk.decrypt(
                source=sealed, keyring=self._keyring, encryption_context=context
            )
        except Exception as error:  # the SDK's, KMS's wrapped in it, cryptography's
            try:
                self._kms.raise_what_it_said("opening under KMS")
            except NetworkError:
                raise
            except (TrustError, UsageError) as said:
                raise TrustError(f"KMS does not open it: {said}", hint=said.hint) from error
            raise TrustError(
                "the sealed data were changed, or were sealed for another purpose"
            ) from error
        given = header.encryption_context.items()
        if {name: v for name, v in given if not name.startswith(_OF_THE_SDK)} != context:
            raise TrustError("the data were sealed for another purpose")
        return bytes(data)


@functools.lru_cache(maxsize=64)
def keystore(key: str) -> KmsKeyStore:
    """Return the key store of this key, with a client in the key's region. Raises UsageError."""
    return KmsKeyStore(key, client("kms", key.split(":")[3]))


class KmsSigner:
    """Signer with an asymmetric key in KMS, of EC P-384; verification needs no AWS."""

    def __init__(self, key: str, kms: Any) -> None:
        """Raises TrustError if the key is of another kind, or KMS refuses; NetworkError."""
        self._key, self._kms = key, kms
        with translate_errors(f"reading the public key of {key}"):
            found = kms.get_public_key(KeyId=key)
        try:
            self.public = public_bytes(load_public(bytes(found["PublicKey"])))
        except ValueError as error:
            raise TrustError(
                f"{key} cannot sign for a coordinator: {error}",
                hint="create a key with KeySpec ECC_NIST_P384 and KeyUsage SIGN_VERIFY",
            ) from error

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the public key, computed as for a key in a file."""
        return fingerprint(self.public)

    def sign(self, purpose: str, message: bytes) -> str:
        """Sign a message. Raises NetworkError if KMS does not answer, TrustError if it refuses."""
        digest = hashlib.sha384(framed(purpose, message)).digest()
        with translate_errors(f"signing with {self._key}"):
            signed = self._kms.sign(
                KeyId=self._key,
                Message=digest,
                MessageType="DIGEST",
                SigningAlgorithm="ECDSA_SHA_384",
            )
        return low_s(bytes(signed["Signature"]).hex())


@functools.lru_cache(maxsize=8)
def signer(key: str) -> KmsSigner:
    """Return the signer of this key, with a client in the key's region."""
    return KmsSigner(key, client("kms", key.split(":")[3]))


class _Heard(threading.local):
    """A KMS client that records each thread's last error, because the SDK hides it in its own."""

    def __init__(self, kms: Any) -> None:
        self._kms = kms
        self._error: Exception | None = None

    @property
    def meta(self) -> Any:
        return self._kms.meta

    def generate_data_key(self, **request: Any) -> Any:
        return self._hear(self._kms.generate_data_key, request)

    def encrypt(self, **request: Any) -> Any:
        return self._hear(self._kms.encrypt, request)

    def decrypt(self, **request: Any) -> Any:
        return self._hear(self._kms.decrypt, request)

    def raise_what_it_said(self, what: str) -> None:
        """Raise the error of the last call, translated, if that call failed."""
        error, self._error = self._error, None
        if error is not None:
            with translate_errors(what):
                raise error

    def _hear(self, call: Any, request: dict[str, Any]) -> Any:
        self._error = None
        try:
            return call(**request)
        except Exception as error:  # for ``raise_what_it_said``: the SDK hides it
            self._error = error
            raise
