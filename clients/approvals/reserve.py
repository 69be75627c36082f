"""The checks of an approval, and the reservation of its budget on frozen data."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flo.clients.approvals import participation
from flo.clients.approvals.yearly_budget import YearlyLimit, yearly_limit
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.cosigning import confirm_head
from flo.clients.connection.offers import Offered
from flo.clients.home.policy import Policy, refuse_violations
from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.birth import refuse_changed_birth
from flo.clients.patients.later_patients import later_patients
from flo.clients.patients.opt_outs import opted_out
from flo.clients.records.approval import Approval, keep_snapshot
from flo.clients.records.members import Members
from flo.clients.records.snapshot import Snapshot
from flo.clients.sources.mapping import StudyMapping
from flo.errors import PolicyError, RefusedError, TrustError
from flo.privacy.ledger.generations import Participants
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.patients.split import is_held_out, keyed_hash
from flo.study.document import Study
from flo.study.encoders import Encoders

if TYPE_CHECKING:
    from flo.clients.quality.check import EncodedTable


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
            "the study has distributed noise without masks, which no site may approve",
            hint="ask the coordinator for the study in schema_version 2",
        )
    refuse_violations(policy, study, hospital, epsilon, unconfirmed)


@dataclass(frozen=True)
class FrozenData:
    """Data of an approval. ``hashes``: patient id -> keyed hash; ``held_out``: ids.

    ``present``: keyed hashes of the patients whom the next approval will look for in the source.
    ``numbers``: the file of the model's frozen layers, if it has some.
    """

    checked: EncodedTable
    hashes: dict[str, str]
    held_out: set[str]
    present: set[str]
    numbers: bytes = b""

    def of(self, participants: Participants) -> FrozenData:
        """Return the data of those who take part."""
        out = {
            name
            for name, hashed in self.hashes.items()
            if not participants.include(
                hashed, "evaluation" if name in self.held_out else "training"
            )
        }
        hashes = {name: hashed for name, hashed in self.hashes.items() if name not in out}
        checked, held_out = self.checked.without(out), self.held_out - out
        return FrozenData(checked, hashes, held_out, self.present, self.numbers)

    def snapshot(self) -> Snapshot:
        """Return the records on either side of the split."""
        return Snapshot.divided(self.checked, self.held_out, self.numbers)

    def members(self) -> Members:
        """Return the hashes on either side of the split."""
        return Members(
            training=tuple(h for name, h in self.hashes.items() if name not in self.held_out),
            held_out=tuple(h for name, h in self.hashes.items() if name in self.held_out),
        )


def freeze(
    home: SiteHome,
    api: CoordinatorApi,
    study: Study,
    population: Population,
    mapping: StudyMapping | None,
    encoders: Encoders,
) -> FrozenData:
    """Check the data against the study and encode them, without patients who opted out.

    Raises what the quality gate raises, and what confirming the ledger's head raises.
    """
    # These import pandas, which is slow; the agent also imports this module, but never reads a
    # hospital's file.
    from flo.clients.patients.expected import expected_here
    from flo.clients.patients.id_continuity import check_id_continuity, ids_here, present_after
    from flo.clients.quality.check import require_clean

    numbers = encoders.frozen(study)  # a file that is missing is missed before images are encoded
    with closing(home.open_ledger()) as ledger:
        confirm_head(api, ledger)  # before the data are read: the call depends on none of them
        refuse_changed_birth(home, ledger, population)
        before = ledger.present_before(population.name)
    here = ids_here(home, population)
    checked = require_clean(
        population.open(),
        study.data,
        population.id_column,
        mapping,
        population.ignore,
        also=check_id_continuity(home, population, here),
        expected=expected_here(home, study, population),
        encoders=encoders,
    )
    checked = checked.without(opted_out(home, set(checked.patient_ids)))
    patients_key, split_key = home.open_patients_key(), home.open_split_key()
    hashes = {name: keyed_hash(patients_key, name) for name in checked.patient_ids}
    held_out = {name for name in hashes if is_held_out(split_key, name, population.hold_out)}
    return FrozenData(checked, hashes, held_out, present_after(before, here), numbers)


def check_fits(
    home: SiteHome,
    study: Study,
    population: Population,
    policy: Policy,
    frozen: FrozenData,
    *,
    if_broken: bool,
) -> list[tuple[str, str]]:
    """Check that the budget has room, without reserving it. Raises what ``reserve`` raises.

    Returns how many patients would take part (``flo.clients.approvals.participation``); [] for an
    older study, in which all do.
    """
    with closing(home.open_ledger()) as ledger:
        participants = ledger.check_reservation(
            study,
            population.name,
            set(frozen.hashes.values()),
            if_broken=if_broken,
            limit=_yearly_limit(ledger, study, population, policy, if_broken=if_broken),
            later=later_patients(home, population),
        )
        if not study.by_generation:
            return []
        return participation.lines(ledger, study, participants, frozen.hashes.values())


def reserve(
    home: SiteHome,
    offered: Offered,
    population: Population,
    policy: Policy,
    frozen: FrozenData,
    *,
    if_broken: bool,
) -> Approval:
    """Reserve the study's cost and store the snapshot; return an approval without decision.

    The ledger decides in one transaction who takes part. If this is cut off after it, the next
    approval finds the reservation and freezes the same patients, but none who came since.
    """
    study = offered.study
    with closing(home.open_ledger()) as ledger:
        reservation = ledger.reserve(
            study,
            population.name,
            set(frozen.hashes.values()),
            if_broken=if_broken,
            limit=_yearly_limit(ledger, study, population, policy, if_broken=if_broken),
            later=later_patients(home, population),
            present=frozen.present,
        )
        taking_part = frozen.of(ledger.participants(reservation))
    digest = keep_snapshot(home, study.digest, taking_part.snapshot())
    taking_part.members().save(home, study.digest, digest)
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


def _yearly_limit(
    ledger: Ledger, study: Study, population: Population, policy: Policy, *, if_broken: bool
) -> YearlyLimit | None:
    life = ledger.balance().lives.get(population.name)
    if life is None:  # the ledger refuses it
        return None
    return yearly_limit(policy, study, life.delta, if_broken=if_broken, now=datetime.now(UTC))
