"""What an approval asks of key store and configuration does not grow with the patients."""

from __future__ import annotations

import random
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flo.keys.keystore import AesKeyStore
from tests.builders import HOSPITALS, data_file, small_study
from tests.clients.approving_site import enrolled_site


def test_an_approval_of_3000_patients_opens_few_keys_and_reads_few_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With KMS each opened key is a call over the network."""
    site = enrolled_site(tmp_path)
    drawn = random.Random(3)
    rows = [
        f"north{i:04d},{drawn.uniform(18, 95):.3f},{drawn.choice('abc')},{drawn.randrange(2)}"
        for i in range(3000)
    ]
    data_file(site.home).write_text("\n".join(["patient_id,age,ward,ill", *rows]) + "\n")
    hospitals = [{"id": name, "declared_size": 3000} for name in HOSPITALS]
    offer, counts = site.offer(small_study(hospitals=hospitals)), Counter[str]()

    def counted(name: str, what: Any) -> Any:
        def call(*given: Any, **known: Any) -> Any:
            counts[name] += 1
            return what(*given, **known)

        return call

    monkeypatch.setattr(AesKeyStore, "open", counted("keys", AesKeyStore.open))
    for name in ("load", "loads"):
        monkeypatch.setattr(tomllib, name, counted("settings", getattr(tomllib, name)))
    time.sleep(0.05)  # files that were written just now are not cached
    site.approve(offer)
    assert counts["keys"] <= 5, counts
    assert counts["settings"] <= 10, counts
