"""The log of a hospital's answers: who asked, which version answered, and with what outcome.

It is a chain of signed entries as the audit log (``flo.audit.chain``), in a file of its own for
each month, and no other party sees its head: how often a model is used stays in the hospital. The
first entry of a file names the end of the file before. The site's audit log, which the coordinator
witnesses, names the end of the chain every hour while models answer, so that a later cut shows.

    continues the end of the file before
    began     models, callers and their keys, by digest
    answers   up to 150 answers: id, caller, service, version, outcome
    refused   requests of callers who are not allowed, counted by reason
    feedback  what clinicians did with cards, by id
    outcomes  how many outcomes of patients were reported
    ended     the server was stopped

An answer's id is on its card and in its resource. No entry has a patient's data or id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flo.audit.chain import ZERO_HASH
from flo.audit.log import AuditLog
from flo.errors import TrustError
from flo.keys.identity import Signer
from flo.storage.files import make_private_directory

FOLDER = "answers"
ANCHOR = "answers-anchored"  # in the site's audit log
MOST_ANSWERS = 150  # of an entry, which has at most 16 KiB
_AT_ONCE = 5000  # entries that are checked at a time
Line = tuple[str, str, str, int, str]  # id, caller, service, version, outcome


def paths(folder: Path) -> list[Path]:
    """Return the files of a site's folder, the oldest first."""
    return sorted((folder / FOLDER).glob("answers-????-??.sqlite"))


class AnswerLog:
    """The log of the present month. Used by one thread only."""

    def __init__(
        self,
        folder: Path,
        identity: Signer,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Open or create. Raises TrustError: it is not this site's, or was edited."""
        self._folder, self._identity, self._clock = folder, identity, clock
        make_private_directory(folder / FOLDER)
        self._path = self._now()
        self._entries = self._opened(self._path)

    def append(self, kind: str, **facts: Any) -> None:
        """Sign one entry and flush it to disk."""
        path = self._now()
        if path != self._path:
            opened = self._opened(path)
            self._entries.close()
            self._path, self._entries = path, opened
        self._entries.append(kind, None, **facts)

    def append_answers(self, lines: Sequence[Line]) -> None:
        """Enter a group of answers with one signature for each ``MOST_ANSWERS`` of them."""
        for begin in range(0, len(lines), MOST_ANSWERS):
            self.append(
                "answers", answers=[list(line) for line in lines[begin : begin + MOST_ANSWERS]]
            )

    def head(self) -> dict[str, Any]:
        """Return file, number and hash of the last entry, for the site's audit log."""
        return end_of(self._entries, self._path)

    def close(self) -> None:
        """Close the file."""
        self._entries.close()

    def _now(self) -> Path:
        return self._folder / FOLDER / f"answers-{self._clock():%Y-%m}.sqlite"

    def _opened(self, path: Path) -> AuditLog:
        """Open the log of a month; a new one begins with the end of the one before."""
        earlier = [one for one in paths(self._folder) if one != path]
        entries = AuditLog(path, self._identity, self._clock)
        if not entries.latest(1)[0]:
            before: dict[str, Any] = {"file": "", "number": 0, "hash": ZERO_HASH}
            if earlier:
                with closing(AuditLog(earlier[-1], self._identity)) as last:
                    before = end_of(last, earlier[-1])
            entries.append("continues", None, **before)
        return entries


def minutes(folder: Path, identity: Signer, service: str) -> Counter[int]:
    """Return how often a model answered in each minute since 1970, UTC."""
    found = Counter[int]()
    for path in paths(folder):
        with closing(AuditLog(path, identity)) as log:
            for entry in log.entries():
                several = entry.facts.get("answers", ()) if entry.kind == "answers" else ()
                count = sum(1 for _, _, name, *_ in several if name == service)
                if count:
                    at = datetime.fromisoformat(entry.time).timestamp()
                    found[int(at // 60)] += count
    return found


def end_of(log: AuditLog, path: Path) -> dict[str, Any]:
    """Return file, number and hash of a log's last entry."""
    entries, _ = log.latest(1)
    last = entries[0]
    return {"file": path.name, "number": last.number, "hash": last.hash}


def check(folder: Path, identity: Signer, anchors: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Check every file, that each continues the one before, and that no end that the audit log
    names is missing; return the number of entries of each file.

    ``anchors``: facts of the audit log's entries ``answers-anchored``. A file that was removed as a
    whole is no error, if it is the oldest: a hospital decides how long it keeps them.

    Raises TrustError.
    """
    counts, before = dict[str, int](), None
    hashes = dict[str, dict[int, str]]()
    for path in paths(folder):
        with closing(AuditLog(path, identity)) as log:
            number, hash_ = 0, ZERO_HASH
            wanted = {int(one["number"]) for one in anchors if one["file"] == path.name}
            while True:
                after, hash_after = log.checked(number, hash_, most=_AT_ONCE)
                if after == number:
                    break
                number, hash_ = after, hash_after
            hashes[path.name] = {
                one.number: one.hash for one in log.entries() if one.number in wanted
            }
            first = next(iter(log.entries()))
            if before is not None and first.facts != before:
                raise TrustError(f"{path.name} does not continue {before['file']}: one was changed")
            counts[path.name], before = number, end_of(log, path)
    for anchor in anchors:
        known = hashes.get(str(anchor["file"]))
        if known is not None and known.get(int(anchor["number"])) != anchor["hash"]:
            raise TrustError(
                f"{anchor['file']} was cut or changed: the audit log names its entry "
                f"{anchor['number']}, which is missing there or is another one"
            )
    return counts
