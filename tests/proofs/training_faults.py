"""Faults of a training: what was wrong with the patients, or with a hospital's sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from flo.clients.records.snapshot import Snapshot
from flo.privacy.patients.patients import Patients
from flo.study.columns import NumberColumn
from flo.study.document import Study
from flo.study.features import input_names
from flo.study.schema import Schema
from tests.proofs.publishing import Fault, largest


def _changed(
    snapshots: dict[str, Snapshot], names: list[str], change: Callable[[Patients], Patients]
) -> None:
    for name in names:
        one = snapshots[name]
        snapshots[name] = replace(one, training=change(one.training))


def _mirrored(snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator) -> None:
    _changed(snapshots, largest(snapshots), lambda p: replace(p, labels=1 - p.labels))


def _all_mirrored(
    snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator
) -> None:
    _changed(snapshots, list(snapshots), lambda p: replace(p, labels=1 - p.labels))


def _shuffled(snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator) -> None:
    _changed(
        snapshots, list(snapshots), lambda p: replace(p, labels=generator.permutation(p.labels))
    )


def _columns_exchanged(everywhere: bool) -> Fault:
    def fault(snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator) -> None:
        count = len(input_names(study.data))
        order = np.arange(count)
        one, other = generator.choice(count, 2, replace=False)
        order[[one, other]] = order[[other, one]]
        names = list(snapshots) if everywhere else largest(snapshots)
        _changed(snapshots, names, lambda p: replace(p, inputs=p.inputs[:, order]))

    return fault


def _all_columns_moved(
    snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator
) -> None:
    by = int(generator.integers(1, len(input_names(study.data))))
    _changed(snapshots, list(snapshots), lambda p: replace(p, inputs=np.roll(p.inputs, by, axis=1)))


def _unit(everywhere: bool) -> Fault:
    def fault(snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator) -> None:
        place = int(generator.choice(_number_inputs(study.data)))
        factor = float(generator.choice([0.01, 0.1, 0.5, 2.0, 10.0]))

        def change(p: Patients) -> Patients:
            inputs = p.inputs.copy()
            inputs[:, place] = np.clip((inputs[:, place] + 1) * factor - 1, -1, 1)
            return replace(p, inputs=inputs)

        _changed(snapshots, list(snapshots) if everywhere else largest(snapshots), change)

    return fault


def _number_inputs(schema: Schema) -> list[int]:
    names = input_names(schema)
    return [names.index(c.name) for c in schema.columns if isinstance(c, NumberColumn)]


def _all_missing(
    snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator
) -> None:
    names = input_names(study.data)
    places = [i for i, name in enumerate(names) if name.endswith("=missing")]
    if not places:
        return
    place = int(generator.choice(places))
    own = [i for i, n in enumerate(names) if n.startswith(names[place].split("=")[0])]

    def change(p: Patients) -> Patients:
        inputs = p.inputs.copy()
        inputs[:, own], inputs[:, place] = 0.0, 1.0
        return replace(p, inputs=inputs)

    _changed(snapshots, list(snapshots), change)


def _without_largest(
    snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator
) -> None:
    nobody = np.zeros(0, dtype=np.int64)

    def change(p: Patients) -> Patients:
        return Patients(p.inputs[:0], p.labels[:0], nobody, 0)

    _changed(snapshots, largest(snapshots), change)


def _constant_label(
    snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator
) -> None:
    value = float(generator.integers(2))
    _changed(snapshots, list(snapshots), lambda p: replace(p, labels=np.full_like(p.labels, value)))


TRAININGS: dict[str, tuple[Fault | None, float | None]] = {
    "labels mirrored at the largest hospital": (_mirrored, None),
    "labels mirrored everywhere": (_all_mirrored, None),
    "labels shuffled": (_shuffled, None),
    "labels constant": (_constant_label, None),
    "two inputs exchanged at the largest hospital": (_columns_exchanged(False), None),
    "two inputs exchanged everywhere": (_columns_exchanged(True), None),
    "all inputs moved": (_all_columns_moved, None),
    "another unit at the largest hospital": (_unit(False), None),
    "another unit everywhere": (_unit(True), None),
    "a column became missing": (_all_missing, None),
    "the largest hospital absent": (_without_largest, None),
    "poisoned sum, turned": (None, -1.0),
    "poisoned sum, turned three times": (None, -3.0),
    "poisoned sum, five times": (None, 5.0),
}
