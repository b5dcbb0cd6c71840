"""Bad input at the command line: each case has a clear error with its exit code, and loses nothing."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import MakeDevice, MakeNetwork, code_of, wait_until

from shoal.core.units import KIB, MIB
from shoal.testing.processes import CommandFailed, Device
from shoal.testing.trees import find_difference, write_random_file


def fail(device: Device, *args: str, stdin: str | None = None) -> tuple[int, str]:
    """Run a command that must fail, as an object and in plain lines; return exit code and code."""
    with pytest.raises(CommandFailed) as failed:
        device.run(*args, stdin=stdin)
    plain = device.call(*args, stdin=stdin)
    assert plain.returncode == failed.value.code
    assert len(plain.stderr.strip().splitlines()) <= 4  # three lines; `get` may have said its state before
    assert "Traceback" not in plain.stderr
    return code_of(failed)


# --- tickets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ticket", ["garbage", "sht1", "sht1abc", "shl1aaaa", "sht9aaaa", "  ", "\x00\x07", "sht1" * 2000]
)
def test_garbage_tickets(device: MakeDevice, ticket: str) -> None:
    bert = device("bert")
    assert fail(bert, "join", "--detach", "--no-lan", stdin=ticket)[0] == 2
    assert not (bert.home / "network").exists()


def test_truncated_and_damaged_tickets(device: MakeDevice) -> None:
    anna, bert = device("anna"), device("bert")
    anna.up()
    ticket = anna.run("invite")["ticket"]
    other = "a" if ticket[40] != "a" else "b"
    for bad in (ticket[:-1], ticket[:60], ticket[1:], ticket + "a", ticket[:40] + other + ticket[41:]):
        assert fail(bert, "join", bad, "--detach", "--no-lan")[0] == 2
    assert bert.join(ticket)["peers"] == 1  # never burnt by wrong tries


def test_expired_ticket(device: MakeDevice) -> None:
    anna, bert = device("anna"), device("bert")
    anna.up()
    ticket = anna.run("invite", "--expires", "1s")["ticket"]
    time.sleep(1.5)
    code, word = fail(bert, "join", ticket, "--detach", "--no-lan")
    assert code == 4
    assert "expired" in word


def test_used_ticket(network: MakeNetwork, device: MakeDevice) -> None:
    anna, bert = device("anna"), device("bert")
    carl = device("carl")
    anna.up()
    ticket = anna.run("invite")["ticket"]
    bert.join(ticket)
    code, word = fail(carl, "join", ticket, "--detach", "--no-lan", "--listen", "127.0.0.1:0")
    assert (code, word) == (4, "invite_used")


def test_join_where_a_network_is(network: MakeNetwork) -> None:
    anna, bert = network("anna", "bert")
    ticket = anna.run("invite")["ticket"]
    assert fail(bert, "join", ticket, "--detach") == (4, "has_network")
    bert.stop()
    assert fail(bert, "join", ticket, "--detach") == (4, "has_network")
    assert bert.up()["network_id"] == anna.run("status")["network_id"]


def test_inviter_that_is_not_there(device: MakeDevice) -> None:
    anna, bert = device("anna"), device("bert")
    anna.up()
    ticket = anna.run("invite")["ticket"]
    anna.stop()
    assert fail(bert, "join", ticket, "--detach", "--no-lan") == (5, "inviter_unreachable")


# --- links ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["garbage", "shl1", "shl1abc", "sht1aaaa", "../../etc", "shl1" * 2000])
def test_garbage_links(device: MakeDevice, link: str) -> None:
    anna = device("anna")
    anna.up()
    assert fail(anna, "get", link, ".")[0] == 2
    assert anna.run("transfers") == {"transfers": []}


def test_foreign_and_damaged_links(device: MakeDevice, tmp_path: Path) -> None:
    anna, zoe = device("anna"), device("zoe")
    anna.up()
    zoe.up()
    (tmp_path / "file").write_text("x")
    link = zoe.run("share", "--wait", str(tmp_path / "file"))["link"]
    assert fail(anna, "get", link, str(tmp_path / "in")) == (4, "foreign_network")
    assert fail(anna, "get", link[:-3], str(tmp_path / "in"))[0] == 2
    assert not (tmp_path / "in").exists()


def test_a_link_nobody_can_serve_says_who_was_asked(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert, carl = network("anna", "bert", "carl")
    (tmp_path / "file").write_text("x")
    link = anna.run("share", "--wait", str(tmp_path / "file"))["link"]
    anna.stop()
    started = time.monotonic()
    with pytest.raises(CommandFailed) as failed:
        bert.run("get", link, str(tmp_path / "in"))
    assert code_of(failed)[0] == 5
    assert time.monotonic() - started < 30
    error = failed.value.error
    carl_id = carl.run("status")["peer_id"]
    said = error["message"] + error["cause"]
    assert "carl" in said or carl_id[:12] in said


def test_get_without_a_link(device: MakeDevice) -> None:
    anna = device("anna")
    anna.up()
    assert fail(anna, "get", stdin="") == (2, "no_link")


# --- destinations -----------------------------------------------------------------------------------------


def test_dest_that_cannot_be_written(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    (tmp_path / "file").write_text("x")
    link = anna.run("share", "--wait", str(tmp_path / "file"))["link"]
    assert fail(bert, "get", link, "/proc/shoal")[0] == 6
    (tmp_path / "blocked").write_text("a file, no folder")
    assert fail(bert, "get", link, str(tmp_path / "blocked")) == (6, "not_a_folder")
    assert fail(bert, "get", link, str(tmp_path / "blocked" / "below")) == (6, "not_a_folder")
    assert fail(bert, "follow", link, str(tmp_path / "blocked")) == (6, "not_a_folder")
    assert (tmp_path / "blocked").read_text() == "a file, no folder"
    code, _ = fail(bert, "get", link, str(bert.home))
    assert code in (2, 4)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB, where mounting is allowed."""
    target = tmp_path / "small"
    target.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(target)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount")
    yield target
    subprocess.run(["umount", "-l", str(target)], check=True)


def test_a_disk_too_small_is_said_before_anything_is_fetched(
    network: MakeNetwork, tmp_path: Path, small_disk: Path
) -> None:
    anna, bert = network("anna", "bert")
    write_random_file(tmp_path / "big", 48 * MIB)
    link = anna.run("share", "--wait", str(tmp_path / "big"))["link"]
    code, word = fail(bert, "get", link, str(small_disk))
    assert code == 6
    assert "full" in word or "space" in word
    used = sum(f.stat().st_blocks * 512 for f in small_disk.rglob("*") if f.is_file())
    assert used < MIB


def test_a_full_home_says_so_and_recovers(device: MakeDevice, small_disk: Path) -> None:
    anna = Device(small_disk / "anna", "anna")
    with anna:
        anna.up()
        filler = small_disk / "filler"
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(b"x" * 64 * KIB)
                    file.flush()
            except OSError:
                pass
        (small_disk / "anna" / "note").touch()
        failures = [anna.call("invite", "--json") for _ in range(8)]
        codes = {f.returncode for f in failures}
        assert codes <= {0, 6}
        assert all("Traceback" not in f.stderr for f in failures)
        assert anna.run("status")["name"] == "anna"
        filler.unlink()
        assert anna.run("invite")["ticket"]


# --- sharing ----------------------------------------------------------------------------------------------


def test_paths_that_cannot_be_shared(device: MakeDevice, tmp_path: Path) -> None:
    anna = device("anna")
    anna.up()
    assert fail(anna, "share", str(tmp_path / "nothing"))[0] in (2, 6)
    code, _ = fail(anna, "share", str(anna.home))
    assert code in (2, 4)
    assert fail(anna, "share", "")[0] in (2, 4, 6)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nothing")
    assert fail(anna, "share", str(tmp_path / "pipe")) == (2, "misuse")
    assert fail(anna, "share", str(tmp_path / "dangling")) == (2, "not_found")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / ".shoalignore").mkdir()
    assert fail(anna, "share", str(tmp_path / "private")) == (2, "bad_ignore")
    for path in ("/proc", "/proc/self/status"):
        if os.path.exists(path):
            assert fail(anna, "share", path) == (2, "no_files")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    assert fail(anna, "share", str(tmp_path / "one/file"), str(tmp_path / "two/file")) == (2, "same_name")
    assert anna.run("shares") == {"shares": []}


def test_a_file_that_changed_after_it_was_shared_is_never_served_wrongly(
    network: MakeNetwork, tmp_path: Path
) -> None:
    anna, bert = network("anna", "bert")
    tree = tmp_path / "tree"
    tree.mkdir()
    write_random_file(tree / "stays", 8 * MIB)
    write_random_file(tree / "changes", 8 * MIB)
    link = anna.run("share", "--wait", str(tree))["link"]
    write_random_file(tree / "changes", 16 * MIB)
    with pytest.raises(CommandFailed) as failed:
        bert.run("get", link, str(tmp_path / "in"))
    assert code_of(failed)[0] == 5
    assert not (tmp_path / "in" / "tree").exists()
    wait_until(lambda: anna.run("shares")["shares"][0]["state"] == "changed")
    anna.run("share", "--wait", str(tree))
    got = bert.run("get", link, str(tmp_path / "in"))
    assert find_difference(tree, tmp_path / "in" / "tree") is None
    assert got["bytes"] == 24 * MIB


def test_a_path_that_vanished_is_an_error_of_the_getter_not_the_end(
    network: MakeNetwork, tmp_path: Path
) -> None:
    anna, bert = network("anna", "bert")
    write_random_file(tmp_path / "big", 8 * MIB)
    link = anna.run("share", "--wait", str(tmp_path / "big"))["link"]
    (tmp_path / "big").unlink()
    with pytest.raises(CommandFailed) as failed:
        bert.run("get", link, str(tmp_path / "in"))
    assert code_of(failed)[0] == 5
    assert anna.run("status")["peers"] == 1


# --- homes ------------------------------------------------------------------------------------------------


def test_second_daemon_on_one_home(device: MakeDevice) -> None:
    anna = device("anna")
    pid = anna.up()["pid"]
    with pytest.raises(CommandFailed) as failed:
        anna.run("up", "--detach", "--no-lan")
    assert code_of(failed) == (4, "in_use")
    assert str(pid) in failed.value.error["cause"]
    assert fail(anna, "up", "--no-lan") == (4, "in_use")
    assert anna.run("status")["pid"] == pid


def test_home_open_to_others(device: MakeDevice) -> None:
    anna = device("anna")
    anna.up()
    anna.stop()
    anna.home.chmod(0o755)
    code, _ = fail(anna, "up", "--detach", "--no-lan")
    assert code == 3
    anna.home.chmod(0o700)
    key = next((anna.home / "keys").iterdir())
    key.chmod(0o644)
    with pytest.raises(CommandFailed) as failed:
        anna.run("up", "--detach", "--no-lan")
    assert code_of(failed)[0] == 3
    assert "chmod" in failed.value.error["next_step"]
    key.chmod(0o600)
    assert anna.up()["name"] == "anna"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a home away")
def test_home_of_another_user(device: MakeDevice) -> None:
    anna = device("anna")
    anna.up()
    anna.stop()
    os.chown(anna.home, 65534, 65534)
    assert fail(anna, "up", "--detach", "--no-lan")[0] == 3
    assert fail(anna, "status")[0] == 3
    os.chown(anna.home, 0, 0)
    anna.up()


def test_home_that_is_something_else(device: MakeDevice, tmp_path: Path) -> None:
    anna = device("anna")
    anna.home.mkdir()
    (anna.home / "precious").write_text("x")
    assert fail(anna, "up", "--detach", "--no-lan")[0] == 3
    shutil.rmtree(anna.home)
    anna.home.write_text("a file")
    assert fail(anna, "up", "--detach", "--no-lan")[0] == 3
    assert stat.S_ISREG(anna.home.stat().st_mode)


def test_commands_without_a_home(device: MakeDevice) -> None:
    anna = device("anna")
    for command in (["status"], ["peers"], ["down"], ["get", "shl1x"], ["share", "."]):
        assert fail(anna, *command)[0] == 3
    assert not anna.home.exists()


# --- settings ---------------------------------------------------------------------------------------------


def test_bad_settings_keep_a_node_from_starting(device: MakeDevice) -> None:
    anna = device("anna")
    anna.home.mkdir(mode=0o700)
    (anna.home / "config.toml").write_text('nmae = "x"\n')
    with pytest.raises(CommandFailed) as failed:
        anna.run("up", "--detach", "--no-lan")
    assert code_of(failed) == (3, "unknown_setting")
    assert "config.toml" in failed.value.error["cause"]
    (anna.home / "config.toml").unlink()
    assert fail(anna, "up", "--detach", "--listen", "nonsense")[0] == 3
    assert fail(anna, "up", "--detach", "--name", "x" * 65)[0] == 3


def test_port_that_is_taken(device: MakeDevice) -> None:
    anna, bert = device("anna"), device("bert")
    where = anna.up()["listen"][0]
    assert fail(bert, "up", "--detach", "--no-lan", "--listen", where)[0] == 3
