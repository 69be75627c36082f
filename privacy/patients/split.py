"""Split of patients into training and hold-out, by a keyed hash of the patient id only.

The split is HMAC-SHA256(site split key, normalised patient id), the same for every study of a
ledger's life. It uses no stratification, order or seed: removing one patient does not reassign any
other. So training and evaluation touch disjoint patients and their budgets compose in parallel.
"""

from __future__ import annotations

import hmac


def normalise(patient_id: str) -> str:
    """Return the canonical spelling of a patient id: no outer spaces, case folded.

    No other normalisation is done. An ``é`` of one character and an ``é`` of two are two patients
    with a budget each, so all files of a population must spell ids alike. The data check
    (``flo.clients.quality.id_spelling``) reports such ids to the steward.
    """
    return patient_id.strip().casefold()


def keyed_hash(key: bytes, patient_id: str) -> str:
    """Return HMAC-SHA256 of the normalised id, hexadecimal.

    It reveals no id without the site's key.
    """
    return hmac.digest(key, normalise(patient_id).encode("utf-8"), "sha256").hex()


def position(key: bytes, patient_id: str) -> float:
    """Return a patient's fixed position in [0, 1) for ``key``: 52 bits of ``keyed_hash``."""
    return int(keyed_hash(key, patient_id)[:13], 16) / 16**13


def is_held_out(key: bytes, patient_id: str, hold_out: float) -> bool:
    """Return whether the patient is used for evaluation only; ``hold_out`` lies in (0, 1)."""
    return position(key, patient_id) < hold_out
