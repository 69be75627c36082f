"""A study's own key: saved states and models are sealed by it, and open no more once it is gone.

The key follows from the coordinator's checkpoint key and a salt of the study's own (HKDF-SHA256,
RFC 5869). The salt is 256 random bits that only the coordinator's database holds: whoever removes
it there has erased every sealed copy, wherever copies are.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def study_key(master: bytes, salt: bytes, study: str) -> bytes:
    """32 bytes for the study of this digest."""
    return _derived(master, salt, b"flo/1/study-key\x00" + study.encode())


def job_secret(master: bytes, salt: bytes, job: str) -> bytes:
    """What a job of the study shows to be given its run; the same after a restart."""
    return _derived(master, salt, b"flo/1/job-secret\x00" + job.encode())


def _derived(master: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(master)
