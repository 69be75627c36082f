"""Attacks of a coordinator, or of whoever poses as one, on a steward's commands."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.enrolment import accept_coordinator, connect, context_of, enrol, request
from flo.clients.connection.offers import offered_studies
from flo.clients.prediction import fetched_models
from flo.keys.identity import Identity
from flo.keys.rotation import KeyRotation, RotationStep
from flo.storage.files import write_private
from tests.attacks.attack import Attack, Logged, refusal, shown
from tests.attacks.lying_coordinator import LyingCoordinator, Said
from tests.attacks.on_the_agent import says
from tests.attacks.stage import AGENT, Stage
from tests.builders import small_study
from tests.flo.published_models import Made, made

# -- the connection ------------------------------------------------------------------------------


@contextlib.contextmanager
def another(stage: Stage) -> Iterator[LyingCoordinator]:
    """Somebody else, on another port, with an authority of their own."""
    found = LyingCoordinator(stage.folder / f"another-{len(stage.liar.visits)}", Identity.new())
    try:
        yield found
    finally:
        found.stop()


def of_another_authority(stage: Stage) -> Iterable[str]:
    """Where the coordinator should be, somebody shows a certificate of theirs."""
    with (
        another(stage) as stranger,
        CoordinatorApi(stranger.url, context_of(stage.site.home)) as api,
    ):
        yield from refusal(stage, lambda: api.call("heads", {"head": None}))
        assert stranger.visits == []


def redirects(status: int) -> Callable[[Stage], Iterable[str]]:
    """The coordinator sends the site to another host, whose certificate is even good."""

    def attack(stage: Stage) -> Iterable[str]:
        with another(stage) as elsewhere:
            said = Said(status=status, headers={"location": f"{elsewhere.url}/v1/site/keys"})
            with stage.liar.saying("keys", said), connect(stage.site.home) as api:
                yield from refusal(stage, lambda: api.call("keys", {}))
            assert elsewhere.visits == []

    return attack


# -- invitations and enrolment -------------------------------------------------------------------


def invited(**changes: Any) -> Callable[[Stage], Iterable[str]]:
    """A newcomer uses an invitation with these changes."""

    def attack(stage: Stage) -> Iterable[str]:
        path = stage.folder / "changed-invitation.json"
        write_private(path, stage.liar.invitation(**changes))
        yield from refusal(stage, lambda: enrol(stage.newcomer, path))

    return attack


def enrolled_by_another_key(stage: Stage) -> Iterable[str]:
    """The answer to an enrolment comes from a key that the invitation does not name."""
    wish = request("north", stage.newcomer.open_identity())
    other = Identity.new().public.hex()
    said = Said.document({"certificate": stage.liar.issue(wish), "coordinator": other})
    with stage.liar.saying("enrol", said):
        yield from invited()(stage)


def enrolled_with_a_certificate_for_another_key(stage: Stage) -> Iterable[str]:
    wish = request("north", Identity.new())
    made = {"certificate": stage.liar.issue(wish), "coordinator": stage.liar.identity.public.hex()}
    with stage.liar.saying("enrol", Said.document(made)):
        yield from invited()(stage)


# -- studies, models, keys -----------------------------------------------------------------------


def offers(study: Callable[[Stage], Any]) -> Callable[[Stage], Iterable[str]]:
    """The steward looks what is on offer."""

    def attack(stage: Stage) -> Iterable[str]:
        home, said = stage.site.home, Said.document([study(stage)])
        with stage.liar.saying("studies", said), connect(home) as api:
            yield from refusal(stage, lambda: offered_studies(api, home.read_coordinator()))

    return attack


def edited_study(stage: Stage) -> dict[str, str]:
    """Four times the ε, under the signature of before."""
    text = stage.site.study.canonical_bytes.decode()
    edited = text.replace('"epsilon":0.4', '"epsilon":1.6')
    assert edited != text
    return {"study": edited, "signature": stage.site.offer.signature, "status": "offered"}


def study_by_another_key(stage: Stage) -> dict[str, str]:
    study = small_study(name="mallory")
    signature = Identity.new().sign("study", study.canonical_bytes)
    return {
        "study": study.canonical_bytes.decode(),
        "signature": signature,
        "status": "offered",
    }


def publishes(model: Callable[[], Made]) -> Callable[[Stage], Iterable[str]]:
    """The steward fetches a model, and this one comes."""

    def attack(stage: Stage) -> Iterable[str]:
        found, out = model(), stage.folder / "models"
        listed = {
            "study": found.card.study,
            "signature": found.card.study_signature,
            "status": "done",
        }
        answer = {
            "card": json.dumps(found.document),
            "tensors": base64.b64encode(found.tensors).decode(),
        }
        with (
            stage.liar.saying("studies", Said.document([listed])),
            stage.liar.saying("models", Said.document(answer)),
            connect(stage.site.home) as api,
        ):
            yield from refusal(
                stage, lambda: fetched_models.fetch(stage.site.home, api, "tiny", out)
            )
        assert not out.exists()

    return attack


def named_as_a_path() -> Made:
    found = made()
    return Made(found.card.model_copy(update={"run": "../../../x"}), found.tensors)


def key_that_follows_nothing(stage: Stage) -> Iterable[str]:
    """A new key that the old one did not sign over to; its fingerprint was even compared."""
    home, mallory = stage.site.home, Identity.new()
    step = RotationStep.signed(mallory, mallory, "now").model_copy(
        update={"old": stage.liar.identity.public.hex()}
    )
    said = Said.document(KeyRotation(steps=(step,)).model_dump(mode="json"))
    with stage.liar.saying("keys", said), connect(home) as api:
        yield from refusal(stage, lambda: accept_coordinator(home, api, mallory.fingerprint))


_NO_OFFER = "a study on offer is not trusted"

ATTACKS = (
    Attack(
        "a coordinator of another authority",
        of_another_authority,
        "TrustError",
        shown(4, "shows a certificate from another authority"),
    ),
    *(
        Attack(
            f"a redirect to another host ({status})",
            redirects(status),
            "RefusedError",
            shown(3, f"the coordinator refused keys: status {status}"),
        )
        for status in (301, 307)
    ),
    Attack(
        "an invitation over HTTP without TLS",
        invited(url="http://127.0.0.1:9443"),
        "UsageError",
        shown(2, "url: String should match"),
    ),
    Attack(
        "an invitation that has expired, at the site",
        invited(expires=(datetime.now(UTC) - timedelta(days=1)).isoformat()),
        "UsageError",
        shown(2, "the invitation expired on"),
    ),
    Attack(
        "an invitation for another hospital",
        invited(hospital="south"),
        "UsageError",
        shown(2, "this invitation is for 'south'"),
    ),
    Attack(
        "an invitation whose hospital is a path",
        invited(hospital="../../north"),
        "UsageError",
        shown(2, "hospital: 1 to 63 lower-case letters"),
    ),
    Attack(
        "an enrolment answered in another coordinator's name",
        enrolled_by_another_key,
        "TrustError",
        shown(4, "is not the one that the invitation names"),
    ),
    Attack(
        "an enrolment answered with a certificate for another key",
        enrolled_with_a_certificate_for_another_key,
        "TrustError",
        shown(4, "a certificate for a key that is not this site's"),
    ),
    Attack(
        "a study edited under its old signature",
        offers(edited_study),
        "TrustError",
        shown(4, "the signature of this study does not match"),
    ),
    Attack(
        "a study signed by another key",
        offers(study_by_another_key),
        "TrustError",
        shown(4, "the signature of this study does not match"),
    ),
    Attack(
        "a pickle as a model's tensors",
        publishes(lambda: made(tensors=pickle.dumps({"weight": [0.0] * 6}))),
        "TrustError",
        shown(4, "the tensors' header has"),
    ),
    Attack(
        "a model signed by another coordinator",
        publishes(lambda: made(signer=Identity.new())),
        "TrustError",
        shown(4, "this model is signed by another coordinator"),
    ),
    Attack(
        "a model whose run is a path",
        publishes(named_as_a_path),
        "UsageError",
        shown(2, "run: 1 to 63 lower-case letters"),
    ),
    Attack(
        "a new key of the coordinator that its old one did not sign",
        key_that_follows_nothing,
        "TrustError",
        shown(4, "the signature of this succession does not match"),
    ),
    Attack(
        "a study edited under its old signature, shown to an agent",
        lambda s: says("studies", Said.document([edited_study(s)]), _NO_OFFER)(s),
        "refused",
        Logged(AGENT, _NO_OFFER),
    ),
)
