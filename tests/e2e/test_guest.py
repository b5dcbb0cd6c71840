"""Newcomers whom no address of the inviter answers: two symmetric NATs and a relay, in network namespaces."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.e2e.test_reach import CONNECTED_S, path_is, reach_of, send_file, wait_for

from shoal.identity.ticket import Ticket
from shoal.testing.nats import Internet, Nat, find_obstacle
from shoal.testing.processes import CommandFailed, Device, Json

OBSTACLE = find_obstacle()
pytestmark = pytest.mark.skipif(OBSTACLE is not None, reason=OBSTACLE or "")


def fail_join(device: Device, ticket: str) -> Json:
    """Try to join; return the error."""
    with pytest.raises(CommandFailed) as caught:
        device.join(ticket)
    return caught.value.error


@pytest.mark.timeout(240)
def test_a_newcomer_behind_a_nat_joins_an_inviter_behind_another(tmp_path: Path) -> None:
    with ExitStack() as stack:
        net = stack.enter_context(Internet(1, [Nat.SYMMETRIC, Nat.SYMMETRIC]))

        def start(name: str, prefix: list[str], port: int) -> Device:
            listen = f"0.0.0.0:{port}"
            return stack.enter_context(Device(tmp_path / name, name, listen=listen, prefix=prefix))

        rel = start("rel", net.public(0), 7411)
        ada = start("ada", net.inner(0), 7412)
        ben = start("ben", net.inner(1), 7413)
        rel.up("--relay")
        ada.join(rel.run("invite", "--role", "admin")["ticket"])
        wait_for(lambda: ada.run("status"), lambda status: status["peers"] == 1, CONNECTED_S)
        wait_for(lambda: ada.run("invite"), lambda found: found["relays"] == ["rel"], CONNECTED_S)
        invite = ada.run("invite")
        (named,) = Ticket.parse(invite["ticket"]).relays
        assert named.addresses == (f"{net.public_ip(0)}:7411",)

        # by now ada knows that nobody outside can dial it, or soon
        wait_for(lambda: reach_of(ada), lambda reach: reach["state"] in ("nat", "symmetric"), 60.0)
        rel.stop()
        refused = fail_join(ben, invite["ticket"])
        assert refused["code"] == "inviter_unreachable"
        assert f"relay {net.public_ip(0)}:7411" in refused["cause"]
        assert "a relay of its network run" in refused["next_step"]
        alone = ada.run("invite")
        assert alone["relays"] == []
        assert "shoal up --relay" in alone["notice"]

        rel.up("--relay")  # it has kept nothing: ada leaves its passes again
        wait_for(lambda: ada.run("status"), lambda status: status["peers"] == 1, CONNECTED_S)
        wait_for(lambda: ada.run("invite"), lambda found: found["relays"] == ["rel"], CONNECTED_S)
        ben.join(invite["ticket"])
        for one, other in ((ben, "ada"), (ada, "ben")):
            wait_for(lambda o=one, p=other: o.run("ping", p), path_is("relay"), CONNECTED_S)  # type: ignore[misc]
            wait_for(lambda o=one: o.run("status"), lambda status: status["peers"] == 2, CONNECTED_S)  # type: ignore[misc]
        assert ben.run("ping", "rel")["path"] == "direct"
        # the join's own stream ends
        wait_for(lambda: rel.run("status")["relay"], lambda relay: relay["guests"] == 0, CONNECTED_S)
        send_file(tmp_path, ada, ben, 1_000_000)
