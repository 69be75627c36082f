"""This hospital's decisions on comparisons of versions: stored, signed, and found in the audit log.

A signed comparison is a file of the site's folder, named by its digest. The latest entry about a
model in the audit log says which comparison is in force, or that none is. So an older one that is
put back has no effect.
"""

from __future__ import annotations

import secrets
from contextlib import closing
from pathlib import Path
from typing import Any

from flo.clients.comparison.terms import Comparison, refuse_share, refuse_unlike
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import allowed, flag_decisions, versions
from flo.clients.prediction.signed_decision import read_decided
from flo.clients.prediction.version_decisions import fetch_approved, find
from flo.clients.prediction.versions import FOLDER, said
from flo.clients.records import compared_answers
from flo.documents.document import parse
from flo.errors import RefusedError, UsageError
from flo.published.model_card import PublishedModel
from flo.published.model_states import ModelVersion, Said
from flo.storage.files import make_private_directory, write_private

_KIND = "versions-compared"
_ENTRIES = 1000
USUAL_FOLLOW_UP = 30  # days
_AGAIN = "flo model compare NAME --erase ends it; then flo model shadow or canary begins another"


def compare(
    home: SiteHome,
    api: CoordinatorApi,
    wanted: str,
    share: int,
    why: str,
    follow_up_days: int | None = None,
) -> Comparison:
    """Let an approved version score the patients of the version in use, and answer for a share.

    ``share``: percent of the patients; 0 in shadow. ``follow_up_days``: of a comparison that
    begins; ``USUAL_FOLLOW_UP`` if it is not given. A comparison with a version that is no longer
    in use is over: its rows are deleted, and a new one begins.

    Raises:
        UsageError: unknown version, it is in use, or shares are too large. RefusedError: the
        coordinator has not approved it, its risks cannot be compared, or patients would not be
        flagged. And as ``fetch_approved``.
    """
    name, model, path = fetch_approved(home, api, wanted)
    in_use = allowed.open_in_use(home, name)
    other = allowed.opened(home, path)
    baseline = _version_of(in_use.model)
    if other.study.digest == baseline.study:
        raise UsageError(
            f"version {model.version} of {name} is in use: it is compared with others",
            hint="name a version that is not in use",
        )
    refuse_unlike(in_use.model, other)
    if share:
        _refuse_unflagged(home, in_use.model, other)
    with home.models_lock():
        before = running(home, name)
        told = said(home, why)
        if before is None:
            found = _begun(name, baseline, model, share, told, follow_up_days)
            _erase_older(home, name)
        else:
            if follow_up_days not in (None, before.follow_up_days):
                raise UsageError(
                    f"this comparison counts outcomes after {before.follow_up_days} days",
                    hint="end it to begin another one: flo model canary NAME:VERSION --off",
                )
            found = before.with_version(model, share)
            found = found.model_copy(update={"by": told.by, "why": told.why, "time": told.time})
        return _decide(home, found)


def end(home: SiteHome, wanted: str, why: str) -> Comparison | None:
    """Take a version out of its comparison; return what is left of it.

    The rows stay until the comparison is erased, so that late outcomes can still be reported.
    Raises UsageError: it is not compared.
    """
    with home.models_lock():
        name, model = find(versions.read(home), wanted)
        before = in_force(home, name)
        if before is None or before.share_of(model.study) is None:
            raise UsageError(
                f"version {model.version} of {name} is not compared here",
                hint="flo model compare NAME says which versions are",
            )
        told = said(home, why)
        rest = before.without(model.study)
        if rest is None:
            _record(home, before, told, on=False)
            return None
        rest = rest.model_copy(update={"by": told.by, "why": told.why, "time": told.time})
        return _decide(home, rest)


def in_force(home: SiteHome, name: str) -> Comparison | None:
    """Return the comparison of a model that was decided last; None if that has ended.

    It may be over (``running``). Raises TrustError: it is missing or was changed.
    """
    last = _last(home, name)
    return _read(home, last) if last is not None and last["on"] else None


def running(home: SiteHome, name: str) -> Comparison | None:
    """Return the comparison of a model that runs; None if none does.

    It runs while its baseline has been in use without a break. Raises as ``in_force``.
    """
    found = in_force(home, name)
    if found is None:
        return None
    known = versions.read(home)
    last = versions.called(known.own, name).last_on(found.baseline.study)
    unbroken = last is not None and last.time <= found.began
    return found if known.current(name) == found.baseline and unbroken else None


def latest(home: SiteHome, name: str) -> Comparison | None:
    """As ``in_force``, also if it has ended; None if there was none, or it was erased."""
    last = _last(home, name)
    return None if last is None or last.get("erased") else _read(home, last)


def erase(home: SiteHome, name: str) -> None:
    """Delete the rows of a model's comparison, which ends with it.

    Raises UsageError: there is none.
    """
    with home.models_lock():
        last = _last(home, name)
        if last is None or last.get("erased"):
            raise UsageError(
                f"no versions of {name} were compared here", hint="flo model shadow NAME:VERSION"
            )
        compared_answers.erase(home, str(last["id"]))
        facts = {"on": False, "erased": True, "comparison": last["comparison"], "id": last["id"]}
        home.record(_KIND, None, name=name, **facts)


def _begun(
    name: str,
    baseline: ModelVersion,
    model: ModelVersion,
    share: int,
    told: Said,
    follow_up_days: int | None,
) -> Comparison:
    refuse_share(share)
    facts = {
        "name": name,
        "id": secrets.token_hex(16),
        "baseline": baseline.model_dump(mode="json"),
        "versions": [{"model": model.model_dump(mode="json"), "share": share}],
        "follow_up_days": USUAL_FOLLOW_UP if follow_up_days is None else follow_up_days,
        "began": told.time,
    }
    spoken = {"by": told.by, "why": told.why, "time": told.time}
    return parse(Comparison, facts | spoken, "the comparison")


def _decide(home: SiteHome, found: Comparison) -> Comparison:
    signed = found.signed(home.open_identity())
    make_private_directory(home.directory / FOLDER)
    write_private(_path(home, signed.digest), signed.to_bytes())
    _record(home, signed, Said(signed.by, signed.why, signed.time), on=True)
    return signed


def _record(home: SiteHome, found: Comparison, told: Said, *, on: bool) -> None:
    """Put a comparison into force, or end it."""
    home.record(
        _KIND,
        found.baseline.study,
        name=found.name,
        on=on,
        id=found.id,
        comparison=found.digest,
        shares={str(one.model.version): one.share for one in found.versions},
        by=told.by,
        why=told.why,
    )


def _last(home: SiteHome, name: str) -> dict[str, Any] | None:
    with closing(home.open_audit_log()) as log:
        entries, _ = log.latest(_ENTRIES, kind=_KIND)
    return next((one.facts for one in entries if one.facts["name"] == name), None)


def _read(home: SiteHome, last: dict[str, Any]) -> Comparison:
    digest = str(last["comparison"])
    found = read_decided(Comparison, _path(home, digest), digest, "comparison", _AGAIN)
    found.check(home.open_identity().public)
    return found


def _path(home: SiteHome, digest: str) -> Path:
    return home.directory / FOLDER / f"{digest}.comparison.json"


def _erase_older(home: SiteHome, name: str) -> None:
    """Delete the rows of a model's comparison that is over."""
    last = _last(home, name)
    if last is not None and not last.get("erased"):
        compared_answers.erase(home, str(last["id"]))


def _refuse_unflagged(home: SiteHome, baseline: PublishedModel, other: PublishedModel) -> None:
    """Raise RefusedError if the baseline flags patients, and the other would flag nobody."""
    rules = [flag_decisions.read(home, one) for one in (baseline, other)]
    if rules[0] is not None and rules[1] is None:
        raise RefusedError(
            f"patients are flagged by {baseline.title}, and nobody decided from which risk on "
            f"{other.title} flags them",
            hint="flo model flag decides it; or compare in shadow: flo model shadow",
        )


def _version_of(model: PublishedModel) -> ModelVersion:
    study = model.study
    return ModelVersion(version=study.version, study=study.digest, card=model.card.digest)
