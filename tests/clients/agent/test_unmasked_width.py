"""Without masks a site sends and keeps 32-bit integers if all of its noisy numbers fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.protocol.messages import Values, values_bytes
from flo.study.models import parameter_count
from tests.builders import CountingReleaser, small_study
from tests.clients.real_partners import RealCompany

LENGTH = parameter_count(small_study())


class Fixed(CountingReleaser):
    """Releases what the test says, in the width that the data process found."""

    def __init__(self, values: Values) -> None:
        super().__init__(LENGTH)
        self.values = values

    def release(self, *_: Any) -> Any:
        self.calls += 1
        return self.values


@pytest.mark.parametrize(
    ("version", "found", "sent"),
    [(4, np.int32, np.int32), (4, np.int64, np.int64), (3, np.int32, np.int64)],
)
def test_numbers_without_masks_are_sent_and_kept_in_the_width_that_they_need(
    tmp_path: Path, version: int, found: Any, sent: Any
) -> None:
    values = np.arange(LENGTH).astype(found) - 2
    mechanism = {"noise": "local", "masking": "off"}
    releasers = dict[str, Fixed]()

    def releaser(home: Any, study: Any) -> Fixed:
        return releasers.setdefault(home.read_config().hospital, Fixed(values))

    for company in RealCompany.of(
        tmp_path, ("north", "south"), releaser, mechanism=mechanism, schema_version=version
    ):
        asked = company.header()
        reply = company.say("north", asked)
        assert reply.header.bits == (32 if sent is np.int32 else None)
        assert reply.values.dtype == sent
        assert reply.values.tolist() == values.tolist()
        again = company.say("north", asked)
        assert bytes(values_bytes(again.values)) == bytes(values_bytes(reply.values))
        assert releasers["north"].calls == 1, "the second answer is the kept one"
