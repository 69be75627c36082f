"""Decisions on models, carried on into a model registry elsewhere, such as SageMaker's.

The coordinator's list is what counts. The registry follows it: at once, and again every hour, so
that what somebody changed there by hand is changed back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from flo.errors import FloError
from flo.published.model_states import ModelStates

log = logging.getLogger("flo.server.studies")

_EVERY_SECONDS, _AGAIN_SECONDS = 3600.0, 60.0


class ModelRegistry(Protocol):
    """A registry that has packages of published models."""

    def set_states(self, states: ModelStates) -> int:
        """Give the packages of a model the states decided; return how many were changed.

        Raises NetworkError or UsageError: the registry does not answer, or refuses.
        """


class RegistryStates:
    """``documents``: returns the stored lists by name; ``states`` the decisions on all models."""

    def __init__(
        self,
        registry: ModelRegistry,
        documents: Callable[[], dict[str, bytes]],
        states: Callable[[], list[ModelStates]],
    ) -> None:
        self._registry, self._documents, self._states = registry, documents, states
        self._due, self._told = 0.0, dict[str, bytes]()
        self.failed = 0  # failed attempts since this process started

    def follow_if_due(self) -> None:
        """Carry on what was decided since, or all of it every hour; after a failure in a minute.

        A model that fails does not keep the others from being told.
        """
        now, documents = time.monotonic(), self._documents()
        if now < self._due and documents == self._told:
            return
        self._told, self._due = documents, now + _AGAIN_SECONDS  # unless all goes well
        failed = self.failed
        for states in self._states():
            try:
                if changed := self._registry.set_states(states):
                    facts = {"model": states.name, "packages": changed}
                    log.info("the registry follows", extra={"fields": facts})
            except FloError as error:
                log.error("the registry does not follow", extra={"fields": {"why": str(error)}})
                self.failed += 1
        if self.failed == failed:
            self._due = now + _EVERY_SECONDS
