"""Which monitors belong to a model's name at this hospital, and which belong to none any more."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import allowed, versions
from flo.clients.prediction.finish import open_finished
from flo.clients.prediction.version_decisions import find
from flo.clients.records import watched_answers
from flo.clients.records.finished_model import finished_names
from flo.clients.watching.kept import FINISHED, KeptWatch, Watched
from flo.clients.watching.series import KEPT_DAYS
from flo.errors import FloError, UsageError

log = logging.getLogger("flo.clients.watching.models")
_SECONDS_OF_A_DAY = 86_400


def watched_of(home: SiteHome, wanted: str) -> tuple[str, Watched]:
    """Return title and watched version of a model that is in use, or finished, here.

    ``wanted``: its name; or NAME:VERSION, also of a version that is in use no more. Without a
    version in use, the one that this hospital decided on last is meant.

    Raises UsageError: there is none. And as ``open_in_use``, ``open_finished``.
    """
    known = versions.read(home)
    model = None
    if ":" in wanted:
        _, model = find(known, wanted)
    elif wanted in known.names and known.current(wanted) is None:
        own = versions.called(known.own, wanted).decisions
        model = own[-1].model if own else None
    if model is not None:
        published = allowed.opened(home, versions.refuse_missing(home, model))
        return published.title, Watched.of(published)
    if wanted in known.names:
        published = allowed.open_in_use(home, wanted).model
        return published.title, Watched.of(published)
    finished = open_finished(home, wanted)
    return finished.title, Watched.of(finished.model, finished.finished.made)


@contextmanager
def opened_watch(home: SiteHome, wanted: str) -> Iterator[tuple[str, KeptWatch]]:
    """Open the monitors of a model. Raises UsageError: nothing was counted of it yet."""
    title, watched = watched_of(home, wanted)
    if not watched_answers.path_of(home, watched.id).exists():
        raise UsageError(
            f"nothing was counted of {title} yet", hint="flo model serve counts what it answers"
        )
    with closing(KeptWatch(home, watched)) as opened:
        yield title, opened


def erase(home: SiteHome, wanted: str) -> str:
    """Delete what the monitors of a model counted; return its title. Raises as ``watched_of``.

    A server that runs notices it at the next batch, and begins anew.
    """
    title, watched = watched_of(home, wanted)
    watched_answers.erase(home, watched.id)
    if not watched.finished:  # no audit log may say that there is one
        home.record("watch-erased", watched.study.digest, name=watched.study.name)
    return title


def sweep(home: SiteHome, in_use: Collection[str]) -> None:
    """Delete the monitors of versions that have not answered for ``KEPT_DAYS``, and those of models
    that were finished here and are gone.

    ``in_use``: ids of watches that count now.
    """
    latest = time.time() - KEPT_DAYS * _SECONDS_OF_A_DAY
    others = [one for one in watched_answers.watches(home) if one not in in_use]
    is_any_finished = any(watch.startswith(FINISHED) for watch in others)
    finished = _finished_ids(home) if is_any_finished else set[str]()
    for watch in others:
        path = watched_answers.path_of(home, watch)
        is_gone = watch.startswith(FINISHED) and watch not in finished
        if is_gone or path.stat().st_mtime < latest:
            watched_answers.erase(home, watch)
            log.info("monitors of a version that answers no more are deleted")


def _finished_ids(home: SiteHome) -> set[str]:
    found = set[str]()
    for name in finished_names(home):
        try:
            opened = open_finished(home, name)
        except FloError:  # withdrawn by an opt-out, or unreadable: nobody may use it
            continue
        found.add(Watched.of(opened.model, opened.finished.made).id)
    return found
