"""The kinds of model that a study can name, as they stand in its ``[model]``.

Three come with FLO. A *model pack* is a network of one's own: a named list of layers, data and no
code, which a hospital installs by entering its digest in ``policy.toml``. What the layers are
stands in ``flo.study.networks``; what is built from them in ``flo.study.models``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from flo.documents import canonical
from flo.documents.document import Document, spelt
from flo.study.networks import Layer, LayerKind

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


_INSTEAD = {
    "BatchNorm": "it mixes patients, so that none of them can be clipped alone: use GroupNorm",
    "Dropout": "the noise of privacy does what it is for: leave it out",
    "ReLU": "use Tanh, whose bounded slope suits clipped gradients",
}


def _private(kind: Any) -> Any:
    """Raises ValueError for a usual layer that training under privacy has another one for."""
    for name, why in _INSTEAD.items():
        if isinstance(kind, str) and kind.startswith(name):
            raise ValueError(f"{name} is no layer here; {why}")
    return kind


class PackLayer(Document):
    """One layer of a pack. ``sizes``: as ``flo.study.networks.Layer`` has them."""

    kind: Annotated[LayerKind, BeforeValidator(_private)]
    sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=3)] = ()


class Pack(Document):
    """A model pack: from the encoded inputs to one log odds."""

    kind: Literal["pack"]
    name: PackName
    layers: Annotated[tuple[PackLayer, ...], Field(min_length=1, max_length=64)]

    @property
    def digest(self) -> str:
        """SHA-256 of name and layers: what a hospital's policy names to have it installed."""
        return canonical.digest(self.to_bytes())

    @property
    def network(self) -> list[Layer]:
        """Its layers, as ``flo.study.networks`` checks and counts them."""
        return [Layer(layer.kind, layer.sizes) for layer in self.layers]


Model = Annotated[Logistic | Mlp | Cnn | Pack, Field(discriminator="kind")]
