"""Freeze a network's layers, and put low-rank adapters beside some of them.

An adapter of rank r is two linear layers beside a frozen one, of r numbers between them, whose
result is added to the frozen layer's (Hu et al. 2022, "LoRA"). The second starts at 0, so that
training starts from the network as it was. Both have a bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flo.errors import UsageError
from flo.study.layers import FREEZABLE, Layer


@dataclass(frozen=True)
class Asked:
    """What is trained of a network, by the names that torch has for its parts.

    ``train``: from FLO's public start. ``adapt``: frozen, with adapters of ``rank`` beside each
    linear layer. All else is frozen.
    """

    train: tuple[str, ...]
    adapt: tuple[str, ...] = ()
    rank: int = 4


@dataclass(frozen=True)
class Adapted:
    """The layers, and for each with numbers from the network its place there."""

    layers: list[Layer]
    before: dict[int, int]


def adapted(layers: Sequence[Layer], names: Mapping[int, str], asked: Asked) -> Adapted:
    """Return a network's layers as asked. ``names``: of the layers, by place.

    Raises UsageError: a name has no layer, or none of the kind; a layer cannot be frozen; or the
    rank is not below a layer's sides.
    """
    _refuse_unknown(layers, names, asked)
    found, where, before = list[Layer](), {-1: -1}, dict[int, int]()
    for place, layer in enumerate(layers):
        of, name = tuple(where[one] for one in layer.of or (place - 1,)), names[place]
        freeze = bool(layer.shapes) and not _is_in(name, asked.train)
        if freeze and layer.kind not in FREEZABLE:
            raise UsageError(
                f"the layer {name!r} ({layer.kind}) cannot be frozen", hint=f"--train {name}"
            )
        own = where[place] = len(found)
        found.append(replace(layer, of=of, frozen=freeze))
        if layer.shapes:
            before[own] = place
        if freeze and layer.kind == "Linear" and _is_in(name, asked.adapt):
            found += _adapter(layer, of, own, name, asked.rank)
            where[place] = len(found) - 1
    if not any(layer.frozen for layer in found):
        raise UsageError("nothing is left to be frozen", hint="leave out --numbers and --train")
    return Adapted(found, before)


def _adapter(layer: Layer, of: tuple[int, ...], own: int, name: str, rank: int) -> list[Layer]:
    """Return the layers beside a frozen one at the place ``own``; the last has their sum."""
    inputs, outputs = layer.sizes
    if not 1 <= rank < min(inputs, outputs):
        raise UsageError(
            f"--rank {rank} is not below the sides of the layer {name!r}, {inputs} and {outputs}"
        )
    return [
        Layer("Linear", (inputs, rank), of),
        Layer("Linear", (rank, outputs), (own + 1,), zero=True),
        Layer("Add", (), (own, own + 2)),
    ]


def _refuse_unknown(layers: Sequence[Layer], names: Mapping[int, str], asked: Asked) -> None:
    known = dict.fromkeys(names[place] for place, layer in enumerate(layers) if layer.shapes)
    for name in (*asked.train, *asked.adapt):
        if not any(_is_in(one, (name,)) for one in known):
            raise UsageError(
                f"no layer with parameters is called {name!r}",
                hint=f"the network has {', '.join(filter(None, known))}",
            )
    if twice := set(asked.train) & set(asked.adapt):
        raise UsageError(f"--train and --adapt both name {', '.join(sorted(twice))}")
    for name in asked.adapt:
        if not any(
            layer.kind == "Linear" and _is_in(names[place], (name,))
            for place, layer in enumerate(layers)
        ):
            raise UsageError(
                f"{name!r} has no Linear, beside which an adapter could be",
                hint=f"name another part, or train it: --train {name}",
            )


def _is_in(name: str, parts: Sequence[str]) -> bool:
    """Return whether a layer is one of these parts of the network, or within one."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)
