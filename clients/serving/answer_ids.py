"""Ids of answers: UUIDs of this site, which nobody else can make up.

A record system sends an id back with what a clinician did. Only ids that this site gave are entered
in its log, so that no text of another party, such as a patient's own id, comes into it. An id has
72 random bits and 48 bits of their HMAC-SHA256; version and variant are those of RFC 9562's
version 8.
"""

from __future__ import annotations

import hmac
import os
import re

_RANDOM, _TAG = 18, 12  # hexadecimal digits
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class AnswerIds:
    """Makes and recognizes ids. ``key``: a secret of the site, 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = hmac.digest(key, b"flo answer ids", "sha256")

    def new(self) -> str:
        """Return a new id."""
        digits = os.urandom(_RANDOM // 2).hex()
        return _as_uuid(digits + self._tag(digits))

    def is_ours(self, answer_id: str) -> bool:
        """Return whether this site gave an id, in lower case."""
        if not _UUID.fullmatch(answer_id):
            return False
        digits = answer_id.replace("-", "")
        digits = digits[:12] + digits[13:16] + digits[17:]
        if _as_uuid(digits) != answer_id:
            return False
        return hmac.compare_digest(digits[_RANDOM:], self._tag(digits[:_RANDOM]))

    def _tag(self, digits: str) -> str:
        return hmac.digest(self._key, digits.encode(), "sha256").hex()[:_TAG]


def _as_uuid(digits: str) -> str:
    """Return 30 digits as a UUID of version 8."""
    return f"{digits[:8]}-{digits[8:12]}-8{digits[12:15]}-8{digits[15:18]}-{digits[18:]}"
