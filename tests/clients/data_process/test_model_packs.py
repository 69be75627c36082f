"""A model pack: data, pinned by its digest, and trained only where the site's policy names it."""

from __future__ import annotations

from typing import Any

import pytest

from flo.clients.home.policy import Policy, refuse_violations
from flo.errors import PolicyError
from flo.privacy.report.sheet import sections
from flo.study.document import Study
from flo.study.packs import Pack
from tests.builders import small_study
from tests.flo.studies import PACK

STUDY = small_study(model=PACK)


def digest_of(study: Study) -> str:
    assert isinstance(study.model, Pack)
    return study.model.digest


def test_a_pack_is_refused_until_the_policy_names_its_digest() -> None:
    with pytest.raises(
        PolicyError, match=f"two-layers, {digest_of(STUDY)}, which is not installed"
    ):
        refuse_violations(Policy(), STUDY, "north", 0.5, ())
    refuse_violations(Policy(packs=(digest_of(STUDY),)), STUDY, "north", 0.5, ())


@pytest.mark.parametrize(
    "change",
    [
        {"name": "two-layerz"},
        {"layers": [*PACK["layers"][:2], {"kind": "Tanh"}, PACK["layers"][2]]},
        {
            "layers": [
                {"kind": "Linear", "sizes": [5, 7]},
                {"kind": "Tanh"},
                {"kind": "Linear", "sizes": [7, 1]},
            ]
        },
    ],
    ids=["another name", "a layer more", "another width"],
)
def test_a_changed_pack_is_another_pack(change: dict[str, Any]) -> None:
    other = small_study(model=PACK | change)
    assert digest_of(other) != digest_of(STUDY)
    with pytest.raises(PolicyError, match="not installed"):
        refuse_violations(Policy(packs=(digest_of(STUDY),)), other, "north", 0.5, ())


def test_the_policy_on_other_models_says_nothing_about_packs() -> None:
    refuse_violations(Policy(models=(), packs=(digest_of(STUDY),)), STUDY, "north", 0.5, ())
    with pytest.raises(PolicyError, match="models ="):
        refuse_violations(
            Policy(models=(), packs=(digest_of(STUDY),)), small_study(), "north", 0.5, ()
        )


def test_the_sheet_shows_the_layers_and_the_digest() -> None:
    lines = dict(line for section in sections(STUDY) for line in section.lines)
    assert "Linear 5 × 8, Tanh, Linear 8 × 1" in lines["model pack"]
    assert digest_of(STUDY) in lines["model pack"]
    assert "57 numbers" in lines["training"]
