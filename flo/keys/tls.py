"""Load a private key and its certificate into a TLS context without writing the key to disk."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509

from flo.errors import TrustError
from flo.storage.files import in_memory


def read_certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a PEM file. Raises TrustError if it is missing or invalid."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (ValueError, FileNotFoundError) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else "is not a certificate"
        hint = "restore it from the folder's newest backup, or from your copy"
        raise TrustError(f"{path} {why}", hint=hint) from error


def load_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Make ``context`` present this certificate and key (both PEM) from the next handshake on.

    Raises:
        TrustError: they cannot be read or do not belong together.
    """
    try:
        with in_memory(certificate) as certificate_path, in_memory(key) as key_path:
            context.load_cert_chain(certificate_path, key_path)
    except (ssl.SSLError, ValueError) as error:
        raise TrustError(
            "the certificate or its key cannot be read, or they do not belong together",
            hint="ask the coordinator for a new invitation, or restore the folder's files",
        ) from error
