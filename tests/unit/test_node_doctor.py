"""Doctor: what it finds, and that it says what to do."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from shoal.api.schema import Check
from shoal.core.units import MIB
from shoal.node import doctor
from shoal.storage.home import Home


@pytest.fixture
def home(tmp_path: Path) -> str:
    path = str(tmp_path / "home")
    Home.open(path, create=True).close()
    return path


def find(home: str, name: str) -> list[Check]:
    return [check for check in doctor.examine(home) if check.name == name]


def test_a_good_home(home: str) -> None:
    assert {c.state for c in doctor.examine(home)} <= {"ok", "warn"}
    assert find(home, "home")[0].state == "ok"


def test_no_home_yet(tmp_path: Path) -> None:
    (check,) = find(str(tmp_path / "nothing"), "home")
    assert (check.state, "shoal up" in check.next_step) == ("warn", True)


def test_open_permissions(home: str) -> None:
    os.chmod(home, 0o755)
    (check,) = find(home, "home")
    assert (check.state, check.next_step) == ("fail", f"chmod 700 {home}")


def test_an_open_key(home: str) -> None:
    keys = os.path.join(home, "keys")
    os.mkdir(keys, 0o700)
    key = Path(keys) / "device.key"
    key.touch(0o600)
    key.chmod(0o640)
    (check,) = find(home, "home")
    assert (check.state, check.next_step) == ("fail", f"chmod go= {key}")


def test_bad_settings(home: str) -> None:
    Path(home, "config.toml").write_text("lan = 7")
    (check,) = find(home, "settings")
    assert check.state == "fail"
    assert "lan" in check.detail


@pytest.mark.parametrize(("free", "state"), [(10 * MIB, "fail"), (500 * MIB, "warn"), (10**12, "ok")])
def test_disk(home: str, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    usage = shutil._ntuple_diskusage(10**12, 10**12 - free, free)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert find(home, "disk")[0].state == state


def test_a_clock_behind_the_home(home: str) -> None:
    ahead = os.stat(home).st_mtime + 2 * 86400
    os.utime(os.path.join(home, "version"), (ahead, ahead))
    (check,) = find(home, "clock")
    assert check.state == "fail"
    assert check.next_step


def test_a_port_that_was_named_and_is_taken(home: str) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1)
        port = sock.getsockname()[1]
        Path(home, "config.toml").write_text(f'listen = "127.0.0.1:{port}"')
        (check,) = find(home, "port")
    assert check.state == "fail"
    assert "in use" in check.detail
