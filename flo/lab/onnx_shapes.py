"""Rules for operators that give numbers another shape, join them, cut them, or take their mean.

As in ``flo.lab.onnx_layers``. Sides of 1 come and go without a layer.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from flo.errors import UsageError
from flo.lab.onnx_network import Network, Rule, Settings, Wire


def _reshaped(to: Network, settings: Settings, x: Wire, *rest: Any) -> Wire | None:
    wanted = [int(one) for one in np.ravel(rest[0])] if rest else []
    if settings.get("allowzero") and 0 in wanted:
        return None
    shape = [x.shape[i] if one == 0 else one for i, one in enumerate(wanted)]
    if -1 in shape:
        known = -math.prod(shape)
        shape[shape.index(-1)] = math.prod(x.shape) // known
    return Wire(x.place, x.held, tuple(shape))


def _flattened(to: Network, settings: Settings, x: Wire) -> Wire | None:
    axis = settings.get("axis", 1)
    return Wire(x.place, x.held, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _squeezed(to: Network, settings: Settings, x: Wire, axes: Any = None) -> Wire | None:
    gone = (
        {int(one) % len(x.shape) for one in np.ravel(axes)}
        if axes is not None
        else {place for place, size in enumerate(x.shape) if size == 1}
    )
    kept = tuple(size for place, size in enumerate(x.shape) if place not in gone)
    return Wire(x.place, x.held, kept)


def _unsqueezed(to: Network, settings: Settings, x: Wire, axes: Any) -> Wire | None:
    rank = len(x.shape) + np.size(axes)
    new, old = {int(one) % rank for one in np.ravel(axes)}, iter(x.shape)
    return Wire(x.place, x.held, tuple(1 if i in new else next(old) for i in range(rank)))


def _transposed(to: Network, settings: Settings, x: Wire) -> Wire | None:
    order = list(settings.get("perm", reversed(range(len(x.shape)))))
    shape = tuple(x.shape[one] for one in order)
    moved = [one for one in order if x.shape[one] > 1]
    if moved == sorted(moved):  # only sides of 1 change places
        return Wire(x.place, x.held, shape)
    if x.shape[0] == 1 and order[0] == 0:
        return to.one(x, "Permute", tuple(order[1:]), form=x.shape[1:], shape=shape)
    sides = tuple(one + 1 for one in order)
    return to.one(x, "Permute", sides, form=x.shape, shape=shape)


def _concat(to: Network, settings: Settings, *wires: Any) -> Wire | None:
    if not all(isinstance(one, Wire) for one in wires):
        return None
    axis = settings["axis"] % len(wires[0].shape)
    whole = sum(one.shape[axis] for one in wires)
    first = wires[0].shape
    strip = axis > 0 and all(one.shape[0] == 1 for one in wires)
    forms = [one.shape[1:] if strip else one.shape for one in wires]
    taken = [to.placed(one, form) for one, form in zip(wires, forms, strict=True)]
    place, held = to.add("Concat", (axis if strip else axis + 1,), taken, forms)
    return Wire(place, held, (*first[:axis], whole, *first[axis + 1 :]))


def _sliced(
    to: Network,
    settings: Settings,
    x: Wire,
    starts: Any,
    ends: Any,
    axes: Any = None,
    steps: Any = 1,
) -> Wire | None:
    axes = range(np.size(starts)) if axes is None else axes
    if set(np.ravel(steps).tolist()) != {1}:
        return None
    for start, end, axis in zip(*map(np.ravel, (starts, ends, axes)), strict=True):
        x = _cut(to, x, int(axis) % len(x.shape), int(start), int(end))
    return x


def _gathered(to: Network, settings: Settings, x: Wire, place: Any) -> Wire | None:
    if not isinstance(place, np.ndarray) or place.ndim:
        return None
    axis, at = settings.get("axis", 0) % len(x.shape), int(place)
    one = _cut(to, x, axis, at, at + 1 or x.shape[axis])
    return Wire(one.place, one.held, (*x.shape[:axis], *x.shape[axis + 1 :]))


def _split(to: Network, settings: Settings, x: Wire, sizes: Any = None) -> Wire | None:
    axis = settings.get("axis", 0) % len(x.shape)
    if sizes is None:
        count = settings["num_outputs"]
        sizes = [x.shape[axis] // count] * count
    ends = np.cumsum(np.ravel(sizes)).tolist()
    if ends[-1] != x.shape[axis]:
        return None
    begins = [0, *ends[:-1]]
    to.parts = [_cut(to, x, axis, a, b) for a, b in zip(begins, ends, strict=True)]
    return to.parts[0]


def _cut(to: Network, x: Wire, axis: int, start: int, end: int) -> Wire:
    size = x.shape[axis]
    start = max(start + size, 0) if start < 0 else min(start, size)
    end = end + size if end < 0 else min(end, size)
    if (start, end) == (0, size):
        return x
    strip = axis > 0 and x.shape[0] == 1
    return to.one(
        x,
        "Slice",
        (axis if strip else axis + 1, start + 1, end),
        form=x.shape[1:] if strip else x.shape,
        shape=(*x.shape[:axis], end - start, *x.shape[axis + 1 :]),
    )


def _mean(to: Network, settings: Settings, x: Wire, axes: Any = None) -> Wire | None:
    named = settings.get("axes") if axes is None else np.ravel(axes).tolist()
    gone = sorted({int(one) % len(x.shape) for one in named or range(1, len(x.shape))})
    if any(x.shape[one] == 1 for one in gone):
        raise UsageError(
            f"a mean over a side of 1 of {x.shape}: in a batch it would mix records",
            hint="take means within a record only",
        )
    whole, keep = x, settings.get("keepdims", 1)
    strip = x.shape[0] == 1
    for axis in reversed(gone):
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
        side, form = (axis, x.shape[1:]) if strip else (axis + 1, x.shape)
        if len(form) == 1:
            return None
        x = to.one(x, "Mean", (side,), form=form, shape=shape)
    kept = tuple(1 if i in gone else size for i, size in enumerate(whole.shape))
    return Wire(x.place, x.held, kept) if keep else x


def _passed(to: Network, settings: Settings, x: Wire, *rest: Any) -> Wire | None:
    return x


RULES: dict[str, Rule] = {
    "Reshape": _reshaped,
    "Flatten": _flattened,
    "Squeeze": _squeezed,
    "Unsqueeze": _unsqueezed,
    "Transpose": _transposed,
    "Concat": _concat,
    "Slice": _sliced,
    "Gather": _gathered,
    "Split": _split,
    "ReduceMean": _mean,
    "Identity": _passed,
}
