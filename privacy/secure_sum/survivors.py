"""The list of an attempt's survivors, and the certificate that one list has the threshold.

Steps 11 and 12 of the protocol in ``flo.privacy.secure_sum.masking``. A hospital signs one list of
an attempt. Two lists that each have ``Tolerance.threshold`` signatures would need an honest
hospital that signed both, so at most one list gets a certificate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict

from flo.documents import canonical
from flo.errors import TrustError
from flo.keys.claims import ListSignature
from flo.privacy.secure_sum.masking import Attempt


def statement(attempt: Attempt, survivors: Collection[str]) -> bytes:
    """Return the bytes that a hospital signs: the whole attempt, and the survivors' names."""
    return canonical.encode({"attempt": asdict(attempt), "survivors": sorted(survivors)})


def check_certificate(
    attempt: Attempt,
    survivors: Collection[str],
    signatures: Mapping[str, ListSignature],
    fingerprints: Mapping[str, str],
    threshold: int,
) -> None:
    """Refuse a list without ``threshold`` signatures of its own members.

    ``fingerprints``: of the study's hospitals, by name.

    Raises:
        TrustError: a signature is by somebody else or does not match, or there are too few.
    """
    signed = statement(attempt, survivors)
    for name, signature in signatures.items():
        if name not in survivors:
            raise TrustError(f"the list of survivors is signed by {name}, who is not on it")
        signature.check(fingerprints[name], signed)
    if len(signatures) < threshold:
        raise TrustError(
            f"the list of survivors has {len(signatures)} signatures, {threshold} needed"
        )
