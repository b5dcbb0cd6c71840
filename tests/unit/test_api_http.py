"""HTTP API: operations, errors and limits over a real Unix socket, with a fake node behind it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.support.fake_node import FAULTS, LINK, FakeNode, serve

from shoal.api import schema as s
from shoal.api.client import Client
from shoal.api.http import BODY_LIMIT_BYTES, make_openapi
from shoal.api.operations import OPERATIONS, STREAMS_IN, STREAMS_OUT
from shoal.api.paths import BytesPath, decode_path, encode_path
from shoal.core.errors import ConfigFault, LocalMisuse, ShoalError, Unavailable


@pytest.fixture
def home(tmp_path: Path) -> str:
    return str(tmp_path / "home")


@pytest.fixture
def node(home: str) -> Iterator[FakeNode]:
    with serve(home) as fake:
        yield fake


def post(home: str, path: str, **arguments: object) -> httpx.Response:
    with httpx.Client(transport=httpx.HTTPTransport(uds=os.path.join(home, "api.sock"))) as http:
        return http.post(f"http://x{path}", **arguments)  # type: ignore[arg-type]


def test_openapi_describes_every_operation() -> None:
    document = make_openapi()
    operations = (*OPERATIONS, *STREAMS_IN, *STREAMS_OUT)
    assert set(document["paths"]) == {f"/v1/{op.name}" for op in operations}
    assert document["paths"]["/v1/get_stream"]["post"]["parameters"][0]["name"] == "arguments"
    assert document["components"]["schemas"]["GetResult"]["properties"]["refetched_bytes"]


def test_socket_is_only_for_its_owner(home: str, node: FakeNode) -> None:
    assert stat.S_IMODE(os.stat(os.path.join(home, "api.sock")).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(home).st_mode) == 0o700


@pytest.mark.parametrize(("fault", "_code"), FAULTS)
def test_an_error_keeps_its_class_and_parts(home: str, node: FakeNode, fault: ShoalError, _code: int) -> None:
    node.fail = fault
    with Client(home) as client, pytest.raises(type(fault)) as caught:
        client.status()
    assert (caught.value.message, caught.value.cause, caught.value.next_step) == (fault.message, "c", "n")
    assert type(caught.value) is type(fault)


def test_a_mistake_in_the_node_is_answered_and_the_node_lives(home: str, node: FakeNode) -> None:
    node.fail = KeyError("oops")
    reply = post(home, "/v1/status", content=b"{}")
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "internal"
    node.fail = None
    assert post(home, "/v1/status").json()["name"] == "anna"


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"x": 1}', b"\xff\xfe", b"[" * 100_000, b'{"role": "king"}', b'{"expires_s": "1"}'],
)
def test_bad_arguments_are_the_callers_fault(home: str, node: FakeNode, body: bytes) -> None:
    reply = post(home, "/v1/invite", content=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "bad_arguments"
    assert not node.asked


def test_a_body_over_the_limit_is_not_kept(home: str, node: FakeNode) -> None:
    assert post(home, "/v1/invite", content=b" " * (BODY_LIMIT_BYTES + 1)).status_code == 502
    assert not node.asked


def test_unknown_operations_are_named(home: str, node: FakeNode) -> None:
    assert post(home, "/v1/format_disk").json()["error"]["code"] == "unknown_operation"


def test_the_client_waits_for_a_transfer(home: str, node: FakeNode) -> None:
    seen: list[str] = []
    with Client(home) as client:
        result = client.get(LINK, "/tmp", on_progress=lambda t: seen.append(t.state))
    assert seen == ["fetching", "fetching", "fetching", "done"]
    assert result.providers
    assert result.files == 2


def test_the_client_says_that_no_node_runs(tmp_path: Path) -> None:
    with Client(str(tmp_path / "nowhere")) as client, pytest.raises(ConfigFault) as caught:
        client.status()
    assert caught.value.code == "no_home"
    with serve(str(tmp_path / "home")):
        pass
    with Client(str(tmp_path / "home")) as client, pytest.raises(Unavailable) as stopped:
        client.status()
    assert stopped.value.code == "not_running"


def test_paths_of_any_bytes_survive() -> None:
    for raw in (b"/a/b", "/ü".encode(), b"/\xff\xfe", b"/with space"):
        assert decode_path(encode_path(raw)) == raw
    assert encode_path(b"/\xff") == BytesPath("L/8=")


@pytest.mark.parametrize("value", ["relative", "", "/nul\0", BytesPath("!"), "/" + "x" * 5000])
def test_paths_that_cannot_be_used(value: str | BytesPath) -> None:
    with pytest.raises(LocalMisuse):
        decode_path(value)


def test_requests_are_strict_and_results_are_the_interface() -> None:
    fields = {
        s.Status: {"peer_id", "network_id", "name", "pid", "listen", "peers", "version"},
        s.Invite: {"ticket", "code", "expires_at", "relays"},
        s.Peer: {"peer_id", "name", "state", "addresses", "rtt_ms"},
        s.Member: {"peer_id", "name", "user", "role", "state", "since"},
        s.Share: {"link", "share_id", "complete", "content_id", "files", "bytes"},
        s.Transfer: {"id", "share_id", "state", "bytes", "done_bytes", "rate_bytes_s", "providers"},
        s.Removal: {"op", "confirmed", "pending"},
        s.GetResult: {
            "files",
            "bytes",
            "seconds",
            "fetched_bytes",
            "refetched_bytes",
            "reused_bytes",
            "resumed",
            "skipped",
            "providers",
            "manifest_bytes",
        },
    }
    optional = {"notice", "recovery_key", "unmatched", "relay", "reach", "path", "skipped_why"}
    optional |= {"overlay", "neighbour", "reason", "address", "incoming"}
    for kind, expected in fields.items():
        assert set(kind.__struct_fields__) - optional == expected
