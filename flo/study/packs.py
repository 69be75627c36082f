"""The kinds of model that a study can name in its ``[model]``.

All but one are built into FLO. A *model pack* is a custom network: a named list of layers, data
and no code, which a hospital installs by entering its digest in ``policy.toml``.
``flo.study.layers`` defines the layers; ``flo.study.models`` builds models from them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from flo.documents import canonical
from flo.documents.document import Document, spelt
from flo.study.layers import FREEZABLE, Layer, LayerKind

PackName = Annotated[
    str, spelt("[a-z0-9][a-z0-9-]{0,62}", "1 to 63 lower-case letters, digits and hyphens")
]


class Logistic(Document):
    """Logistic regression: one weight for each input, and a bias."""

    kind: Literal["logistic"]


class Mlp(Document):
    """Fully connected, tanh between layers."""

    kind: Literal["mlp"]
    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=8)
    ]


class Cnn(Document):
    """Two convolutions with group normalisation, on the study's one image column."""

    kind: Literal["cnn"]


class Recurrent(Document):
    """A recurrent layer of ``hidden`` numbers over the steps of the study's sequence.

    Each step, with the columns that do not change, first becomes ``hidden`` numbers. The state
    after the latest step is scored.
    """

    kind: Literal["gru", "lstm"]
    hidden: Annotated[int, Field(ge=1, le=512)]


class Attention(Document):
    """Self-attention between the steps of the study's sequence, whose mean is scored.

    Each step, with the columns that do not change and its place in time, first becomes ``width``
    numbers. ``heads`` divides ``width``.
    """

    kind: Literal["attention"]
    width: Annotated[int, Field(ge=1, le=512)]
    heads: Annotated[int, Field(ge=1, le=64)] = 1

    @model_validator(mode="after")
    def _divided(self) -> Attention:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is no multiple of heads = {self.heads}")
        return self


MOST_LAYERS = 512  # of a pack
SEQUENCE_MODELS = ("gru", "lstm", "attention")

_INSTEAD = {
    "BatchNorm": "it mixes patients, so no gradient can be clipped alone: use GroupNorm",
    "Dropout": "the noise for privacy regularises already: leave it out",
}
RECORD = "record"  # what layers call the record itself


def _private(kind: Any) -> Any:
    """Return ``kind``. Raises ValueError for a common layer that private training must replace."""
    for name, why in _INSTEAD.items():
        if isinstance(kind, str) and kind.startswith(name):
            raise ValueError(f"{name} layers are not supported; {why}")
    return kind


LayerName = Annotated[
    str, spelt("[a-z][a-z0-9-]{0,62}", "1 to 63 lower-case letters, digits and hyphens")
]


class PackLayer(Document):
    """One layer of a pack. ``sizes``: as in ``flo.study.layers.Layer``.

    ``name``: what later layers call it. ``of``: names of the layers whose outputs it takes,
    ``record`` for the record itself; the layer before if empty. ``by``: of Scale and Shift.
    ``frozen``: its numbers are given (``Pack.numbers``) and not trained. ``zero``: it starts at 0,
    so that training begins as if it were not there.
    """

    kind: Annotated[LayerKind, BeforeValidator(_private)]
    sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=6)] = ()
    name: LayerName | None = None
    of: Annotated[tuple[LayerName, ...], Field(max_length=16)] = ()
    by: Annotated[float, Field(ge=-1e6, le=1e6)] | None = None
    frozen: bool = False
    zero: bool = False

    @model_validator(mode="after")
    def _with_numbers(self) -> PackLayer:
        if self.frozen and self.kind not in FREEZABLE:
            raise ValueError(f"frozen: of {', '.join(FREEZABLE)}; the layer is {self.kind}")
        if self.zero and (self.frozen or self.kind != "Linear"):
            raise ValueError("zero: of a Linear that is trained")
        if (self.by is not None) != (self.kind in ("Scale", "Shift")):
            raise ValueError(f"by: of Scale and Shift, and needed there; the layer is {self.kind}")
        return self

    @property
    def in_words(self) -> str:
        """The layer as a steward reads it, such as ``Add (of layer-1, layer-3)``."""
        by = "" if self.by is None else f"{self.by:g}"
        words = f"{self.kind} {' × '.join(map(str, self.sizes))}{by}".rstrip()
        if self.of:
            words += f" (of {', '.join(self.of)})"
        words += ", frozen" if self.frozen else ", from 0" if self.zero else ""
        return f"{self.name}: {words}" if self.name else words

    @model_serializer(mode="wrap")
    def _as_before_paths(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave later fields out unless they are set, so that earlier digests stay."""
        document: dict[str, Any] = dump(self)
        for field in ("name", "of", "by", "frozen", "zero"):
            if document.get(field) in (None, [], ()) or document.get(field) is False:
                document.pop(field, None)
        return document


class Pack(Document):
    """A model pack: from the encoded inputs to one log odds.

    ``numbers``: SHA-256 of the file with the numbers of frozen layers (``flo.study.frozen``).
    """

    kind: Literal["pack"]
    name: PackName
    layers: Annotated[tuple[PackLayer, ...], Field(min_length=1, max_length=MOST_LAYERS)]
    numbers: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _with_numbers(self) -> Pack:
        if (self.numbers is not None) != any(layer.frozen for layer in self.layers):
            raise ValueError("numbers: the file of frozen layers' numbers; needed by these only")
        return self

    @model_validator(mode="after")
    def _named(self) -> Pack:
        known = {RECORD}
        for place, layer in enumerate(self.layers):
            for name in layer.of:
                if name not in known:
                    raise ValueError(
                        f"layer {place}: {layer.kind} takes {name!r}, and no layer before it has "
                        "that name"
                    )
            if layer.name in known:
                raise ValueError(f"layer {place}: the name {layer.name!r} is used twice")
            known |= {layer.name} if layer.name else set()
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of all of it; a hospital's policy lists it to install the pack."""
        return canonical.digest(self.to_bytes())

    @property
    def in_words(self) -> str:
        """Its layers in one line, with the names of those whose outputs are taken elsewhere."""
        words = ", ".join(layer.in_words for layer in self.layers)
        return f"{words}; frozen numbers: file {self.numbers}" if self.numbers else words

    @property
    def network(self) -> list[Layer]:
        """Its layers as ``flo.study.layers`` defines them."""
        places = {layer.name: place for place, layer in enumerate(self.layers) if layer.name}
        places[RECORD] = -1
        return [
            Layer(
                *(layer.kind, layer.sizes, tuple(places[name] for name in layer.of)),
                *(layer.by or 0, layer.frozen, layer.zero),
            )
            for layer in self.layers
        ]

    @model_serializer(mode="wrap")
    def _as_before_frozen(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``numbers`` out unless they are set, so that earlier digests stay."""
        document: dict[str, Any] = dump(self)
        if document.get("numbers") is None:
            document.pop("numbers", None)
        return document


Model = Annotated[Logistic | Mlp | Cnn | Recurrent | Attention | Pack, Field(discriminator="kind")]
