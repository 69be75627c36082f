"""What a door is: a place in a cloud where versions of one model answer. ``flo.infra`` has them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from flo.clients.cloud.deployable import Deployable


@dataclass(frozen=True)
class Deployed:
    """A version at a door. ``number``: the door's own name of it. ``version``, ``study``, ``card``:
    the model's."""

    number: str
    version: int
    study: str
    card: str


@dataclass(frozen=True)
class DoorState:
    """``live``: what answers; ``canary``: what answers ``share`` percent of requests beside it, if
    any. ``before``: what was live before; None if nothing was. ``revision``: changes whenever
    anything of this does."""

    live: Deployed
    canary: Deployed | None
    share: int
    before: Deployed | None
    revision: str


class Door(Protocol):
    """One model's door. Every change fails if somebody else has changed it since ``before``."""

    where: str
    name: str

    def state(self) -> DoorState | None:
        """Return what answers; None if nothing was deployed."""

    def staged(self, model: Deployable) -> AbstractContextManager[Deployed]:
        """Put a version there that answers nobody yet. Within the context it can be asked."""

    def ask(self, number: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer of a version that is staged, with ``status``.

        Raises TrustError: it failed.
        """

    def put_live(self, staged: Deployed, before: DoorState | None) -> None:
        """Let a version answer all requests."""

    def give_share(self, staged: Deployed, share: int, before: DoorState) -> None:
        """Let a version answer ``share`` percent of requests, beside the one that is live."""

    def roll_back(self, before: DoorState) -> Deployed:
        """End the canary, or put the version before live. Return what is live.

        Raises UsageError: nothing was live before.
        """

    def remove(self) -> None:
        """Delete all of it; no error if there is nothing."""
