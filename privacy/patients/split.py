"""Who is trained on and who is held out: a keyed hash of the patient id, nothing else.

The split is HMAC-SHA256(site split key, normalised patient id), the same for every study of a
ledger's life. No stratification, order or seed: removing one patient moves nobody else, so training
and evaluation touch disjoint patients and their budgets compose in parallel.
"""

from __future__ import annotations

import hashlib
import hmac


def normalise(patient_id: str) -> str:
    """The one spelling under which a patient is known: no outer spaces, case folded.

    No more than that: an ``é`` of one character and an ``é`` of two are two patients with a budget
    each, so all files of a population have to write ids alike. The gate asks about such ids.
    """
    return patient_id.strip().casefold()


def keyed_hash(key: bytes, patient_id: str) -> str:
    """HMAC-SHA256 of the normalised id, hexadecimal; tells nothing without the site's key."""
    return hmac.new(key, normalise(patient_id).encode("utf-8"), hashlib.sha256).hexdigest()


def position(key: bytes, patient_id: str) -> float:
    """A patient's fixed place in [0, 1) for ``key``: the first 52 bits of ``keyed_hash``."""
    return int(keyed_hash(key, patient_id)[:13], 16) / 16**13


def is_held_out(key: bytes, patient_id: str, hold_out: float) -> bool:
    """Whether this patient is evaluated on and never trained on; ``hold_out`` lies in (0, 1)."""
    return position(key, patient_id) < hold_out
