"""What thresholds of each group would do to this hospital's own patients, who chose none of them.

Thresholds follow from the noisy sums of an evaluation, which also said that groups differ. So they
are judged on other patients, with their outcomes, before anybody signs them. The counts are not
private: they are for the hospital's own screen, and nothing is sent or stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flo.arrays import Mask
from flo.clients.data_process.encoding import InstalledEncoders
from flo.clients.home.site_config import open_table
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import opted_out
from flo.clients.prediction.flag_rule import FlagRule
from flo.clients.quality.check import EncodedTable, encode_checked
from flo.clients.records import approval
from flo.clients.records.members import Members
from flo.errors import DataError, RefusedError, UsageError
from flo.privacy.patients.split import keyed_hash
from flo.privacy.releases.group_rates import MOST_COST
from flo.published.model_card import PublishedModel
from flo.study.document import Study
from flo.study.features import cell_of

_ONE = "keep one threshold for all: leave out --group"
FEWEST = 30  # patients with the outcome of a group that may get a threshold of its own


@dataclass(frozen=True)
class JudgedGroup:
    """Patients of one group: with the outcome (``ill``), and how many of them are found by the
    common threshold and by their own; without it (``well``), and how many are falsely flagged.
    """

    group: str
    ill: int
    found: tuple[int, int]
    well: int
    alarmed: tuple[int, int]

    @property
    def sensitivity(self) -> tuple[float, float]:
        """Share of the ill who were and are found."""
        return self.found[0] / max(self.ill, 1), self.found[1] / max(self.ill, 1)


@dataclass(frozen=True)
class Judged:
    """``groups``: in the rule's order. ``right``: how many of all ``patients`` are classified
    rightly by the common threshold, and by those of the groups."""

    groups: tuple[JudgedGroup, ...]
    patients: int
    right: tuple[int, int]

    @property
    def gap(self) -> tuple[float, float]:
        """Largest difference in sensitivity before and after, of groups of ``FEWEST`` ill."""
        known = [one.sensitivity for one in self.groups if one.ill >= FEWEST]
        before, after = zip(*known, strict=True)
        return max(before) - min(before), max(after) - min(after)

    @property
    def few(self) -> list[str]:
        """Groups with fewer than ``FEWEST`` ill: too few to judge a threshold of their own."""
        return [one.group for one in self.groups if one.ill < FEWEST]

    def refuse_unproven(self) -> None:
        """Raise RefusedError unless the thresholds help.

        Two groups can be compared and are closer, of one of them more of the ill are found, and at
        most ``MOST_COST`` of all patients are classified rightly no more.
        """
        if len(self.groups) - len(self.few) < 2:
            raise RefusedError(
                f"cannot tell: fewer than two groups have {FEWEST} patients with the outcome",
                hint="judge the thresholds on a file with more patients",
            )
        before, after = self.gap
        if after >= before:
            raise RefusedError(
                "among these patients the groups would be no closer than with one threshold",
                hint=_ONE,
            )
        if all(one.found[1] <= one.found[0] for one in self.groups):
            raise RefusedError("among these patients no group's ill would be found more", hint=_ONE)
        if self.right[0] - self.right[1] > MOST_COST * self.patients:
            raise RefusedError(
                f"more than {100 * MOST_COST:g} in a hundred of these patients would be classified "
                "rightly no more",
                hint=_ONE,
            )


def file_to_judge(home: SiteHome, study: Study, data: Path, id_column: str) -> EncodedTable:
    """Read patients with outcomes, without those who opted out.

    Raises:
        UsageError: the study's patients have many records. DataError: the file does not fit the
        study's columns or lacks the outcome, or a patient of it took part in the study here.
    """
    if study.data.records_per_patient != "one":
        raise UsageError(
            "thresholds by group are judged only in studies of one record a patient, and this one "
            f"has records_per_patient = {study.data.records_per_patient!r}",
            hint=_ONE,
        )
    if not data.is_file():
        raise DataError(f"--data {data} does not exist", hint="a file of patients with outcomes")
    source = open_table(data, id_column)
    named = {offer.field for offer in source.fields()}
    used = {id_column, study.data.label, *(column.name for column in study.data.columns)}
    encoders = InstalledEncoders(home.encoders_path, home.read_policy().confinement)
    encoders.frozen(study)
    checked = encode_checked(source, study.data, id_column, sorted(named - used), encoders)
    checked = checked.without(opted_out(home, checked.patient_ids))
    part = _took_part(home, study)
    key = home.open_patients_key()
    if any(keyed_hash(key, name) in part for name in checked.patient_ids):
        raise DataError(
            f"{data.name}: some of these patients took part in the study",
            hint="judge the thresholds on patients who came later",
        )
    return checked


def _took_part(home: SiteHome, study: Study) -> set[str]:
    """Return keyed hashes of the patients of this hospital from whom the model has learnt."""
    found = set[str]()
    for digest in (study.digest, *(one.study for one in study.lineage)):
        if approval.approval_path(home, digest).exists():
            kept = approval.read(home, digest)
            if members := Members.load(home, digest, kept.snapshot):
                found |= {*members.training, *members.held_out}
    return found


def judge(model: PublishedModel, rule: FlagRule, checked: EncodedTable) -> Judged:
    """Compare a rule by groups with its common threshold on these patients."""
    assert rule.column is not None
    rule.refuse_unfit(model)
    schema, inputs = model.study.data, checked.inputs
    log_odds = model.log_odds(inputs)
    common = rule.with_common([one.group for one in rule.groups])
    was, now = (one.flagged(model, inputs, log_odds) for one in (common, rule))
    ill, cell = checked.labels == 1, cell_of(schema, rule.column, inputs, 0)
    groups = []
    for place, one in enumerate(rule.groups):
        here = cell == place
        groups.append(
            JudgedGroup(
                one.group,
                _count(here & ill),
                (_count(here & ill & was), _count(here & ill & now)),
                _count(here & ~ill),
                (_count(here & ~ill & was), _count(here & ~ill & now)),
            )
        )
    return Judged(tuple(groups), len(ill), (_count(was == ill), _count(now == ill)))


def _count(chosen: Mask) -> int:
    return int(np.count_nonzero(chosen))
