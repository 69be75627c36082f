"""``flo model finish``: a published model refitted on this hospital's own patients.

    1. read this hospital's patients as an approval does: the study's columns, the same quality
       gate, without those who opted out, split by the site's key;
    2. refit the last layer on the training side (``flo.clients.prediction.refit``);
    3. compare published, finished and alone on the held-out side, which neither saw;
    4. seal the result into the site's folder.

Nothing is sent, and the ledger is not charged, because nothing leaves. The result is **not
private**. No release is ever computed from it: its scores depend on all of the hospital's patients,
so the sensitivity of such a release would be unbounded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from flo.arrays import Floats
from flo.clients.data_process.encoding import InstalledEncoders
from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.clients.mapping.mapping_file import mapping_of
from flo.clients.patients.birth import refuse_changed_birth
from flo.clients.patients.id_continuity import check_id_continuity, ids_here
from flo.clients.patients.opt_outs import OptOuts, opted_out
from flo.clients.prediction.linear_fit import margins_of
from flo.clients.prediction.local_fit import Said, fit_of, gain, known_risks
from flo.clients.prediction.margins import ranked, reached, stated
from flo.clients.prediction.refit import Refit, TooFewPatients, refit
from flo.clients.prediction.regression import unprotected
from flo.clients.prediction.scoring_ways import refuse_other_scores
from flo.clients.quality.check import EncodedTable, encode, inspect_table
from flo.clients.quality.findings import Unfit, refuse
from flo.clients.records import approval
from flo.clients.records.finished_model import (
    TOO_FEW,
    FinishedModel,
    finished_called,
    published_path,
)
from flo.clients.records.snapshot import Snapshot
from flo.errors import DataError, RefusedError, TrustError, UsageError
from flo.privacy.patients.patients import Patients
from flo.privacy.patients.split import keyed_hash
from flo.published.model_card import PublishedModel, paths_of
from flo.storage.files import make_private_directory, write_public
from flo.study.document import Study
from flo.study.models import last_features, last_layer
from flo.study.parameters import Vector
from flo.study.wording import measure_of

Progress = Callable[[str], None]


def finish(
    home: SiteHome, path: Path, model: PublishedModel, progress: Progress = lambda text: None
) -> FinishedModel:
    """Finish the model whose files are at ``path``; return what was stored.

    Raises:
        UsageError: this hospital has several populations, and none took part in the study.
        DataError: its data do not fit the study, or have too few patients of a class.
        RefusedError: one of the patients opted out meanwhile. TrustError: as
        ``refuse_other_scores``.
    """
    refuse_other_scores(model)
    progress("reading this hospital's patients")
    population = population_of(home, model.study)
    checked = _checked(home, population, model.study)
    snapshot = Snapshot.of(checked, home.open_split_key(), population.hold_out)
    if not snapshot.held_out.count:
        raise DataError(
            f"{TOO_FEW}: none of them is held out, so no model could be compared",
            hint="use the published model until there are more patients",
        )
    progress("refitting, with cross-validation")
    fitted = fit_at_home(model.study, model.weights, snapshot.training)
    study, outcome, held = model.study, model.study.data.outcome, snapshot.held_out
    known = known_risks(outcome, snapshot.training.labels)
    refitted = finished_margins(study, model.weights, fitted.finished, held.inputs)
    own = unprotected([snapshot.training], outcome)(held.inputs)
    published = Said.by_card(model, held.inputs)
    finished = Said.by_margins(outcome, refitted, known)
    alone = Said.by_margins(outcome, own, known)
    key = home.open_patients_key()
    made = FinishedModel(
        name=f"{study.name}-{model.card.run}",
        study=study.digest,
        model=model.card.file,
        population=population.name,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        weights=tuple(fitted.finished.tolist()),
        patients=tuple(sorted({keyed_hash(key, name) for name in checked.patient_ids})),
        measure=measure_of(study),
        values=study.data.quantity is not None,
        known=known if study.data.times else None,
        trained=snapshot.training.count,
        tested=held.count,
        slope=fitted.slope,
        kept=fitted.kept,
        penalty=None if np.isinf(fitted.penalty) else fitted.penalty,
        published=fit_of(study, published, held),
        finished=fit_of(study, finished, held),
        alone=fit_of(study, alone, held),
        gain=gain(study, finished, alone, held),
    )
    with home.decision_lock():
        if _any_opted_out(home, made.patients):
            raise RefusedError("a patient opted out while the model was finished; finish it again")
        _copy(path, published_path(home, made.name))
        made.save(home)
    return made


def _copy(path: Path, to: Path) -> None:
    """Copy a published model's card and tensors into the folder of finished models."""
    make_private_directory(to.parent)
    for copied, kept in zip(paths_of(path), paths_of(to), strict=True):
        write_public(kept, copied.read_bytes())


def fit_at_home(study: Study, weights: Vector, training: Patients) -> Refit:
    """Refit the last layer of a published model on a hospital's training patients.

    Raises:
        DataError: too few patients of a class. TrustError: the model's last layer has inputs that
        are not finite.
    """
    features = last_features(study, weights, training.inputs)
    if not np.isfinite(features).all():
        raise TrustError("the published model computes no finite numbers on this hospital's data")
    try:
        return refit(features, training, last_layer(study, weights), study.data.outcome)
    except TooFewPatients as error:
        raise DataError(
            f"{TOO_FEW}: of those that train, {error}",
            hint="use the published model; it needs no patients of this hospital",
        ) from error


def finished_margins(study: Study, weights: Vector, refitted: Floats, inputs: Floats) -> Floats:
    """Return the margins (n, m) of inputs (n, d), by ``weights`` with a ``refitted`` last layer."""
    return margins_of(study.data.outcome, refitted, last_features(study, weights, inputs))


def population_of(home: SiteHome, study: Study) -> Population:
    """Return the population that takes part in the study.

    The study of other hospitals has seen none of this site's patients, so its only population may
    be used.

    Raises:
        UsageError: this hospital takes part, and did not approve the study with this folder:
        another folder held out other patients. Or the site has several populations, and none took
        part.
    """
    if study.digest in approval.approved_digests(home):
        return home.read_config().population(approval.read(home, study.digest).population)
    if home.read_config().hospital in {hospital.id for hospital in study.hospitals}:
        raise UsageError(
            f"study {study.name} was not approved with this site's folder, so it is unknown which "
            "of its patients the model was trained on",
            hint="finish it with the folder that approved it, or with a restored backup of that",
        )
    populations = home.read_config().populations
    if len(populations) > 1:
        raise UsageError(
            f"study {study.name} was not approved here, and this site has {len(populations)} "
            "populations",
            hint="finish a model of a study that this hospital approved",
        )
    return populations[0]


@dataclass(frozen=True)
class FinishedAtHome:
    """A finished model with the published model that it refits, checked and ready to use."""

    model: PublishedModel
    finished: FinishedModel

    @property
    def study(self) -> Study:
        """The study of the published model."""
        return self.model.study

    @property
    def title(self) -> str:
        """Name and version, for people."""
        return f"{self.model.title}, finished here"

    def scores(self, inputs: Floats) -> Floats:
        """Return log odds (n, outputs) by which inputs (n, d) are ranked, as by a published one."""
        found = ranked(self.study.data.outcome, self._margins(inputs))
        return found if self.study.data.classes else found[:, None]

    def log_odds(self, inputs: Floats) -> Floats:
        """Return log odds (n,) by a model of one output."""
        found: Floats
        (found,) = self.scores(inputs).T
        return found

    def risks(self, inputs: Floats) -> Floats:
        """Return the risks (n, r) that ``margins.stated`` names, without a band; NaN at horizons to
        which this hospital's patients were not followed."""
        found = stated(self.study.data.outcome, self._margins(inputs))
        if self.finished.known is not None:
            found[:, self.finished.known :] = np.nan
        return found

    def values(self, inputs: Floats) -> tuple[Floats, Floats, Floats]:
        """Return of a quantity the expected values (n,), and those that one and nine of ten
        patients are below."""
        quantity = self.study.data.quantity
        assert quantity is not None
        (share,) = self.risks(inputs).T
        tails = quantity.tails(reached(self._margins(inputs)))
        return quantity.at_share(share), *tails

    def _margins(self, inputs: Floats) -> Floats:
        last = np.array(self.finished.weights)
        return finished_margins(self.study, self.model.weights, last, inputs)


def open_finished(home: SiteHome, wanted: str) -> FinishedAtHome:
    """Open a finished model by name, or by its study's name if that is unique.

    Raises:
        UsageError: there is none. TrustError: its published model was changed. RefusedError: a
        patient of it has opted out, for instance after a backup was restored.
    """
    finished = load_finished(home, finished_called(home, wanted))
    name = finished.name
    trusted = home.read_coordinator().fingerprints
    model = PublishedModel.open(published_path(home, name), *trusted)
    if model.card.file != finished.model:
        raise TrustError(f"{name} refits another published model than the one beside it")
    return FinishedAtHome(model, finished)


def load_finished(home: SiteHome, name: str) -> FinishedModel:
    """Read a finished model.

    Raises:
        UsageError: there is none. RefusedError: a patient of it has opted out.
    """
    finished = FinishedModel.load(home, name)
    if _any_opted_out(home, finished.patients):
        raise RefusedError(
            f"{name} was finished with records of a patient who has opted out",
            hint=f"flo model finish {published_path(home, name)}",
        )
    return finished


def _checked(home: SiteHome, population: Population, study: Study) -> EncodedTable:
    """Return this hospital's patients, encoded, without those who opted out.

    Those who opted out are found by their ids, so ids that changed are asked about.
    """
    mapping = mapping_of(home, study)
    source, ignore = population.open(), population.ignore
    with closing(home.open_ledger()) as ledger:
        refuse_changed_birth(home, ledger, population)
    try:
        looked = inspect_table(source, study.data, population.id_column, mapping, ignore)
        changed_ids = check_id_continuity(home, population, ids_here(home, population))
        refuse([*looked.found, *changed_ids], mapping.accepted if mapping else {})
    except Unfit as error:
        raise DataError(
            f"{error}\nno model was finished", hint=f"{error.hint}; then finish again"
        ) from None
    encoders = InstalledEncoders(home.encoders_path, home.read_policy().confinement)
    encoders.frozen(study)
    checked = encode(looked.table, study.data, encoders)
    return checked.without(opted_out(home, set(checked.patient_ids)))


def _any_opted_out(home: SiteHome, patients: Collection[str]) -> bool:
    return not set(OptOuts.load(home).patients).isdisjoint(patients)
