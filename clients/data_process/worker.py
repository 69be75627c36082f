"""Warm child process that holds data, model and GPU, and the pipe between it and the agent.

The parent (network, ledger, approvals) never loads patients or torch. The child has no network and
no ledger: it gets a study, a snapshot and a model, and answers with a release that already has
noise (``flo.clients.data_process.child_process`` has the pipe). A child that dies is started again;
the agent answers "not ready" meanwhile. A child that does not answer within ten minutes, or twice a
round's deadline if that is longer, is killed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from flo.arrays import Integers
from flo.clients.data_process import child_process
from flo.clients.data_process.child_process import (
    LONGEST_SECONDS,
    Child,
    ended_after,
    read_frame,
    write_frame,
)
from flo.errors import MessageError, RefusedError
from flo.privacy.secure_sum.ring import Int32Array
from flo.study.document import Study
from flo.study.parameters import Vector
from flo.study.terms import Purpose

log = logging.getLogger("flo.clients.data_process.worker")

_DEADLINES = 2.0  # of a round, to an answer


class DataProcess:
    """The parent's handle of the child process."""

    def __init__(
        self,
        device: str,
        snapshots: Path,
        forbidden: Path,
        required: Callable[[], Collection[str]],
        on_restart: Callable[[int], None] = lambda code: None,
        *,
        processes: int = 1,
    ) -> None:
        """Prepare a child, without starting it.

        Args:
            device: auto, cpu or cuda.
            snapshots: folder of frozen patients, the only files of this site that it may read.
            forbidden: a file to check that with.
            required: returns the layers of confinement that must hold.
            on_restart: called with the return code of an ended child (negative: signal).
            processes: processes that share a training sum, the child included.
        """
        self._required, self._on_restart = required, on_restart
        self._places = (str(snapshots.resolve()), str(forbidden.resolve()))
        self._how = (device, str(processes))
        self._child: Child | None = None
        self._listener: threading.Thread | None = None
        self._loaded: dict[str, str] = {}  # study -> snapshot, as digests
        self._one_at_a_time = threading.RLock()  # one request at a time on the pipe
        self._layers: dict[str, bool] | None = None

    def start(self) -> None:
        """Start the child, so that it is warm when the first request arrives."""
        self.stop()
        self._child, self._listener = child_process.start(
            "flo.clients.data_process.child", *self._how, *self._places
        )
        self._loaded.clear()
        self._layers = None

    @property
    def missing(self) -> list[str]:
        """Layers that the site's policy requires and the child did not find in force.

        Raises:
            RefusedError: no child has reported its layers.
        """
        held = self.layers
        return sorted(name for name in self._required() if not held.get(name))

    @property
    def layers(self) -> dict[str, bool]:
        """Layers of ``flo.clients.data_process.confinement``, and whether the child saw each hold.

        Raises:
            RefusedError: no child has reported its layers.
        """
        if self._layers is None:
            if self._child is None:
                raise RefusedError("the process that holds the data was not started")
            self._layers = child_process.read_layers(self._child)
        return self._layers

    def stop(self) -> None:
        """Kill the child, if there is one, and close its pipes."""
        child, self._child = self._child, None
        if child is not None:
            child_process.stop(child, self._listener)

    def release(
        self,
        study: Study,
        snapshot: Path,
        snapshot_digest: str,
        purpose: Purpose,
        weights: Vector,
        cohort_size: int,
    ) -> Integers | Int32Array:
        """Return a noisy release from the child.

        Raises:
            RefusedError: the child could not answer. The message is only "not ready", so that a
            failure reveals no information about the data.
        """
        wish = {
            "do": "release",
            "study": study.digest,
            "purpose": purpose,
            "cohort_size": cohort_size,
            "kind": weights.dtype.str,
        }
        with self._one_at_a_time:
            self._prepare(study, snapshot, snapshot_digest)
            sent = np.ascontiguousarray(weights).data.cast("B")
            answer, body = self._ask(wish, sent, _patience(study))
        if answer.get("kind") == "<i4":
            return np.frombuffer(body, dtype=np.int32)
        return np.frombuffer(body, dtype=np.int64)

    def warm_up(self, study: Study, snapshot: Path, snapshot_digest: str) -> None:
        """Load the study in the child, unless it has a snapshot of the study loaded already.

        A snapshot that replaced it after an opt-out is not loaded here: a remote party can cause
        this call at no charge, and its duration would reveal the opt-out. Raises RefusedError, see
        ``release``.
        """
        with self._one_at_a_time:
            if study.digest not in self._loaded or self._child is None:
                self._prepare(study, snapshot, snapshot_digest)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Digests of the studies that the child has loaded."""
        return tuple(self._loaded)

    def reload(self, study: Study, snapshot: Path, snapshot_digest: str) -> None:
        """Load the snapshot that replaced a loaded one; called outside of releases.

        Raises RefusedError, see ``release``.
        """
        with self._one_at_a_time:
            known = self._loaded.get(study.digest, snapshot_digest)
            if known != snapshot_digest and self._child is not None:
                self._prepare(study, snapshot, snapshot_digest)

    def _prepare(self, study: Study, snapshot: Path, snapshot_digest: str) -> None:
        ended = self._child.poll() if self._child is not None else None
        if self._child is None or ended is not None:
            self.start()
        if ended is not None:
            log.error("the process that holds the data ended", extra={"fields": {"code": ended}})
            self._on_restart(ended)
        if self.missing:
            log.error(f"the data process is not confined by {', '.join(self.missing)}")
            raise RefusedError("not ready")
        if self._loaded.get(study.digest) != snapshot_digest:
            self._loaded.pop(study.digest, None)
            self._ask(
                {
                    "do": "load",
                    "study": study.canonical_bytes.decode(),
                    "path": str(snapshot),
                    "digest": snapshot_digest,
                },
                seconds=_patience(study),
            )
            self._loaded[study.digest] = snapshot_digest

    def unload(self, study: str) -> None:
        """Remove a study's patients from the child's memory."""
        with self._one_at_a_time:
            self._loaded.pop(study, None)
            if self._child is None:
                return
            try:
                self._ask({"do": "forget", "study": study})
            except RefusedError:
                self.start()  # a new child has no patients loaded

    def _ask(
        self,
        header: dict[str, Any],
        body: bytes | memoryview = b"",
        seconds: float = LONGEST_SECONDS,
    ) -> tuple[dict[str, Any], memoryview]:
        child = self._child
        if child is None or child.stdin is None or child.stdout is None:
            raise RefusedError("not ready")
        try:
            with ended_after(seconds, child):
                write_frame(child.stdin, header, body)
                answer = read_frame(child.stdout)
        except (OSError, MessageError) as error:
            raise RefusedError("not ready") from error
        if answer is None or answer[0].get("status") != "ok":
            raise RefusedError("not ready")
        return answer


def _patience(study: Study) -> float:
    """Return the seconds allowed for an answer."""
    return max(LONGEST_SECONDS, _DEADLINES * study.limits.deadline_seconds)
