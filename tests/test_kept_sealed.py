"""A sealed object, as the first version that wrote them did (``tests/kept/v5``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from flo.errors import TrustError
from flo.keys import sealed
from flo.keys.keystore import AesKeyStore

KEPT = Path(__file__).parent / "kept" / "v5" / "model.sealed"
KEY = AesKeyStore(bytes(range(32)))
CONTEXT = {"purpose": "model", "study": "ab" * 32, "run": "run-1-000001"}


def test_a_kept_object_opens_with_its_key_for_what_it_is() -> None:
    kept = KEPT.read_bytes()
    assert sealed.unseal(KEY, CONTEXT, kept, "the model") == b"a model's tensors"
    with pytest.raises(TrustError, match="sealed for run run-1-000001, not run-2"):
        sealed.unseal(KEY, {**CONTEXT, "run": "run-2"}, kept, "the model")
