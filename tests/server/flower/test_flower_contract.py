"""Flower's internals that FLO touches are what they were in 1.42; an upgrade fails here, loudly."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import version

import flwr.supercore.constant
import flwr.supernode.fleet_http_client
import pytest
from fastapi.routing import iter_route_contexts
from flwr.app import ConfigRecord, RecordDict
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.supercore.inflatable.inflatable_object import get_object_tree, iterate_object_tree
from flwr.supercore.object_store import in_memory_object_store
from flwr.superlink.routers.fleet.router import router as fleet_router

from flo.clients.connection.coordinator_api import client_context
from flo.clients.connection.coordinator_clock import CoordinatorClock
from flo.clients.connection.flower import FleetLink
from flo.keys.identity import Identity
from flo.keys.keystore import LocalKeyStore
from flo.server.flower.control import app_bundle
from flo.server.flower.superlink import (
    APP_HERE,
    FLEET_PATHS,
    PULL_PATH,
    SuperLink,
)
from flo.server.keys.authority import Authority


@pytest.fixture(scope="module")
def superlink() -> SuperLink:
    return SuperLink(superexec_secret=bytes(32))


def _paths(app: object) -> set[str]:
    return {str(route.path) for route in iter_route_contexts(app.routes)}  # type: ignore[attr-defined]


def test_the_version_is_the_one_these_tests_are_about() -> None:
    assert version("flwr").startswith("1.42.")


@pytest.mark.parametrize("name", ["message_ins_store", "message_ins_id_to_message_res_id"])
def test_the_state_keeps_messages_in_plain_mappings(superlink: SuperLink, name: str) -> None:
    assert getattr(superlink._state, name) == {}


@pytest.mark.parametrize(
    "name",
    ["get_node_id_by_public_key", "get_task_by_token", "get_run_status", "object_store"],
)
def test_the_state_answers_what_we_ask(superlink: SuperLink, name: str) -> None:
    assert hasattr(superlink._state, name)


def test_an_unknown_task_token_names_no_task(superlink: SuperLink) -> None:
    assert superlink._state.get_task_by_token("unknown") is None


def test_an_unknown_run_counts_as_over(superlink: SuperLink) -> None:
    assert superlink.has_finished(12345)


def test_an_object_says_whether_it_and_its_children_are_there(superlink: SuperLink) -> None:
    assert superlink._state.object_store.store == {}
    fields = in_memory_object_store.ObjectEntry.__dataclass_fields__
    assert {"content", "is_available", "child_object_ids"} <= set(fields)


def test_header_names_are_as_on_the_wire() -> None:
    constant = flwr.supercore.constant
    assert constant.FLEET_HTTP_PUBLIC_KEY_HEADER == "flwr-public-key"
    assert constant.SUPEREXEC_AUTH_SIGNATURE_HEADER == "flwr-superexec-signature"
    assert constant.TASK_TOKEN_HEADER == "flwr-task-token"


def test_every_fleet_path_on_our_list_is_a_route_of_flower() -> None:
    assert _paths(fleet_router) >= FLEET_PATHS
    assert PULL_PATH in FLEET_PATHS


def test_what_flower_adds_to_the_fleet_router_is_decided_on() -> None:
    left_out = {path.rpartition("/")[2] for path in _paths(fleet_router) - FLEET_PATHS}
    assert left_out == {"register-node", "unregister-node", "get-fab", "get-run"}


def test_each_part_holds_its_own_routes_only(superlink: SuperLink) -> None:
    assert _paths(superlink.fleet) == _paths(fleet_router)
    assert all(path.startswith("/v1/runtime/") for path in _paths(superlink.runtime))


def test_the_fleet_client_keeps_its_http_client_where_we_replace_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("ca")
    authority = Authority.create(folder, LocalKeyStore(folder / "keystore.key"))
    identity = Identity.new()
    pem, _ = authority.issue_client("north", "site", identity.key.public_key())
    context = client_context(authority.pem.decode(), pem, identity.pem())
    link = FleetLink("https://127.0.0.1:1", context, identity, CoordinatorClock())
    assert isinstance(link._client, flwr.supernode.fleet_http_client.FleetHttpClient)
    assert link._client._client.follow_redirects is False
    link._client.close()
    assert link._client._client.is_closed


def test_a_record_of_bytes_is_two_objects() -> None:
    content = RecordDict({"flo": ConfigRecord({"message": b"x" * 1000})})
    assert len(list(iterate_object_tree(get_object_tree(content)))) == 2


def test_protobuf_fields_are_where_we_fill_them() -> None:
    assert "node" in PullMessagesRequest.DESCRIPTOR.fields_by_name
    assert {"messages_list", "message_object_trees", "clientapp_runtime_list"} <= set(
        PushMessagesRequest.DESCRIPTOR.fields_by_name
    )


@pytest.fixture(scope="module")
def descriptor() -> Iterator[bytes]:
    with pytest.warns(DeprecationWarning, match="gitwildmatch"):  # flwr 1.42 on pathspec 1
        yield app_bundle(APP_HERE)


def test_the_app_descriptor_holds_names_and_no_code(descriptor: bytes) -> None:
    assert len(descriptor) < 2048
    with zipfile.ZipFile(io.BytesIO(descriptor)) as bundle:
        assert set(bundle.namelist()) == {"pyproject.toml", "LICENSE", ".info/CONTENT"}
        assert b'serverapp = "flo.server.runs.app:app"' in bundle.read("pyproject.toml")
