"""Joining by a typed code with real processes: by address, on a LAN by code alone, and across kill -9."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import MakeDevice
from tests.support.code_guests import iterate

from shoal.core.errors import Refused
from shoal.identity.code import TypedCode
from shoal.identity.keys import DeviceKeys
from shoal.membership.code_join import find_ticket
from shoal.testing.namespaces import Bridge, find_obstacle
from shoal.testing.processes import CommandFailed, Device, Json
from shoal.transport.address import Address
from shoal.transport.code_dial import CodeDialler

OBSTACLE = find_obstacle()


@pytest.fixture
def lan() -> Iterator[Bridge]:
    with Bridge(3) as bridge:
        yield bridge


def other_words(code: str) -> str:
    return code.partition("-")[0] + "-acorn-acorn-zigzag"


def test_join_by_code_and_address_as_people_type_it(device: MakeDevice) -> None:
    anna, bert = device("anna"), device("bert")
    listen = anna.up()["listen"][0]
    code = anna.run("invite")["code"]
    done = bert.call("join", code.replace("-", "-", 1)[:-1] + "%", "--at", listen, "--json")
    assert "no try was used up" in done.stdout
    with pytest.raises(CommandFailed) as caught:
        bert.join(other_words(code), "--at", listen)
    assert caught.value.error["code"] == "wrong_words"
    assert "4 tries are left" in caught.value.error["cause"]
    notice = anna.run("status")["notice"]
    assert "1 of 5 times" in notice
    assert "127.0.0.1" in notice
    number, *words = code.split("-")
    typed = " ".join([number, *(word[:4].upper() for word in words)])
    assert bert.join(typed, "--at", listen)["name"] == "bert"
    anna.wait_peers(1)
    assert [m["name"] for m in anna.run("members")["members"]] == ["anna", "bert"]
    assert "notice" not in anna.run("status")  # the invite is over


def test_misuse_is_said_before_anybody_is_asked(device: MakeDevice) -> None:
    bert = device("bert")
    for arguments, code in (
        (["7-olive-tango-mgnet", "--at", "127.0.0.1:1"], "bad_code"),
        (["7-olive-tango-magnet", "--at", "nonsense"], "usage"),
        (["7-olive-tango-magnet"], "lan_off"),  # devices of these tests have --no-lan
        (["7-olive-tango-magnet", "--at", "127.0.0.1:1"], "inviter_not_found"),
        (["sht1abc", "--at", "127.0.0.1:1"], "usage"),
    ):
        with pytest.raises(CommandFailed) as caught:
            bert.join(*arguments)
        error = caught.value.error
        assert code in (error["code"], "usage")
        assert error["next_step"]


def test_five_tries_whatever_is_killed(device: MakeDevice) -> None:
    """The inviter is killed as soon as it has answered, each time; the count stays."""
    anna = device("anna")
    anna.up()
    invite = anna.run("invite")
    code = TypedCode.parse(invite["code"])

    def try_words(words: TypedCode) -> str:
        async def run() -> None:
            keys = DeviceKeys.generate()
            address = Address.parse(anna.run("status")["listen"][0])
            await find_ticket(CodeDialler(keys, time.monotonic), words, keys.peer_id, iterate([address]))

        with pytest.raises(Refused) as caught:
            asyncio.run(run())
        return caught.value.code

    for expected in ("wrong_words",) * 4 + ("code_burnt",):
        assert try_words(TypedCode.parse(other_words(code.text))) == expected
        anna.kill()
        anna.up()
    assert try_words(code) == "code_burnt"
    assert "its ticket is not" in anna.run("status")["notice"]
    bert = device("bert")
    bert.join(invite["ticket"])


def test_invite_waits_on_a_terminal_and_shows_tries(device: MakeDevice) -> None:
    anna, bert = device("anna"), device("bert")
    listen = anna.up()["listen"][0]
    pid, terminal = pty.fork()
    if pid == 0:
        command = anna.command("invite")
        os.execve(command[0], command, anna.environment | {"TERM": "xterm"})
    seen = ""

    def read_until(pattern: str) -> re.Match[str]:
        nonlocal seen
        limit = time.monotonic() + 60.0
        while (match := re.search(pattern, seen)) is None:
            assert time.monotonic() < limit, seen
            if select.select([terminal], [], [], 0.5)[0]:
                try:
                    seen += os.read(terminal, 65536).decode()
                except OSError:  # the command has ended
                    assert re.search(pattern, seen), seen
        return match

    try:
        code = read_until(r"shoal join (\d+(?:-[a-z]+){3})\r")[1]
        read_until("Waiting until it is used")
        with pytest.raises(CommandFailed):
            bert.join(other_words(code), "--at", listen)
        read_until(r"Wrong words were tried from 127\.0\.0\.1; tries left: 4\.")
        bert.join(code, "--at", listen)
        read_until(r"bert has joined\.")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)
    lines = [line for line in seen.replace("\r", "").splitlines() if "shoal join sht1" not in line]
    assert max(map(len, lines)) <= 80


@pytest.mark.skipif(OBSTACLE is not None, reason=OBSTACLE or "")
@pytest.mark.parametrize(
    ("listen", "addresses"),
    [
        ("0.0.0.0:0", [f"10.77.0.{n}/24" for n in (1, 2, 3)]),
        ("[::]:0", [f"fd77::{n}/64" for n in (1, 2, 3)]),
    ],
    ids=["ipv4", "ipv6"],
)
def test_on_a_lan_the_code_is_enough(tmp_path: Path, lan: Bridge, listen: str, addresses: list[str]) -> None:
    """Nothing but the code goes from one device to the other; a device of another network is in the way."""
    for machine, address in enumerate(addresses):
        lan.set_address(machine, address)
    devices = [
        Device(tmp_path / name, name, listen=listen, lan=True, prefix=lan.prefix(machine))
        for machine, name in enumerate(("ada", "eve", "ben"))
    ]
    with devices[0] as ada, devices[1] as eve, devices[2] as ben:
        eve.up()
        ada.up()
        code = ada.run("invite")["code"]
        number = code.partition("-")[0]
        found: Json = ben.join(code)
        assert found["network_id"] == ada.run("status")["network_id"]
        ada.wait_peers(1)
        assert {m["name"] for m in ben.run("members")["members"]} == {"ada", "ben"}
        assert eve.run("status")["peers"] == 0
        log = (tmp_path / "eve" / "home" / "log" / "shoal.log").read_text()
        assert number not in re.findall(r"code (\d+)", log)
