"""A study's own key, which seals its saved states and remote models.

The key is derived from the coordinator's checkpoint key and the study's salt (HKDF-SHA256, RFC
5869). The salt is 256 random bits, stored only in the coordinator's database and its backups. Once
it is deleted there, no sealed copy can be opened, wherever it is.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def study_key(master: bytes, salt: bytes, study: str) -> bytes:
    """Return the key (32 bytes) of the study with this digest."""
    return _derived(master, salt, b"flo/1/study-key\x00" + study.encode())


def job_secret(master: bytes, salt: bytes, job: str) -> bytes:
    """Return the secret (32 bytes) with which a job gets its run; unchanged by a restart."""
    return _derived(master, salt, b"flo/1/job-secret\x00" + job.encode())


def _derived(master: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(master)
