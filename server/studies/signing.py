"""Completing, signing and offering a study: validation with what the coordinator has stored."""

from __future__ import annotations

from datetime import UTC, datetime

from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.store.store import Offer, RunPlace, Store
from flo.server.studies.model_decisions import refuse_withdrawn, states_of
from flo.server.studies.own_models import OwnModels
from flo.server.studies.validation import complete_for_signing, filled_in
from flo.study.document import Study


class StudySigner:
    """Signs studies in the coordinator's name."""

    def __init__(self, home: CoordinatorHome, store: Store) -> None:
        self._home, self._store = home, store

    def filled_in(self, study: Study) -> Study:
        """Return the study with what signing adds: keys, lineage, models it compares or watches.

        Raises:
            StudyError, TrustError: as ``flo.server.studies.validation.filled_in``.
        """
        return filled_in(study, self._store.keys(), self._signed(), OwnModels(self._home).card)

    def complete(self, study: Study) -> Study:
        """Return the study as it would be signed now.

        Raises:
            StudyError, TrustError: as ``flo.server.studies.validation.complete_for_signing``; or
            the tensors of a model that it continues, compares or watches were changed, or one that
            it continues or watches is withdrawn.
        """
        models = OwnModels(self._home)
        today, keys = datetime.now(UTC).date(), self._store.keys()
        complete = complete_for_signing(study, keys, self._signed(), today, models.card)
        for one in complete.lineage:
            if complete.continues and one.card in complete.continues.models:
                refuse_withdrawn([states_of(self._store, one.name)], one.study)
        continued = complete.continues.models if complete.continues else ()
        for digest in (*continued, *complete.published_models):
            models.check_tensors(digest)
        if complete.monitor:
            _, watched = models.card(complete.monitor.model)
            refuse_withdrawn([states_of(self._store, watched.name)], watched.digest)
        return complete

    def _signed(self) -> list[tuple[Study, str]]:
        return [(offer.study, offer.status) for offer in self._store.offers()]

    def offer(self, study: Study, person: str, place: RunPlace = "here") -> Offer:
        """Complete, sign and offer the study. Raises as ``complete`` does.

        ``person``: named in the audit log. ``place``: where the study's runs are executed.
        """
        complete = self.complete(study)
        signature = self._home.open_identity().sign("study", complete.canonical_bytes)
        self._store.add_study(complete, signature, place)
        facts = {"name": complete.name, "version": complete.version, "by": person, "place": place}
        self._store.add_event(complete.digest, "offered", **facts)
        return self._store.offer(complete.digest) or Offer(complete, signature, "offered")
