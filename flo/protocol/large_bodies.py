"""Headers, paths and chunks of a body that is too large for a message."""

from __future__ import annotations

from collections.abc import Iterator

FETCH_PATH, OFFER_PATH = "/v1/site/fetch-parcel", "/v1/site/offer-parcel"
NAME_HEADER, RUN_HEADER, NODES_HEADER = "x-flo-parcel", "x-flo-run", "x-flo-nodes"
PLACE_HEADER, SIZE_HEADER = "x-flo-place", "x-flo-size"
_PIECE = 1 << 18


def chunks(body: memoryview) -> Iterator[bytes]:
    """Yield the body of an upload in pieces."""
    for start in range(0, len(body), _PIECE):
        yield bytes(body[start : start + _PIECE])
