"""Runs' tables: status, saved states, launches that may write, jobs, salts."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flo.documents import canonical
from flo.errors import RefusedError
from flo.server.store.tables import Tables, now

Event = tuple[str, dict[str, Any]]  # kind, facts


@dataclass(frozen=True)
class RunRecord:
    """A stored run. ``status``: running, paused, done, stopped or ended.

    ``study``: digest of its study. ``state``: sealed; None if not saved yet or not loaded.
    """

    id: str
    study: str
    status: str
    state: bytes | None
    result: dict[str, Any] | None


class RunTables(Tables):
    """The tables of runs and their jobs. Writes by an earlier launch of a run are refused."""

    def start_run(self, run: str, study: str) -> bool:
        """Start an offered study with this run, atomically. Return False if it is not on offer."""
        with self._transaction():
            changed = self._db.execute(
                "UPDATE studies SET status = 'running' WHERE digest = ? AND status = 'offered'",
                (study,),
            )
            if changed.rowcount != 1:
                return False
            self._db.execute(
                "INSERT INTO runs (id, study, status, started) VALUES (?, ?, 'running', ?)",
                (run, study, now()),
            )
            self._make_salt(study)  # a backup that has the run has what its files are sealed with
        return True

    def runs(self) -> list[RunRecord]:
        """Return all runs, the oldest first, without their states, which may be large."""
        rows = self._all("SELECT id, study, status, NULL, result FROM runs ORDER BY started")
        return [_run(row) for row in rows]

    def run(self, run: str) -> RunRecord | None:
        """Return a run with its sealed state; None if it does not exist."""
        row = self._one("SELECT id, study, status, state, result FROM runs WHERE id = ?", run)
        return _run(row) if row else None

    def last_run(self, study: str) -> RunRecord | None:
        """Return the latest run of a study, without its state, which may be large."""
        return next((record for record in reversed(self.runs()) if record.study == study), None)

    def take_run(self, run: str) -> int:
        """Begin a new launch of a run; return its number. Refuse earlier launches from now on.

        A process of an earlier launch may outlive the coordinator that started it.
        """
        with self._transaction():
            self._db.execute("UPDATE runs SET launch = launch + 1 WHERE id = ?", (run,))
            (launch,) = self._db.execute("SELECT launch FROM runs WHERE id = ?", (run,)).fetchone()
        return int(launch)

    def refuse_earlier(self, run: str, launch: int) -> None:
        """Raise RefusedError unless the run is running and this launch is its latest."""
        self._write_as(run, launch, "launch = launch")

    def save_state(self, run: str, launch: int, state: bytes, events: Sequence[Event] = ()) -> None:
        """Store the sealed state and the events (kind, facts) that led to it: all or none.

        Raises:
            RefusedError: as ``refuse_earlier``.
        """
        with self._transaction():
            self._change(run, launch, "state = ?", state)
            self._db.executemany(
                "INSERT INTO events (study, time, kind, facts)"
                " SELECT study, ?, ?, ? FROM runs WHERE id = ?",
                [(now(), kind, canonical.encode(facts).decode(), run) for kind, facts in events],
            )

    def pause_run(self, run: str, launch: int) -> None:
        """Pause the run; it can resume later. Raises RefusedError as ``refuse_earlier`` does."""
        self._write_as(run, launch, "status = 'paused'")

    def end_run(self, run: str, launch: int, status: str, result: dict[str, Any]) -> None:
        """End the run, store its result. Raises RefusedError as ``refuse_earlier`` does."""
        text = canonical.encode(result).decode()
        self._write_as(run, launch, "status = ?, result = ?", status, text)

    def _write_as(self, run: str, launch: int, what: str, *values: Any) -> None:
        with self._transaction():
            self._change(run, launch, what, *values)

    def _change(self, run: str, launch: int, what: str, *values: Any) -> None:
        changed = self._db.execute(
            f"UPDATE runs SET {what} WHERE id = ? AND launch = ? AND status = 'running'",  # noqa: S608
            (*values, run, launch),
        )
        if changed.rowcount != 1:
            raise RefusedError(f"run {run} is over, or another process carries it out")

    def resume_run(self, run: str) -> None:
        """Set a paused run and its study to running."""
        with self._transaction():
            self._db.execute("UPDATE runs SET status = 'running' WHERE id = ?", (run,))
            self._db.execute(
                "UPDATE studies SET status = 'running' WHERE digest ="
                " (SELECT study FROM runs WHERE id = ?)",
                (run,),
            )

    def add_job(self, run: str) -> str:
        """Store a new job that executes this run elsewhere; return its name."""
        with self._transaction():
            (before,) = self._db.execute(
                "SELECT count(*) FROM jobs WHERE run = ?", (run,)
            ).fetchone()
            name = f"flo-{run}-{before + 1}"
            self._db.execute(
                "INSERT INTO jobs (name, run, number, created) VALUES (?, ?, ?, ?)",
                (name, run, before + 1, now()),
            )
        return name

    def open_job(self, job: str) -> tuple[str, str]:
        """Return the job's run and study, once. Raises RefusedError if opened or not known."""
        with self._transaction():
            changed = self._db.execute(
                "UPDATE jobs SET opened = 1 WHERE name = ? AND opened = 0", (job,)
            )
            if changed.rowcount != 1:
                raise RefusedError(f"job {job} was opened already, or does not exist")
            run, study = self._db.execute(
                "SELECT runs.id, runs.study FROM jobs JOIN runs ON runs.id = jobs.run"
                " WHERE jobs.name = ?",
                (job,),
            ).fetchone()
        return str(run), str(study)

    def last_job(self, run: str) -> str | None:
        """Return the name of the run's latest job; None if it never had one."""
        row = self._one("SELECT name FROM jobs WHERE run = ? ORDER BY number DESC LIMIT 1", run)
        return str(row[0]) if row else None

    def salt(self, study: str) -> bytes:
        """Return the random salt (32 bytes) of this study's key, created at the first call.

        Raises:
            RefusedError: the study was shredded.
        """
        with self._transaction():
            self._make_salt(study)
            (salt,) = self._db.execute(
                "SELECT salt FROM salts WHERE study = ?", (study,)
            ).fetchone()
        if salt is None:
            raise RefusedError(f"study {study[:12]} was shredded: its states cannot be opened")
        return bytes(salt)

    def _make_salt(self, study: str) -> None:
        fresh = secrets.token_bytes(32)
        self._db.execute("INSERT OR IGNORE INTO salts VALUES (?, ?)", (study, fresh))

    def forget_result(self, run: str) -> None:
        """Remove the noisy sums of statistics, a gate or a monitor from the run's result."""
        self._write(
            "UPDATE runs SET result = json_remove(result, '$.statistics', '$.gate', '$.monitor')"
            " WHERE id = ?",
            run,
        )

    def erase_salt(self, study: str) -> None:
        """Erase a study's salt and saved states permanently.

        SQLite overwrites them in the file (``secure_delete``) and truncates the write-ahead log.
        """
        with self._transaction():
            self._db.execute(
                "INSERT INTO salts VALUES (?, NULL) ON CONFLICT (study) DO UPDATE SET salt = NULL",
                (study,),
            )
            self._db.execute("UPDATE runs SET state = NULL WHERE study = ?", (study,))
        self._one("PRAGMA wal_checkpoint(TRUNCATE)")

    def request_stop(self, study: str) -> bool:
        """Request a stop of the study's run. Return False if none is running or paused."""
        with self._transaction():
            changed = self._db.execute(
                "UPDATE runs SET stop = 1 WHERE study = ? AND status IN ('running', 'paused')",
                (study,),
            )
            return changed.rowcount > 0

    def stop_requested(self, run: str) -> bool:
        """Return whether a stop was requested; False for an unknown run."""
        found = self._one("SELECT stop FROM runs WHERE id = ?", run)
        return bool(found and found[0])


def _run(row: tuple[Any, ...]) -> RunRecord:
    return RunRecord(row[0], row[1], row[2], row[3], json.loads(row[4]) if row[4] else None)


def new_run_id() -> str:
    """Return a new run id, independent of Flower's: time in milliseconds and a random part."""
    return f"run-{time.time_ns() // 1_000_000:x}-{secrets.token_hex(3)}"
