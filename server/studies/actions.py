"""What people may make the coordinator do, for the calls of programs and for the console alike.

Each is entered in the audit log in the name of the person. Who may do what is
``flo.server.http.roles``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flo.errors import StudyError
from flo.server.store.store import Offer, RunPlace, Store
from flo.study.document import Study


@dataclass(frozen=True)
class OperatorActions:
    """``offer`` signs a study and puts it on offer in the name of a person, to be carried out at a
    place; ``shred`` erases what is kept of one; ``export`` makes a copy of the audit log.

    ``places``: where runs can be carried out.
    """

    store: Store
    offer: Callable[[Study, str, RunPlace], Offer]
    shred: Callable[[Offer, str], int]
    export: Callable[[], bytes]
    places: tuple[RunPlace, ...] = ("here",)

    def find(self, digest: str) -> Offer:
        """Raises StudyError if there is no such study."""
        found = self.store.offer(digest)
        if found is None:
            raise StudyError(f"no study {digest[:12]} here", hint="`flo study list` shows them")
        return found

    def stop(self, digest: str, person: str) -> None:
        """After the round that is under way, or at once if no run was begun.

        Raises:
            StudyError: it is over.
        """
        found = self.find(digest)
        if not self.store.request_stop(digest):
            if found.status != "offered":
                raise StudyError(f"study {found.study.name} is {found.status}, not running")
            self.store.set_status(digest, "stopped")
        self.store.add_event(digest, "stop-requested", by=person)

    def export_log(self, person: str) -> bytes:
        """A copy of the audit log, which says at its end that this person took it."""
        self.store.add_event(None, "audit-log-exported", by=person)
        return self.export()
