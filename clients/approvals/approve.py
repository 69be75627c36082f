"""Approve a study: check it, the policy, the data and the budget, in that order, then sign.

Budget is reserved, and the approval stored and sent, only after every check has passed. An approval
is one reservation in the ledger: all runs of the study together cannot exceed it. If the policy
names people, each approves with a key of their own, and only the last required one reserves budget.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing, suppress
from datetime import UTC, datetime

from flo.clients.approvals.approvers import refuse_missing_people
from flo.clients.approvals.fingerprints import AddressBook, refuse_strangers
from flo.clients.approvals.yearly_budget import refuse_over_a_year
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.cosigning import confirm_head
from flo.clients.connection.offers import Offered, refuse_forged
from flo.clients.home.policy import Policy, refuse_violations
from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.clients.mapping.mapping_file import mapping_of
from flo.clients.patients.opt_outs import opted_out
from flo.clients.records import approval
from flo.clients.records.approval import (
    Approval,
    approval_path,
    charged_epsilon,
    pending_path,
    snapshot_path,
)
from flo.clients.records.members import Members
from flo.clients.records.snapshot import Snapshot
from flo.clients.sources.mapping import StudyMapping
from flo.errors import FloError, PolicyError, RefusedError, TrustError
from flo.host.environment import code_digest
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.patients.split import is_held_out, keyed_hash
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
) -> Approval:
    """Check everything, freeze the data, reserve the budget, sign, and notify the coordinator.

    ``if_broken``: the steward accepts partners with unconfirmed fingerprints, and pays for a study
    with distributed noise as if the secure sum were broken. ``people``: approvals by people with
    keys of their own (``flo.clients.approvals.approvers``), if the policy names people. A study
    that was approved for other code is approved again for the installed code, at no charge.
    """
    study, hospital = offered.study, home.read_config().hospital
    refuse_forged(offered, home.read_coordinator())
    with home.decision_lock():
        kept, policy, mapping = (
            _kept(home, study.digest),
            home.read_policy(),
            mapping_of(home, study),
        )
        terms = _allowed_terms(home, study, population, policy, mapping, if_broken=if_broken)
        if kept is not None and _still_good(kept, policy, hospital):
            return _announce(api, kept)
        refuse_missing_people(policy, study.digest, hospital, terms, people)
        if kept is None:
            kept = _reserve(
                home, api, offered, population, policy, mapping, if_broken=terms.worst_case
            )
        approved = _sign(home, kept, terms, people)
    return _announce(api, approved)


def dry_run_approval(
    home: SiteHome,
    api: CoordinatorApi,
    offered: Offered,
    population: Population,
    *,
    if_broken: bool = False,
) -> None:
    """Make all checks of ``approve`` except people's keys, without approving.

    Reserves no budget and stores or sends no decision. Raises what ``approve`` would raise.
    """
    study = offered.study
    refuse_forged(offered, home.read_coordinator())
    with home.decision_lock():
        policy, mapping = home.read_policy(), mapping_of(home, study)
        terms = _allowed_terms(home, study, population, policy, mapping, if_broken=if_broken)
        if _kept(home, study.digest) is None:
            with suppress(_Rehearsed):
                _reserve(
                    home,
                    api,
                    offered,
                    population,
                    policy,
                    mapping,
                    if_broken=terms.worst_case,
                    keep=False,
                )


def shares(
    home: SiteHome, study: Study, population: Population, *, if_broken: bool
) -> dict[str, float]:
    """Return the share of the life budget that a study takes, by sub-ledger."""
    with closing(home.open_ledger()) as ledger:
        life = ledger.balance().lives[population.name]
    plan = Plan.charged(study, if_broken=if_broken)
    return plan.shares(life)


class _Rehearsed(Exception):
    """Raised in a dry run once the reservation fits, to roll back the ledger's transaction."""


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
        unconfirmed=tuple(AddressBook.load(home).unconfirmed(study, home.read_config().hospital)),
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
    check_study(study, home.read_config().hospital, own, policy, epsilon, unconfirmed)
    refuse_strangers(study, unconfirmed, if_broken=broken)
    return terms


def is_approved(home: SiteHome, digest: str) -> bool:
    """Return whether a stored approval is for the installed code and by enough people."""
    kept = _kept(home, digest)
    hospital = home.read_config().hospital
    return kept is not None and _still_good(kept, home.read_policy(), hospital)


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
            "patients, so nobody could be taken out of it",
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


def check_study(
    study: Study,
    hospital: str,
    own: str,
    policy: Policy,
    epsilon: float,
    unconfirmed: Collection[str],
) -> None:
    """Check the site's own rules on a study that is charged at ``epsilon``.

    Raises:
        TrustError: the study names another key for us, or no fingerprint for a partner.
        PolicyError: it breaks the policy, or has distributed noise without masks.
        RefusedError: it has expired.
    """
    if study.hospital(hospital).fingerprint != own:
        raise TrustError(
            f"the study names another identity key for {hospital} than this site's {own[:12]}",
            hint="compare fingerprints with the coordinator; a new key needs a new enrolment and a "
            "new version of the study",
        )
    nameless = [partner.id for partner in study.hospitals if not partner.fingerprint]
    if nameless:
        raise TrustError(
            f"the study does not name every partner's fingerprint: {', '.join(nameless)}",
            hint="ask the coordinator for a new version, once all hospitals are enrolled",
        )
    if study.has_expired(datetime.now(UTC).date()):
        raise RefusedError(
            f"the study expired on {study.expires}",
            hint="ask the coordinator for a new version with a later `expires`",
        )
    if study.mechanism.noise == "distributed" and not study.masked:
        raise PolicyError(
            "distributed noise without masks is never approved",
            hint="ask the coordinator for the study in schema_version 2",
        )
    refuse_violations(policy, study, hospital, epsilon, unconfirmed)


def _reserve(
    home: SiteHome,
    api: CoordinatorApi,
    offered: Offered,
    population: Population,
    policy: Policy,
    mapping: StudyMapping | None,
    *,
    if_broken: bool,
    keep: bool = True,
) -> Approval:
    """Check and freeze the data, and reserve the budget; return an approval without decision.

    With ``keep`` false, raises _Rehearsed instead of reserving.
    """
    study = offered.study
    # These import pandas, which is slow; the agent also imports this module, but never reads a
    # hospital's file.
    from flo.clients.patients.id_continuity import check_id_continuity
    from flo.clients.quality.check import require_clean

    with closing(home.open_ledger()) as ledger:
        confirm_head(api, ledger)  # before the data are read: the call depends on none of them
        refuse_changed_birth(home, ledger, population)
    checked = require_clean(
        population.open(),
        study.data,
        population.id_column,
        mapping,
        population.ignore,
        also=check_id_continuity(home, population),
        declared=study.hospital(home.read_config().hospital).declared_size,
    )
    checked = checked.without(opted_out(home, set(checked.patient_ids)))
    patients_key, split_key = home.open_patients_key(), home.open_split_key()
    snapshot = Snapshot.of(checked, split_key, population.hold_out)
    digest = snapshot.digest
    with closing(home.open_ledger()) as ledger:
        hashes = {name: keyed_hash(patients_key, name) for name in checked.patient_ids}
        path = snapshot_path(home, study.digest, digest)
        if keep:
            snapshot.write(path)

        def allowed() -> None:
            refuse_over_a_year(
                policy,
                ledger,
                study,
                population.name,
                if_broken=if_broken,
                now=datetime.now(UTC),
            )
            if not keep:
                raise _Rehearsed

        try:
            reservation = ledger.reserve(
                study,
                population.name,
                set(hashes.values()),
                if_broken=if_broken,
                allowed=allowed,
            )
        except FloError:
            path.unlink(missing_ok=True)
            raise
    held_out = {n for n in hashes if is_held_out(split_key, n, population.hold_out)}
    Members(
        training=tuple(hashes[name] for name in hashes if name not in held_out),
        held_out=tuple(hashes[name] for name in hashes if name in held_out),
    ).save(home, study.digest, digest)
    home.record(
        "budget-reserved", study.digest, reservation=reservation, population=population.name
    )
    return Approval(
        study=study.canonical_bytes.decode(),
        study_signature=offered.signature,
        population=population.name,
        snapshot=digest,
        reservation=reservation,
        decision="",
        decision_signature="",
    )


def _announce(api: CoordinatorApi, approved: Approval) -> Approval:
    api.call(
        "approvals",
        {"document": approved.decision, "signature": approved.decision_signature},
    )
    return approved


def refuse_changed_birth(home: SiteHome, ledger: Ledger, population: Population) -> None:
    """Refuse if what was fixed at registration changed: site.toml, split key, patients key."""
    commitments = home.read_key_commitments()
    for row in ledger.rows():
        public, private = row.public, row.private or {}
        if public["kind"] == "birth" and public["population"] == population.name:
            for name, born, now in (
                ("epsilon", public["epsilon"], population.epsilon),
                ("hold_out", public["hold_out"], population.hold_out),
                ("declared_size", public["declared_size"], population.declared_size),
                ("id_column", private.get("id_column"), population.id_column),
            ):
                if born != now:
                    raise PolicyError(
                        f"population {population.name!r}: {name} is {now!r} in site.toml but was "
                        f"fixed as {born!r} when its ledger was born"
                    )
            for name, commitment in commitments.items():
                if private.get(name) != commitment:
                    raise TrustError(
                        f"{name} is not the key that population {population.name!r} was born with: "
                        "patients would change sides between training and evaluation",
                        hint="restore the key from the site's backup",
                    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
