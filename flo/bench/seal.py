"""Sealing and opening 256 MB under each key store, against the cipher alone.

KMS is emulated on loopback if moto is installed. The data are not sent to it; a real KMS adds one
call of about ten milliseconds per operation.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flo.bench import BenchRow, compared
from flo.bench.references import free_port, wait_for_port
from flo.keys.keystore import KeyStore, LocalKeyStore

_BYTES = 256 << 20
_CONTEXT = {"purpose": "bench"}
_REGION = "eu-central-1"


def rows() -> Iterator[BenchRow]:
    """Measure both key stores; KMS only if moto and the AWS Encryption SDK are installed."""
    data = os.urandom(_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        yield from _rows("a key of its own", LocalKeyStore(Path(folder) / "key"), data)
    if importlib.util.find_spec("moto") and importlib.util.find_spec("aws_encryption_sdk"):
        with _emulated_kms() as store:
            yield from _rows("KMS, emulated", store, data)


def _rows(name: str, store: KeyStore, data: bytes) -> Iterator[BenchRow]:
    cipher, nonce = AESGCM(os.urandom(32)), os.urandom(12)
    sealed, alone = store.seal(_CONTEXT, data), cipher.encrypt(nonce, data, None)
    yield compared(
        "seal",
        f"seal 256 MB, {name}",
        lambda: store.seal(_CONTEXT, data),
        lambda: cipher.encrypt(nonce, data, None),
        how="AES-256-GCM alone",
        runs=6,
    )
    yield compared(
        "seal",
        f"open 256 MB, {name}",
        lambda: store.open(_CONTEXT, sealed),
        lambda: cipher.decrypt(nonce, alone, None),
        how="AES-256-GCM alone",
        runs=6,
    )


@contextlib.contextmanager
def _emulated_kms() -> Iterator[KeyStore]:
    import boto3

    from flo.infra.aws.kms import KmsKeyStore

    port = free_port()
    server = subprocess.Popen(
        [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port)
        kms = boto3.client(
            "kms",
            region_name=_REGION,
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="emulated",
            aws_secret_access_key="emulated",  # noqa: S106
        )
        yield KmsKeyStore(kms.create_key()["KeyMetadata"]["Arn"], kms)
    finally:
        server.terminate()
        server.wait()
