"""This hospital's decisions on models: put a version into use, go back, withdraw.

Step 4 of ``flo.clients.prediction.versions``.
"""

from __future__ import annotations

from pathlib import Path

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import monitor_news
from flo.clients.prediction.fetched_models import fetch
from flo.clients.prediction.version_news import ask
from flo.clients.prediction.versions import (
    Versions,
    called,
    decide,
    folder_of,
    read,
    refuse_missing,
    said,
)
from flo.errors import RefusedError, TrustError
from flo.published.model_card import PublishedModel
from flo.published.model_states import ModelVersion, withdrawal
from flo.storage.files import make_private_directory
from flo.study.reference import Known, which


def promote(home: SiteHome, api: CoordinatorApi, wanted: str, why: str) -> tuple[str, ModelVersion]:
    """Fetch a version that the coordinator approved, and put it into use here. [4]

    Return the model's name and the version. If it is in use already, only its files are fetched
    again. What a monitor across hospitals has found by then is fetched first, for putting it into
    use settles that.

    Raises:
        UsageError: no such version. RefusedError: the coordinator has not approved it. TrustError:
        the model is another one than the decision names. And as ``fetch``.
    """
    name, model, _ = fetch_approved(home, api, wanted)
    monitor_news.fetch(home, api, model)
    with home.models_lock():
        before = read(home)
        if withdrawal(before.others(name), model.study) is not None:
            raise RefusedError(
                f"the coordinator has just withdrawn version {model.version} of {name}",
                hint="flo model states says why",
            )
        if before.current(name) != model:
            own = called(before.own, name)
            decide(home, before, own.put_into_use(model, said(home, why)))
    return name, model


def fetch_approved(
    home: SiteHome, api: CoordinatorApi, wanted: str
) -> tuple[str, ModelVersion, Path]:
    """Fetch a version that the coordinator approved into the site's folder.

    Return the model's name, the version, and the path of its card. Raises as ``promote``.
    """
    versions = ask(home, api)
    name, model = find(versions, wanted)
    theirs, _ = versions.of(name)
    last = withdrawal(versions.others(name), model.study)
    if last is not None or theirs.state_of(model.study) == "candidate":
        state = "withdrawn" if last else "a candidate"
        raise RefusedError(
            f"the coordinator has not approved version {model.version} of {name}: it is {state}",
            hint="flo model states lists the versions; ask the coordinator to approve it",
        )
    folder = make_private_directory(folder_of(home, model))
    opened = fetch(home, api, model.study, folder)
    _refuse_other(home, opened, name, model)
    return name, model, opened


def _refuse_other(home: SiteHome, path: Path, name: str, model: ModelVersion) -> None:
    """Raise TrustError unless the fetched model is the one that the decision names."""
    opened = PublishedModel.open(path, *home.read_coordinator().fingerprints)
    study = opened.study
    if (study.name, study.version, study.digest, opened.card.digest) != (
        *(name, model.version, model.study),
        model.card,
    ):
        raise TrustError(
            f"the coordinator decided on version {model.version} of {name}, and sent "
            f"{opened.title} with the card {opened.card.digest[:12]}",
            hint="nothing was put into use; ask the coordinator's operator which one is meant",
        )


def rollback(home: SiteHome, wanted: str, why: str) -> tuple[str, ModelVersion]:
    """Withdraw the version in use here, and put the one before it back; return name and that one.

    ``wanted``: the version to go back from, so that a repeated call does not go back twice.

    Raises UsageError: unknown. StudyError: it is not in use, or none was before.
    """
    with home.models_lock():
        before = read(home)
        name, model = find(before, wanted)
        own = called(before.own, name)
        after = own.rolled_back(model, said(home, why), *before.others(name))
        back = after.current
        assert back is not None
        refuse_missing(home, back)
        decide(home, before, after)
    return name, back


def withdraw(home: SiteHome, wanted: str, why: str) -> tuple[str, ModelVersion]:
    """Take a version out of use here; return the model's name and the version.

    Raises UsageError: unknown. StudyError: it is withdrawn already.
    """
    with home.models_lock():
        before = read(home)
        name, model = find(before, wanted)
        decide(home, before, called(before.own, name).withdrawn(model, said(home, why)))
    return name, model


def find(versions: Versions, wanted: str) -> tuple[str, ModelVersion]:
    """Return the model's name and the version that ``wanted`` means (``flo.study.reference``).

    Raises UsageError: none, or several.
    """
    found = {
        one.study: (name, one) for name in versions.names for one in versions.known_versions(name)
    }
    known = [Known(name, model.version, model.study) for name, model in found.values()]
    return found[which(known, wanted, "model that anybody decided on")]
