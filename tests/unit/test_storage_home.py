"""Home: who may use it, one daemon at a time, where its socket lies."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.core.errors import ConfigFault, LocalMisuse, Refused
from shoal.storage import home as home_module
from shoal.storage.home import (
    SOCKET_PATH_BYTES,
    Home,
    find_daemon,
    find_network,
    find_socket_path,
    has_home,
    has_network,
    write_private_file,
)
from shoal.testing.disk import can_mount, small_disk


def _mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_new_home_is_closed_to_others(tmp_path: Path) -> None:
    where = tmp_path / "deep" / "home"
    old = os.umask(0)
    try:
        with Home.open(str(where), create=True) as home:
            assert _mode(home.path) == 0o700
            assert _mode(home.log_dir) == 0o700
            assert _mode(os.path.join(home.path, "lock")) == 0o600
            assert _mode(os.path.join(home.path, "version")) == 0o600
    finally:
        os.umask(old)
    assert has_home(str(where))


def test_it_opens_again_and_as_bytes(tmp_path: Path) -> None:
    where = os.fsencode(tmp_path) + b"/h\xff"  # a name that is not UTF-8
    Home.open(where, create=True).close()
    with Home.open(where) as home:
        assert os.fsencode(home.path) == os.path.realpath(where)


def test_no_home_says_how_to_get_one(tmp_path: Path) -> None:
    for where in (tmp_path / "absent", tmp_path):
        os.chmod(tmp_path, 0o700)
        with pytest.raises(ConfigFault) as caught:
            Home.open(str(where))
        assert caught.value.code == "no_home"
        assert "shoal join" in caught.value.next_step
    assert not (tmp_path / "absent").exists()


def test_the_second_daemon_is_refused_with_the_pid_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home_module, "LOCK_PATIENCE_S", 0.0)
    where = str(tmp_path / "home")
    with Home.open(where, create=True):
        with pytest.raises(Refused) as caught:
            Home.open(where)
        assert caught.value.code == "in_use"
        assert f"process {os.getpid()}" in caught.value.cause
        assert find_daemon(where) == os.getpid()
        Home.open(where, lock=False).close()  # a look without the lock is allowed
    assert find_daemon(where) is None
    Home.open(where).close()


def test_the_lock_ends_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_module, "LOCK_PATIENCE_S", 0.0)
    where = str(tmp_path / "home")
    program = (
        "import sys; from shoal.storage.home import Home; "
        f"home = Home.open({where!r}, create=True); print('locked', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(Refused, match=f"process {child.pid}"):
            Home.open(where)
        child.kill()
    Home.open(where).close()


def test_a_home_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    where = str(tmp_path / "home")
    Home.open(where, create=True).close()
    os.chmod(where, 0o750)
    for create in (False, True):
        with pytest.raises(ConfigFault) as caught:
            Home.open(where, create=create)
        assert caught.value.code == "home_permissions"
        assert caught.value.next_step == f"chmod 700 {where}"


def test_an_empty_directory_is_closed_and_used(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)
    Home.open(str(tmp_path), create=True).close()
    assert _mode(str(tmp_path)) == 0o700


def test_a_directory_with_other_files_is_not_taken(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o700)
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigFault) as caught:
        Home.open(str(tmp_path), create=True)
    assert caught.value.code == "home_foreign"
    assert "thesis.tex" in caught.value.cause
    assert sorted(os.listdir(tmp_path)) == ["thesis.tex"]


def test_a_config_file_may_be_there_first(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o700)
    (tmp_path / "config.toml").write_text("")
    Home.open(str(tmp_path), create=True).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_a_home_of_another_user_is_refused(tmp_path: Path) -> None:
    where = str(tmp_path / "home")
    Home.open(where, create=True).close()
    os.chown(where, 65534, -1)
    with pytest.raises(ConfigFault) as caught:
        Home.open(where)
    assert caught.value.code == "home_owner"
    assert "run shoal as that user" in caught.value.next_step


@pytest.mark.skipif(not can_mount(), reason="needs root to mount a read-only disk")
def test_a_home_that_is_not_writable_is_refused(tmp_path: Path) -> None:
    with small_disk(str(tmp_path), 1 << 20, "ro"):
        with pytest.raises(ConfigFault) as caught:
            Home.open(str(tmp_path / "home"), create=True)
    assert caught.value.code == "home_not_writable"
    assert "Read-only" in caught.value.cause


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file" / "home", tmp_path / "file"):
        with pytest.raises(ConfigFault):
            Home.open(str(where), create=True)


def test_a_newer_home_asks_for_an_upgrade(tmp_path: Path) -> None:
    where = str(tmp_path / "home")
    Home.open(where, create=True).close()
    (tmp_path / "home" / "version").write_text("shoal home 2\n")
    with pytest.raises(ConfigFault) as caught:
        Home.open(where)
    assert caught.value.code == "newer_home"
    assert caught.value.next_step == "upgrade shoal"


def test_a_damaged_version_file_is_named(tmp_path: Path) -> None:
    where = str(tmp_path / "home")
    Home.open(where, create=True).close()
    (tmp_path / "home" / "version").write_bytes(b"\xff\x00garbage")
    with pytest.raises(ConfigFault) as caught:
        Home.open(where)
    assert caught.value.code == "home_version"


def test_the_lock_is_not_followed_through_a_link(tmp_path: Path) -> None:
    where = tmp_path / "home"
    Home.open(str(where), create=True).close()
    (where / "lock").unlink()
    (tmp_path / "victim").write_text("keep me")
    (where / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigFault):
        Home.open(str(where))
    assert (tmp_path / "victim").read_text() == "keep me"


def test_the_network_is_marked(tmp_path: Path) -> None:
    where = str(tmp_path / "home")
    with Home.open(where, create=True) as home:
        assert not has_network(where)
        home.mark_network(b"n" * 32)
    assert find_network(where) == b"n" * 32


def test_a_short_home_has_its_socket_inside(tmp_path: Path) -> None:
    with Home.open(str(tmp_path / "h"), create=True) as home:
        if len(home.path) + len("/api.sock") > SOCKET_PATH_BYTES:
            pytest.skip("the temporary directory of this machine has a long path")
        path = os.path.join(home.path, "api.sock")
        assert home.socket_path == path == find_socket_path(home.path)
        (tmp_path / "h" / "api.sock").write_text("left by a killed daemon")
        assert home.prepare_socket() == path
        assert not os.path.exists(path)


def test_a_long_home_has_its_socket_in_a_private_directory(tmp_path: Path) -> None:
    where = str(tmp_path / ("long" * 30))
    with Home.open(where, create=True) as home:
        path = home.prepare_socket()
        assert len(os.fsencode(path)) <= SOCKET_PATH_BYTES
        assert path == find_socket_path(where)
        assert path != find_socket_path(where + "2")
        directory = os.path.dirname(path)
        assert _mode(directory) == 0o700
        assert os.stat(directory).st_uid == os.geteuid()


def test_finding_the_socket_makes_nothing(tmp_path: Path) -> None:
    find_socket_path(str(tmp_path / ("absent" * 30)))
    assert os.listdir(tmp_path) == []


def test_a_socket_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "trap"
    trap.mkdir(mode=0o777)
    os.chmod(trap, 0o777)
    monkeypatch.setattr(home_module, "find_socket_path", lambda _: str(trap / "x.sock"))
    with Home.open(str(tmp_path / "home"), create=True) as home:
        with pytest.raises(ConfigFault) as caught:
            home.prepare_socket()
        assert caught.value.code == "socket_directory"
        trap.rmdir()
        trap.symlink_to(tmp_path)
        with pytest.raises(ConfigFault):
            home.prepare_socket()


def test_only_the_lock_gives_the_socket(tmp_path: Path) -> None:
    where = str(tmp_path / "home")
    Home.open(where, create=True).close()
    home = Home.open(where, lock=False)
    with pytest.raises(LocalMisuse):
        home.prepare_socket()
    home.lock()
    home.prepare_socket()
    home.close()
    home.close()


def test_a_private_file_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    write_private_file(path, b"one")
    write_private_file(path, b"two")
    assert Path(path).read_bytes() == b"two"
    assert _mode(path) == 0o600
    assert os.listdir(tmp_path) == ["f"]


def test_home_comes_without_sqlite() -> None:
    """Every command imports it; SQLite would cost each some milliseconds."""
    program = "import sys, shoal.storage.home; print('sqlite3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
