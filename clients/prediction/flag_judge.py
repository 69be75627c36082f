"""What thresholds by group do to patients who had no part in choosing them: this hospital's own.

Thresholds follow from the noisy sums of an evaluation, which also said that groups differ. So they
are judged on other patients, with their outcomes, before anybody signs them. The counts are not
private: they are for the hospital's own screen, and nothing is sent or stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flo.arrays import Mask
from flo.clients.prediction.flag_rule import FlagRule
from flo.clients.quality.check import encode_checked
from flo.clients.sources.error_wrapper import ErrorBoundary
from flo.clients.sources.files import open_file
from flo.errors import RefusedError
from flo.published.model_card import PublishedModel
from flo.study.features import cell_of

FEWEST = 30  # records with the outcome of a group whose sensitivity is compared


@dataclass(frozen=True)
class JudgedGroup:
    """Records of one group: with the outcome (``ill``), and how many of them were and are found.

    The same of those without it (``well``), and how many were and are alarmed.
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
    """``groups``: in the rule's order. ``right``: how many of all ``records`` were, and are,
    classified rightly."""

    groups: tuple[JudgedGroup, ...]
    records: int
    right: tuple[int, int]

    @property
    def gap(self) -> tuple[float, float]:
        """Largest difference in sensitivity before and after, of groups of ``FEWEST`` ill."""
        known = [one.sensitivity for one in self.groups if one.ill >= FEWEST]
        before, after = zip(*known, strict=True)
        return max(before) - min(before), max(after) - min(after)

    def refuse_unproven(self) -> None:
        """Raise RefusedError unless two groups can be compared, and are closer than before."""
        if sum(one.ill >= FEWEST for one in self.groups) < 2:
            raise RefusedError(
                f"cannot tell: fewer than two groups have {FEWEST} records with the outcome",
                hint="judge the thresholds on a file with more patients",
            )
        before, after = self.gap
        if after >= before:
            raise RefusedError(
                "among these patients the groups would be no closer than with one threshold",
                hint="keep one threshold for all: leave out --group",
            )


def judge(model: PublishedModel, rule: FlagRule, data: Path, id_column: str) -> Judged:
    """Compare a rule by groups with its common threshold on a file of patients with outcomes.

    Raises DataError: the file does not fit the study's columns, or lacks the outcome.
    """
    assert rule.column is not None
    rule.refuse_unfit(model)
    schema = model.study.data
    checked = encode_checked(ErrorBoundary(open_file(data, id_column)), schema, id_column)
    log_odds = model.log_odds(checked.inputs)
    common = rule.model_copy(update={"column": None, "groups": ()})
    was, now = (one.flagged(model, checked.inputs, log_odds) for one in (common, rule))
    ill, cell = checked.labels == 1, cell_of(schema, rule.column, checked.inputs, 0)
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
