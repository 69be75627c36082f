"""Which monitors belong to a model's name at this hospital."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import allowed, versions
from flo.clients.prediction.finish import FinishedAtHome, open_finished
from flo.clients.records import watched_answers
from flo.clients.watching.kept import KeptWatch, Watched
from flo.errors import UsageError
from flo.published.model_card import PublishedModel


def watched_of(home: SiteHome, name: str) -> tuple[str, Watched]:
    """Return title and watched version of a model that is in use, or finished, here.

    Raises UsageError: there is none. And as ``open_in_use``, ``open_finished``.
    """
    opened: PublishedModel | FinishedAtHome
    if name in versions.read(home).names:
        opened = allowed.open_in_use(home, name).model
    else:
        opened = open_finished(home, name)
    published = opened.model if isinstance(opened, FinishedAtHome) else opened
    return opened.title, Watched.of(published, finished=opened is not published)


@contextmanager
def opened_watch(home: SiteHome, name: str) -> Iterator[tuple[str, KeptWatch]]:
    """Open the monitors of a model. Raises UsageError: nothing was counted of it yet."""
    title, watched = watched_of(home, name)
    if not watched_answers.path_of(home, watched.id).exists():
        raise UsageError(
            f"nothing was counted of {title} yet", hint="flo model serve counts what it answers"
        )
    with closing(KeptWatch(home, watched)) as opened:
        yield title, opened


def erase(home: SiteHome, name: str) -> str:
    """Delete what the monitors of a model counted; return its title. Raises as ``watched_of``."""
    title, watched = watched_of(home, name)
    watched_answers.erase(home, watched.id)
    if not watched.finished:  # no audit log may say that there is one
        home.record("watch-erased", watched.study.digest, name=name)
    return title
