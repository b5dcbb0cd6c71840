"""The command line over real nodes: making a network, joining, who is there, removal, stopping."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest
from tests.e2e.conftest import MakeDevice, MakeNetwork, code_of, wait_until

from shoal.testing.processes import CommandFailed, Device

ID = r"shp1[a-z2-7]{58}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def test_first_up_makes_a_network_and_prints_the_recovery_key_once(device: MakeDevice) -> None:
    anna = device("anna")
    status = anna.up()
    assert re.fullmatch(r"shr1[a-z2-7]+", status.pop("recovery_key"))
    assert set(status) == {"peer_id", "network_id", "name", "pid", "listen", "peers", "version", "overlay"}
    assert re.fullmatch(ID, status["peer_id"])
    assert (status["name"], status["peers"]) == ("anna", 0)
    assert re.fullmatch(r"127\.0\.0\.1:\d+", status["listen"][0])
    assert not status["listen"][0].endswith(":0")
    assert anna.run("status") == status
    anna.stop()
    again = anna.up()
    assert "recovery_key" not in again
    assert (again["peer_id"], again["network_id"]) == (status["peer_id"], status["network_id"])


def test_home_is_private(device: MakeDevice) -> None:
    anna = device("anna")
    anna.up()
    for folder, names, files in os.walk(anna.home):
        for name in [*names, *files]:
            assert not stat.S_IMODE(os.lstat(os.path.join(folder, name)).st_mode) & 0o077, name


def test_join_makes_a_member_with_a_session(device: MakeDevice) -> None:
    anna, bert = device("anna"), device("bert")
    owner = anna.up()
    invite = anna.run("invite")
    assert set(invite) == {"ticket", "code", "expires_at", "relays"}
    assert re.fullmatch(r"[1-9][0-9]{0,2}(-[a-z]{4,8}){3}", invite["code"])
    assert re.fullmatch(TIME, invite["expires_at"])
    joined = bert.join(invite["ticket"])
    assert joined["peers"] == 1
    assert joined["network_id"] == owner["network_id"]
    anna.wait_peers(1)
    peers = anna.run("peers")["peers"]
    assert [set(p) for p in peers] == [
        {"peer_id", "name", "state", "addresses", "rtt_ms", "neighbour", "address", "incoming"}
    ]
    assert (peers[0]["peer_id"], peers[0]["name"], peers[0]["state"]) == (
        joined["peer_id"],
        "bert",
        "connected",
    )
    assert joined["listen"][0] in peers[0]["addresses"]
    left, right = anna.run("members"), bert.run("members")
    assert left == right
    assert [(m["name"], m["role"], m["state"]) for m in left["members"]] == [
        ("anna", "owner", "active"),
        ("bert", "member", "active"),
    ]
    assert set(left["members"][0]) == {"peer_id", "name", "user", "role", "state", "since"}
    assert re.fullmatch(TIME, left["members"][0]["since"])


def test_ticket_from_standard_input(device: MakeDevice) -> None:
    anna, bert = device("anna"), device("bert")
    anna.up()
    ticket = anna.run("invite")["ticket"]
    status = bert.run("join", "--detach", "--no-lan", "--listen", "127.0.0.1:0", stdin=f"  {ticket}\n")
    bert.pid = status["pid"]
    assert status["peers"] == 1


def test_roles(device: MakeDevice) -> None:
    anna, adam, ned = device("anna"), device("adam"), device("ned")
    anna.up()
    adam.join(anna.run("invite", "--role", "admin", "--user", "Adam")["ticket"])
    ned.join(adam.run("invite", "--role", "storage")["ticket"])
    anna.wait_peers(2)
    rows = {m["name"]: (m["role"], m["user"]) for m in anna.run("members")["members"]}
    assert rows["adam"] == ("admin", "Adam")
    assert rows["ned"][0] == "storage"
    with pytest.raises(CommandFailed) as failed:
        ned.run("invite")
    assert code_of(failed)[0] == 4
    with pytest.raises(CommandFailed) as failed:
        adam.run("remove", "anna")
    assert code_of(failed)[0] == 4


def test_ping_says_how_a_peer_is_reached(network: MakeNetwork) -> None:
    anna, bert = network("anna", "bert")
    found = anna.run("ping", "bert")
    assert set(found) == {"peer_id", "name", "state", "path", "address", "rtt_ms", "why"}
    assert (found["path"], found["state"]) == ("direct", "connected")
    assert found["rtt_ms"] > 0
    assert anna.run("ping", found["peer_id"])["name"] == "bert"
    assert anna.run("ping", found["peer_id"][:12])["name"] == "bert"
    bert.stop()
    wait_until(lambda: anna.run("ping", "bert")["rtt_ms"] is None)
    gone = anna.run("ping", "bert")
    assert gone["path"] is None
    assert gone["why"]
    with pytest.raises(CommandFailed) as failed:
        anna.run("ping", "nobody")
    assert code_of(failed) == (2, "unknown_peer")


def test_remove_ends_a_device_everywhere(network: MakeNetwork) -> None:
    anna, bert, carl = network("anna", "bert", "carl")
    carl_id, bert_id = carl.run("status")["peer_id"], bert.run("status")["peer_id"]
    started = time.monotonic()
    done = anna.run("remove", "carl")
    assert time.monotonic() - started < 8
    assert re.fullmatch(r"sho1[a-z2-7]+", done["op"])
    assert (done["confirmed"], done["pending"]) == ([bert_id], [])
    for each in (anna, bert):
        rows = {m["peer_id"]: m["state"] for m in each.run("members")["members"]}
        assert rows[carl_id] == "removed"
        assert carl_id not in [p["peer_id"] for p in each.run("peers")["peers"]]
    wait_until(lambda: carl.run("status")["peers"] == 0)
    assert "removed" in carl.run("status")["notice"]
    carl.stop()
    assert carl.up()["peers"] == 0
    with pytest.raises(CommandFailed) as failed:
        carl.run("invite")
    assert code_of(failed)[0] == 4
    assert failed.value.error["cause"] == "this device is no member of the network any more"
    assert "(removed)" not in carl.call("peers").stdout  # nobody there was


def test_who_may_not_invite_is_told_what_it_is(network: MakeNetwork) -> None:
    _, bert = network("anna", "bert")
    with pytest.raises(CommandFailed) as failed:
        bert.run("invite")
    assert failed.value.error["message"] == "No invite was made"
    assert failed.value.error["cause"] == "this device is member and may not admit anybody as member"


def test_a_node_in_a_terminal_says_that_its_device_was_removed(network: MakeNetwork) -> None:
    anna, bert = network("anna", "bert")
    bert.stop()
    node = subprocess.Popen(
        bert.command("up", "--listen", "127.0.0.1:0", "--no-lan"),
        env=bert.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: bert.call("status").returncode == 0)
        bert.wait_peers(1)
        anna.run("remove", "bert")
        assert node.stderr is not None
        assert any("this device was removed" in line for line in node.stderr)  # ends as soon as it is said
    finally:
        node.terminate()
        node.communicate(timeout=30)


def test_leave(network: MakeNetwork) -> None:
    anna, bert = network("anna", "bert")
    assert re.fullmatch(r"sho1[a-z2-7]+", bert.run("leave")["op"])
    wait_until(lambda: anna.run("members")["members"][-1]["state"] == "removed")
    assert "left" in bert.run("status")["notice"]


def test_restarts_on_other_ports_find_each_other(network: MakeNetwork) -> None:
    anna, bert = network("anna", "bert")
    before = anna.run("status")["listen"]
    anna.kill()
    anna.listen = f"127.0.0.1:{find_free_port()}"
    assert anna.up()["listen"] != before
    anna.wait_peers(1)
    time.sleep(2)  # bert's peer book is on its disk
    bert.stop()
    bert.listen = f"127.0.0.1:{find_free_port()}"
    bert.up()
    anna.wait_peers(1)
    bert.wait_peers(1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("detached", [False, True])
def test_signals_stop_a_node_within_five_seconds(
    device: MakeDevice, number: signal.Signals, detached: bool
) -> None:
    anna = device("anna")
    if detached:
        anna.up()
        assert anna.pid is not None
        os.kill(anna.pid, number)
        limit = time.monotonic() + 5
        while Path(f"/proc/{anna.pid}/cmdline").exists() and read_state(anna.pid) != "Z":
            assert time.monotonic() < limit
            time.sleep(0.02)
        anna.pid = None
    else:
        process = anna.popen("up", "--no-lan", "--listen", "127.0.0.1:0")
        assert process.stdout is not None
        status = json.loads(process.stdout.readline())
        assert status["pid"] == process.pid
        process.send_signal(number)
        out, err = process.communicate(timeout=5)
        assert process.returncode == 0
        assert (out, err) == ("", "")
    with pytest.raises(CommandFailed) as failed:
        anna.run("status")
    assert code_of(failed) == (5, "not_running")


def test_down_returns_when_the_process_is_gone(device: MakeDevice) -> None:
    anna = device("anna")
    pid = anna.up()["pid"]
    started = time.monotonic()
    assert anna.run("down") == {"pid": pid}
    assert time.monotonic() - started < 5
    assert read_state(pid) in ("", "Z")
    anna.pid = None
    with pytest.raises(CommandFailed) as failed:
        anna.run("down")
    assert code_of(failed) == (5, "not_running")


def test_secrets_are_not_in_process_lists(device: MakeDevice) -> None:
    anna, bert = device("anna"), device("bert")
    anna.up()
    ticket = anna.run("invite")["ticket"]
    bert.join(ticket)
    for pid in (anna.pid, bert.pid):
        for name in ("cmdline", "environ"):
            assert ticket[:40].encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    limits = Path(f"/proc/{bert.pid}/limits").read_text()
    assert re.search(r"Max core file size\s+0\s+0", limits)


def test_plain_output_is_lines_without_colour(network: MakeNetwork) -> None:
    anna, _ = network("anna", "bert")
    for command in (["status"], ["peers"], ["members"], ["ping", "bert"], ["doctor"], ["config", "show"]):
        done = anna.call(*command)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
        assert "\x1b" not in done.stdout
    assert re.fullmatch(r"sht1[a-z2-7]+\n", anna.call("invite").stdout)


def test_doctor_reports_with_and_without_a_node(device: MakeDevice) -> None:
    anna = device("anna")
    assert {"home", "disk", "clock", "port"} <= {c["name"] for c in anna.run("doctor")["checks"]}
    anna.up()
    report = anna.run("doctor")
    assert {"home", "disk", "clock", "sessions", "listening"} <= {c["name"] for c in report["checks"]}
    assert {c["state"] for c in report["checks"]} <= {"ok", "warn", "fail"}


def test_config_says_where_values_come_from(device: MakeDevice) -> None:
    anna = device("anna")
    anna.up()
    own = anna.run("status")["name"]
    done = anna.call("config", "set", "name", "attic")
    assert done.stdout == "name = attic\n"
    assert "when a device joins" in done.stderr
    assert anna.run("config", "set", "log_level", "debug")["counts"] == "next_start"
    assert "from the next start: shoal down" in anna.call("config", "set", "mesh_members", "20").stderr
    shown = anna.run("config", "show")
    assert shown["running"]
    rows = {r["key"]: (r["value"], r["origin"], r.get("next")) for r in shown["settings"]}
    assert rows["log_level"] == ("info", "default", "debug")
    assert rows["mesh_members"] == (30, "default", 20)
    assert rows["lan"][:2] == (False, "flag")
    assert rows["listen"][1] == "flag"
    assert "log_level is debug in the file: from the next start" in anna.call("config", "show").stdout
    anna.stop()
    shown = anna.run("config", "show")
    assert not shown["running"]
    rows = {r["key"]: (r["value"], r["origin"], r.get("next")) for r in shown["settings"]}
    assert rows["log_level"] == ("debug", "file", None)
    assert rows["lan"] == (True, "default", None)
    assert own != "attic"
    assert anna.up()["name"] == own


def test_status_is_fast(device: MakeDevice) -> None:
    anna = device("anna")
    anna.up()
    measured = [measure(anna) for _ in range(5)]
    assert min(cpu_s for cpu_s, _ in measured) < 1.0  # 0.3 s on an idle 2-core machine; tests share theirs
    assert min(seconds - cpu_s for cpu_s, seconds in measured) < 3.0  # it waits for nothing but its turn


def find_free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def measure(anna: Device) -> tuple[float, float]:
    """Return the CPU seconds and the seconds that one `status` takes."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    anna.run("status")
    took_s, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, took_s


def read_state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
