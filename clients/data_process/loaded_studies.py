"""The studies that a site's processes have loaded, and the answers about them.

The data process answers the agent, and passes what concerns all on to its helpers. A helper answers
the data process, and only a helper returns a sum without noise.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flo.arrays import Integers
from flo.clients.data_process.helpers import Helpers, StudyHelpers
from flo.clients.data_process.trainer import Trainer
from flo.clients.records.snapshot import Snapshot
from flo.host.memory import give_back_freed_memory
from flo.privacy.gradients.batches import Slot
from flo.privacy.secure_sum.ring import Int32Array, as_int32_if_fits
from flo.study import frozen
from flo.study.loading import from_canonical

log = logging.getLogger("flo.clients.data_process.child")

Values = Integers | Int32Array
_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class _Loaded:
    snapshot: str  # its digest
    trainer: Trainer


class LoadedStudies:
    """The studies that are loaded in one process."""

    def __init__(self, device: str, slot: Slot, helpers: Helpers) -> None:
        self._device, self._slot, self._helpers = device, slot, helpers
        self._loaded = dict[str, _Loaded]()

    def answer_agent(
        self, header: dict[str, Any], body: memoryview
    ) -> tuple[dict[str, Any], Values]:
        """Load or forget a study in all processes, or return a noisy release.

        Raises:
            RuntimeError: a helper could not answer, or processes would compute differently.
        """
        match header["do"]:
            case "release":
                trainer = self._loaded[header["study"]].trainer
                weights = np.frombuffer(body, dtype=header["kind"])
                noisy = trainer.release(header["purpose"], weights, header["cohort_size"])
                return {}, as_int32_if_fits(noisy)
            case "load":
                self._load_everywhere(header)
            case "forget":
                self._forget_everywhere(header["study"])
            case _:
                raise ValueError("an unknown request")
        return {}, _NOTHING

    def answer_data_process(
        self, header: dict[str, Any], body: memoryview
    ) -> tuple[dict[str, Any], Values]:
        """As a helper, load or forget a study, or return the exact sum of this process's blocks."""
        match header["do"]:
            case "sum":
                loaded = self._loaded[header["study"]]
                if loaded.snapshot != header["snapshot"]:
                    raise RuntimeError("a helper has other patients than the data process")
                weights = np.frombuffer(body[: header["weights"]], dtype=header["kind"])
                chosen = np.frombuffer(body[header["weights"] :], dtype=np.bool_)
                return {}, loaded.trainer.gradient_sum(weights, chosen if len(chosen) else None)
            case "load":
                return {"manner": self._load(header)}, _NOTHING
            case "forget":
                self._forget(header["study"])
                return {}, _NOTHING
        raise ValueError("an unknown request")

    def _load_everywhere(self, header: dict[str, Any]) -> None:
        """Load a study in all processes so that all compute in the same manner, or in none."""
        asked = header | {"at_once": None}
        try:
            while True:
                own, answers = self._helpers.along(asked, partial(self._load, asked))
                manners = [own, *(answer["manner"] for answer, _ in answers)]
                if all(manner == own for manner in manners):
                    return
                smallest = min(manner["at_once"] for manner in manners)
                if all(manner["at_once"] == smallest for manner in manners):
                    log.error(f"this site's processes would compute differently: {manners}")
                    raise RuntimeError("processes would compute differently")
                asked = header | {"at_once": smallest}
        except Exception:  # of any kind: it is raised again once no process has the study
            with contextlib.suppress(RuntimeError):
                self._forget_everywhere(from_canonical(header["study"].encode()).digest)
            raise

    def _forget_everywhere(self, study: str) -> None:
        self._helpers.along({"do": "forget", "study": study}, partial(self._forget, study))

    def _load(self, header: dict[str, Any]) -> dict[str, str | int]:
        """Load a study in this process, and return the manner in which it computes."""
        study = from_canonical(header["study"].encode())
        self._loaded.pop(study.digest, None)  # its patients may have changed
        others = StudyHelpers(self._helpers, study.digest, header["digest"])
        trainer = Trainer(
            study,
            Snapshot.read(Path(header["path"]), header["digest"]),
            device=self._device,
            slot=self._slot,
            at_once=header["at_once"],
            others=others,
        )
        self._loaded[study.digest] = _Loaded(header["digest"], trainer)
        return trainer.manner

    def _forget(self, study: str) -> None:
        self._loaded.pop(study, None)
        frozen.keep_only({one.trainer.frozen_file for one in self._loaded.values()})
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        give_back_freed_memory()
