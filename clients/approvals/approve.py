"""Approve a study: check it, the policy, the data and the budget, in that order, then sign.

Budget is reserved, and the approval stored and sent, only after every check has passed. An approval
is one reservation in the ledger: all runs of the study together cannot exceed it. If the policy
names people, each approves with a key of their own, and only the last required one reserves budget.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime

from flo.clients.approvals import roster
from flo.clients.approvals.approvers import refuse_missing_people
from flo.clients.approvals.fingerprints import refuse_strangers
from flo.clients.approvals.lineage import (
    approved_before,
    refuse_false_lineage,
    refuse_hidden_periods,
)
from flo.clients.approvals.reserve import check_fits, check_study, freeze, reserve
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.offers import Offered, refuse_forged
from flo.clients.data_process.encoding import InstalledEncoders, Progress, TriedEncoders
from flo.clients.home.policy import Policy
from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.clients.mapping.mapping_file import mapping_of
from flo.clients.records import approval
from flo.clients.records.approval import Approval, approval_path, charged_epsilon, pending_path
from flo.clients.records.members import Members
from flo.clients.sources.mapping import StudyMapping
from flo.errors import FloError, NetworkError, PolicyError, RefusedError, TrustError
from flo.host.environment import code_digest
from flo.privacy.accounting.plan import Plan
from flo.privacy.releases import survey
from flo.protocol.decisions import Approve, PersonApproval, Signed, Terms
from flo.study.document import Study


def approve(
    home: SiteHome,
    api: CoordinatorApi,
    offered: Offered,
    population: Population,
    *,
    if_broken: bool = False,
    people: tuple[PersonApproval, ...] = (),
    progress: Progress = lambda done, of: None,
) -> Approval:
    """Check everything, freeze the data, reserve the budget, sign, and notify the coordinator.

    ``if_broken``: the steward accepts partners with unconfirmed fingerprints, and pays for a study
    with distributed noise as if the secure sum were broken. ``people``: approvals by people with
    keys of their own (``flo.clients.approvals.approvers``), if the policy names people.
    ``progress``: of encoders. A study that was approved for other code is approved again for the
    installed code, at no charge.
    """
    study, hospital = offered.study, home.read_config().hospital
    refuse_forged(offered, home.read_coordinator())
    survey.refuse(offered.study)
    encoders = InstalledEncoders(home.encoders_path, home.read_policy().confinement, progress)
    if study.data.encoders and _kept(home, study.digest) is None:
        # It may take minutes, in which opt-outs must not wait: the decision itself encodes no image
        # that was encoded here.
        policy, mapping = home.read_policy(), mapping_of(home, study)
        _allowed_terms(home, study, population, policy, mapping, if_broken=if_broken)
        freeze(home, api, study, population, mapping, encoders)
    with home.decision_lock():
        kept = _kept(home, study.digest)
        policy, mapping = home.read_policy(), mapping_of(home, study)
        terms = _allowed_terms(home, study, population, policy, mapping, if_broken=if_broken)
        if kept is not None and _still_good(kept, policy, hospital):
            return _announce(api, kept)
        refuse_missing_people(policy, study.digest, hospital, terms, people)
        if kept is None:
            frozen = freeze(home, api, study, population, mapping, encoders)
            kept = reserve(home, offered, population, policy, frozen, if_broken=terms.worst_case)
        approved = _sign(home, kept, terms, people)
    return _announce(api, approved)


def dry_run_approval(
    home: SiteHome,
    api: CoordinatorApi,
    offered: Offered,
    population: Population,
    *,
    if_broken: bool = False,
) -> list[tuple[str, str]]:
    """Make all checks of ``approve`` except people's keys, without approving.

    Reserves no budget and stores or sends no decision; encoders are opened, and encode no image.
    Returns how many patients would take part,
    by generation (``flo.clients.approvals.participation``). Raises what ``approve`` would raise.
    """
    study = offered.study
    refuse_forged(offered, home.read_coordinator())
    survey.refuse(offered.study)
    with home.decision_lock():
        policy, mapping = home.read_policy(), mapping_of(home, study)
        terms = _allowed_terms(home, study, population, policy, mapping, if_broken=if_broken)
        if _kept(home, study.digest) is None:
            encoders = TriedEncoders(home.encoders_path, policy.confinement)
            frozen = freeze(home, api, study, population, mapping, encoders)
            return check_fits(home, study, population, policy, frozen, if_broken=terms.worst_case)
    return []


def shares(
    home: SiteHome, study: Study, population: Population, *, if_broken: bool
) -> dict[str, float]:
    """Return the share of the life budget that a study takes, by sub-ledger."""
    with closing(home.open_ledger()) as ledger:
        life = ledger.balance().lives[population.name]
    plan = Plan.charged(study, if_broken=if_broken)
    return plan.shares(life)


def terms_of(home: SiteHome, study: Study, population: Population, *, if_broken: bool) -> Terms:
    """Return the terms of an approval made now; a stored approval keeps its charge."""
    mapping = mapping_of(home, study)
    return _terms(home, study, population, home.read_policy(), mapping, if_broken=if_broken)


def _terms(
    home: SiteHome,
    study: Study,
    population: Population,
    policy: Policy,
    mapping: StudyMapping | None,
    *,
    if_broken: bool,
) -> Terms:
    kept = _kept(home, study.digest)
    read_by = mapping.commitment(home.open_patients_key()) if mapping else None
    if kept is not None:
        before = kept.read_decision()
        if_broken, read_by = before.worst_case, before.mapping
    broken = if_broken and study.mechanism.noise == "distributed"
    return Terms(
        population=kept.population if kept else population.name,
        unconfirmed=tuple(roster.unconfirmed(home, study)),
        charged="if-broken" if broken else "as-designed",
        code=code_digest(),
        policy=policy.digest,
        mapping=read_by,
    )


def _allowed_terms(
    home: SiteHome,
    study: Study,
    population: Population,
    policy: Policy,
    mapping: StudyMapping | None,
    *,
    if_broken: bool,
) -> Terms:
    """Return the terms of an approval. Raises what the site's own rules say against it."""
    approval.refuse_withdrawn(home, study.digest)
    terms = _terms(home, study, population, policy, mapping, if_broken=if_broken)
    broken, unconfirmed = terms.worst_case, terms.unconfirmed
    epsilon = charged_epsilon(study.canonical_bytes.decode(), broken)
    own = home.open_identity().fingerprint
    refuse_false_lineage(study, approved_before(home, study))
    refuse_hidden_periods(home, study)
    check_study(study, home.read_config().hospital, own, policy, epsilon, unconfirmed)
    refuse_strangers(study, unconfirmed, if_broken=broken)
    return terms


def _kept(home: SiteHome, digest: str) -> Approval | None:
    return approval.load(home, digest) if approval_path(home, digest).exists() else None


def _still_good(kept: Approval, policy: Policy, hospital: str) -> bool:
    """Check if a stored approval is for the installed code and by enough people."""
    decision = kept.read_decision()
    if decision.code != code_digest():
        return False
    try:
        refuse_missing_people(policy, decision.study, hospital, decision.terms, decision.people)
    except (PolicyError, TrustError):
        return False
    return True


def _sign(
    home: SiteHome, kept: Approval, terms: Terms, people: tuple[PersonApproval, ...]
) -> Approval:
    """Sign the hospital's decision; enter it in the audit log and store the approval."""
    study, identity = kept.read_study(), home.open_identity()
    if Members.load(home, study.digest, kept.snapshot) is None:
        raise RefusedError(
            f"study {study.digest[:12]} was approved by FLO 0.1, which kept no list of its "
            "patients, so no patient could be taken out of it",
            hint="flo site withdraw it, and ask the coordinator for a new version of the study",
        )
    with closing(home.open_ledger()) as ledger:
        head = ledger.head()
    decision = Approve(
        schema_version=4 if terms.mapping else 3,
        study=study.digest,
        hospital=home.read_config().hospital,
        time=_now(),
        head=head,
        people=people,
        **terms.model_dump(),
    )
    signed = Signed.by(identity, decision)
    approved = kept.model_copy(
        update={"decision": signed.document, "decision_signature": signed.signature}
    ).signed(identity)
    home.record(
        "approved",
        study.digest,
        reservation=approved.reservation,
        people=[p.name for p in people],
        charged=decision.charged,
        code=decision.code,
        policy=decision.policy,
    )
    approval.keep(home, approved)
    pending_path(home, study.digest).unlink(missing_ok=True)
    return approved


class NotAnnounced(NetworkError):
    """The approval is in force here, and the coordinator was not notified of it."""


def _announce(api: CoordinatorApi, approved: Approval) -> Approval:
    body = {"document": approved.decision, "signature": approved.decision_signature}
    try:
        api.call("approvals", body)
    except FloError as error:
        raise NotAnnounced(
            f"approved, and the budget is reserved, but the coordinator was not notified: {error}",
            hint="approve once more when the coordinator answers; no budget is reserved twice",
        ) from error
    return approved


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
