"""Attacks with a certificate or an invitation that opens something, but not this."""

from __future__ import annotations

from collections.abc import Iterable

from flo.clients.connection.enrolment import request as signing_request
from flo.keys.identity import Identity
from flo.server.api.site_api import SITE_CALLS
from flo.server.flower.superlink import PUBLIC_KEY_HEADER, PULL_PATH
from tests.attacks.attack import Attack, call, request
from tests.attacks.certificates import request_with_anothers_key, shows
from tests.attacks.stage import Stage, status
from tests.server.real_coordinator import key_header


def pulls_as(stage: Stage, *names: str) -> Iterable[str]:
    """North pulls messages under the node keys of these hospitals."""
    with stage.coordinator.connection(stage.coordinator.port, stage.client("north")) as connection:
        connection.putrequest("POST", PULL_PATH)
        for name in names:
            connection.putheader(PUBLIC_KEY_HEADER, key_header(stage.homes[name]))
        connection.putheader("content-length", "0")
        connection.endheaders()
        yield str(connection.getresponse().status)


def with_invitation(stage: Stage, invitation: bytes, *calls: str) -> Iterable[str]:
    """The bootstrap certificate of an invitation at these calls."""
    client = stage.coordinator.invited(invitation)
    for name in calls:
        yield status(stage.coordinator.outside("POST", f"/v1/{name}", client, body=b"{}"))


def enrols(stage: Stage, wish: str) -> Iterable[str]:
    """The guest's invitation, for whatever request it is shown with."""
    yield stage.call("enrol", {"request": wish}, stage.coordinator.invited(stage.invitation))


def renews(stage: Stage, wish: str) -> Iterable[str]:
    yield stage.call("renew", {"request": wish})


def identity(stage: Stage, name: str) -> Identity:
    return stage.homes[name].open_identity()


OTHER_CALLS = (
    *(f"site/{path.rpartition('/')[2]}" for path in SITE_CALLS if path != "/v1/site/enrol"),
    *("fleet/activate-node", "fleet/pull-messages", "fleet/push-object"),
)

ATTACKS = (
    Attack(
        "a certificate from a leaked authority's key, never enrolled",
        lambda s: [s.call("studies", {}, shows(s.coordinator, "north"))],
        "403",
        request("north: this is not the enrolled certificate"),
    ),
    Attack(
        "the certificate of a revoked hospital",
        lambda s: [s.call("studies", {}, s.client("gone"))],
        "403",
        request("gone: the certificate is revoked"),
    ),
    Attack(
        "the certificate of a hospital that left",
        lambda s: [s.call("studies", {}, s.left)],
        "403",
        request("left: the certificate is revoked"),
    ),
    Attack(
        "a certificate from before its renewal",
        lambda s: [s.call("studies", {}, s.before_renewal)],
        "403",
        request("renewed: this is not the enrolled certificate"),
    ),
    Attack(
        "another hospital's node key in a Fleet call",
        lambda s: pulls_as(s, "south"),
        "403",
        request("the node key is not the certificate's key"),
    ),
    Attack(
        "two node keys in a Fleet call, one of them the certificate's",
        lambda s: pulls_as(s, "north", "south"),
        "403",
        request("the node key is not the certificate's key"),
    ),
    Attack(
        "an invitation that was used",
        lambda s: with_invitation(s, s.used_invitation, "site/enrol"),
        "403",
        request("an invitation is valid for one enrolment only"),
    ),
    Attack(
        "an invitation at every other call",
        lambda s: with_invitation(s, s.invitation, *OTHER_CALLS),
        "403",
        request("an invitation is valid for one enrolment only"),
    ),
    Attack(
        "enrolment in another hospital's name",
        lambda s: enrols(s, signing_request("north", Identity.new())),
        "403",
        call("not in the name of guest"),
    ),
    Attack(
        "enrolment with a key that another hospital holds",
        lambda s: enrols(
            s, request_with_anothers_key("guest", Identity.new(), identity(s, "north"))
        ),
        "403",
        call("not signed by its own key"),
    ),
    Attack(
        "enrolment of one key for two hospitals",
        lambda s: enrols(s, signing_request("guest", identity(s, "north"))),
        "403",
        call("this key is enrolled for another hospital"),
    ),
    Attack(
        "a renewal with another key",
        lambda s: renews(s, signing_request("north", Identity.new())),
        "403",
        call("a renewal must contain the enrolled key"),
    ),
    Attack(
        "a renewal with another hospital's recorded request",
        lambda s: renews(s, signing_request("south", identity(s, "south"))),
        "403",
        call("not in the name of north"),
    ),
)
