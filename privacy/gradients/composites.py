"""Layers made of linear layers that are known to treat each record alone: Opacus' DP layers.

While a composite runs, the input a and output y of each linear layer inside are kept, for each time
that it is used (once a step, in a recurrent layer). Its gradient for a record is Σ b aᵀ over these
times, b the loss's gradient at y: what Opacus' hooks accumulate, as one product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from flo.study.sequences import Recurrent, SelfAttention

# Kinds that Opacus' validator has an opinion on; asking it means importing Opacus.
_VALIDATED = (nn.modules.batchnorm._NormBase, nn.RNNBase, nn.MultiheadAttention)
# The dimension of a and y inside that counts records.
COMPOSITES: dict[type[nn.Module], int] = {Recurrent: 0, SelfAttention: 1}


def linear_layers(composite: nn.Module) -> list[nn.Module]:
    """Return the linear layers inside, in the order of their parameters.

    Raises:
        ValueError: the composite is not as ``flo.study.sequences`` makes it.
    """
    from opacus.layers import DPGRU, DPLSTM, DPRNN, DPMultiheadAttention
    from opacus.layers.dp_rnn import DPGRUCell, DPLSTMCell, DPRNNCell, RNNLinear

    core: Any = composite.core
    cells = {DPRNN: DPRNNCell, DPGRU: DPGRUCell, DPLSTM: DPLSTMCell}
    if type(composite) is Recurrent:
        right = type(core) in cells and (
            core.batch_first
            and core.num_layers == 1
            and not core.bidirectional
            and core.cells == [core.l0]  # what it runs is what is looked at
        )
        inner = {cells.get(type(core)), RNNLinear}
    else:
        right = type(core) is DPMultiheadAttention and (
            not core.batch_first and core.dropout.p == 0 and not core.add_bias_kv
        )
        inner = {nn.Linear, nn.Dropout}
    found = list(core.modules())[1:]
    if not right or not {type(module) for module in found} <= inner:
        raise ValueError(f"{type(composite).__name__} has settings without a rule")
    return [module for module in found if isinstance(module, nn.Linear)]


def opacus_findings(module: nn.Module) -> list[str]:
    """Return why Opacus' validator would not train these layers, each by name and kind.

    Some may still be trained one patient at a time; those that mix patients are refused there.
    """
    asked = {n: part for n, part in module.named_modules() if isinstance(part, _VALIDATED)}
    if not asked:
        return []
    from opacus.validators import ModuleValidator

    return [
        f"layer {name or 'itself'} ({type(part).__name__}): {str(finding).split('. ')[0]}"
        for name, part in asked.items()
        for finding in ModuleValidator.VALIDATORS.get(type(part), lambda _: [])(part)
    ]


@contextmanager
def kept(layers: list[nn.Module], keep: Callable[[nn.Module, Any, Any], Any]) -> Iterator[None]:
    """Call ``keep`` as a forward hook of these layers, until the end of the context."""
    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def joined(calls: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a and b of one layer, (n, …), from all the times that it was used."""
    if len(calls) == 1:
        return calls[0]
    a, b = zip(*calls, strict=True)
    return torch.stack(a, 1), torch.stack(b, 1)
