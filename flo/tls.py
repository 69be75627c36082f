"""A private key and its certificate into a TLS context, without the key touching a disk."""

from __future__ import annotations

import ssl

from flo.errors import TrustError
from flo.files import in_memory


def show(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Let ``context`` show this certificate (PEM) with its key (PEM), from the next handshake on.

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
