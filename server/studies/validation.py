"""Checks of a study before it is signed and offered; no IO.

The signer, the console's draft page and ``flo study launch --dry-run`` use them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import date

from flo.errors import StudyError
from flo.privacy.accounting.readable import refuse_unreadable
from flo.privacy.releases import survey
from flo.server.studies.ancestors import CardOf, with_lineage
from flo.server.studies.gated import refuse_more_attempts, with_models
from flo.server.studies.watched import with_watched_model
from flo.study.document import MAX_STUDY_BYTES, UNDER_WAY, Study
from flo.study.terms import MOST_CONNECTED


def with_fingerprints(study: Study, keys: Mapping[str, str]) -> Study:
    """Return the study with its hospitals' key fingerprints.

    ``keys``: hospital id -> fingerprint of the enrolled key.

    Raises:
        StudyError: a hospital is not enrolled or was revoked, or the study names another key.
    """
    complete = study.with_fingerprints(dict(keys))
    for hospital in complete.hospitals:
        if hospital.id not in keys:
            raise StudyError(
                f"hospital {hospital.id!r} is not enrolled",
                hint=f"flo coordinator invite {hospital.id}",
            )
        if keys[hospital.id] != hospital.fingerprint:
            raise StudyError(
                f"the study names another identity key for {hospital.id!r} than the enrolled one",
                hint="leave its fingerprint out of the study: it is filled in from enrolment",
            )
    return complete


def filled_in(
    study: Study,
    keys: Mapping[str, str],
    earlier: Collection[tuple[Study, str]],
    card_of: CardOf,
) -> Study:
    """Return the study with what signing adds: keys, lineage, models it compares or watches.

    ``earlier``: all signed studies in the order of signing, each with its status. ``card_of``:
    returns the checked card, and its study, that has a digest. Raises as ``with_fingerprints``,
    ``flo.server.studies.ancestors.with_lineage``, ``flo.server.studies.gated.with_models`` and
    ``flo.server.studies.watched.with_watched_model`` do.
    """
    complete = with_models(with_lineage(with_fingerprints(study, keys), card_of), card_of)
    return with_watched_model(complete, earlier, card_of)


def complete_for_signing(
    study: Study,
    keys: Mapping[str, str],
    earlier: Collection[tuple[Study, str]],
    today: date,
    card_of: CardOf,
) -> Study:
    """Return the study to be signed. ``earlier``: as in ``filled_in``.

    Raises:
        StudyError, TrustError: as ``filled_in``; or a text of the scaffold is unchanged, a column
        identifies patients, a catalogue would be noise, the study is too large, has expired or is
        over, or its version was signed with another text.
    """
    if (hospitals := len(study.hospitals)) > MOST_CONNECTED:
        raise StudyError(
            f"the study has {hospitals} hospitals, and at most {MOST_CONNECTED} run one together",
            hint="flo simulate --fast takes more",
        )
    study.refuse_unfinished()
    study.refuse_identifying()
    survey.refuse(study)
    refuse_unreadable(study)
    complete = filled_in(study, keys, earlier, card_of)
    refuse_more_attempts(complete, [one for one, _ in earlier])
    if (size := len(complete.canonical_bytes)) > MAX_STUDY_BYTES:
        raise StudyError(
            f"with keys and lineage the study has {size} bytes, limit {MAX_STUDY_BYTES}",
            hint="use fewer or shorter columns, codes or texts",
        )
    if complete.has_expired(today):
        raise StudyError(f"the study expired on {complete.expires}", hint="set a later `expires`")
    versions = [one.version for one, _ in earlier if one.name == complete.name]
    hint = f"set version = {1 + max(versions, default=0)}"
    same = [status for one, status in earlier if one.digest == complete.digest]
    if same and same[0] not in UNDER_WAY:
        raise StudyError(
            f"this version of {complete.name} was signed before and is {same[0]}",
            hint=f"to run it again, {hint}: hospitals approve each version once",
        )
    if not same and complete.version in versions:
        raise StudyError(
            f"version {complete.version} of {complete.name} was signed with another text",
            hint=f"a signed version cannot change: {hint}",
        )
    return complete
