"""The keystore on a real file system: what it refuses to use, and that it loses nothing half-way."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from shoal.core.errors import ConfigFault, Refused, StorageFault
from shoal.identity import keystore
from shoal.identity.keystore import SEAL_OVERHEAD_BYTES, Keystore


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


def test_keys_are_made_once_and_read_back(home: Path) -> None:
    assert not keystore.exists(home)
    made = Keystore.create(home)
    assert keystore.exists(home)
    read = Keystore.load(os.fsencode(home))
    assert read.device == made.device
    assert read.open_value(made.seal_value(b"secret")) == b"secret"
    with pytest.raises(Refused, match="No new device key"):
        Keystore.create(home)
    assert Keystore.load(home).device == made.device


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_modes_do_not_depend_on_the_umask(home: Path, umask: int) -> None:
    if umask == 0o777:
        (home / "keys").mkdir(mode=0o700)
    before = os.umask(umask)
    try:
        Keystore.create(home)
    finally:
        os.umask(before)
    assert (home / "keys").stat().st_mode & 0o777 == 0o700
    assert sorted(p.name for p in (home / "keys").iterdir()) == ["device.key", "store.key"]
    for file in (home / "keys").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "mode"), [("keys", 0o750), ("keys/device.key", 0o640), ("keys/store.key", 0o604)]
)
def test_open_permissions_are_refused_with_the_command_that_mends_them(
    home: Path, name: str, mode: int
) -> None:
    Keystore.create(home)
    good = (home / name).stat().st_mode & 0o777
    (home / name).chmod(mode)
    with pytest.raises(ConfigFault, match="open permissions") as caught:
        Keystore.load(home)
    assert caught.value.next_step == f"chmod {good:o} {home / name}"
    assert caught.value.code == "permissions"
    os.system(caught.value.next_step)
    Keystore.load(home)


def test_another_user_s_keys_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Keystore.create(home)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(ConfigFault, match="is not used") as caught:
        Keystore.load(home)
    assert caught.value.code == "owner"


@pytest.mark.parametrize("name", ["keys", "keys/device.key", "keys/store.key"])
def test_symbolic_links_are_not_followed(home: Path, tmp_path: Path, name: str) -> None:
    Keystore.create(home)
    (home / name).rename(tmp_path / "moved")
    (home / name).symlink_to(tmp_path / "moved")
    with pytest.raises(ConfigFault) as caught:
        Keystore.load(home)
    assert caught.value.code == "symbolic_link"


def test_a_dangling_link_is_not_written_through(home: Path, tmp_path: Path) -> None:
    (home / "keys").mkdir(mode=0o700)
    (home / "keys" / "device.key.new").symlink_to(tmp_path / "elsewhere")
    Keystore.create(home)
    assert not (tmp_path / "elsewhere").exists()
    (home / "keys" / "device.key").unlink()
    (home / "keys" / "device.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused):
        Keystore.create(home)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["keys", "keys/device.key"])
def test_a_name_that_is_something_else_is_refused(home: Path, name: str) -> None:
    Keystore.create(home)
    if name == "keys":
        for file in (home / "keys").iterdir():
            file.unlink()
        (home / "keys").rmdir()
        (home / "keys").write_bytes(b"")
    else:
        (home / name).unlink()
        os.mkfifo(home / name, 0o600)
    with pytest.raises((ConfigFault, StorageFault)):
        Keystore.load(home)


@pytest.mark.parametrize("name", ["", "device.key", "store.key"])
def test_missing_keys_say_so(home: Path, name: str) -> None:
    if name:
        Keystore.create(home)
        (home / "keys" / name).unlink()
    with pytest.raises(ConfigFault, match="no device key") as caught:
        Keystore.load(home)
    assert caught.value.code == "no_keys"


@pytest.mark.parametrize("name", ["device.key", "store.key"])
def test_every_flipped_bit_and_every_truncation_is_noticed(home: Path, name: str) -> None:
    Keystore.create(home)
    path = home / "keys" / name
    good = path.read_bytes()
    bad = [good[:end] for end in range(len(good))] + [good + b"\0"]
    bad += [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(len(good))]
    for data in bad:
        path.write_bytes(data)
        with pytest.raises(StorageFault, match="cannot be used"):
            Keystore.load(home)
    path.write_bytes(good)
    Keystore.load(home)


def test_a_newer_key_file_says_upgrade(home: Path) -> None:
    Keystore.create(home)
    path = home / "keys" / "device.key"
    body = bytearray(path.read_bytes()[:-16])
    body[8] = 2
    path.write_bytes(bytes(body) + keystore._checksum(bytes(body)))
    with pytest.raises(StorageFault) as caught:
        Keystore.load(home)
    assert "upgrade" in caught.value.next_step


@pytest.mark.parametrize("step", ["open", "fsync", "rename"])
def test_a_crash_or_full_disk_half_way_is_made_good_by_the_next_try(
    home: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real, calls = getattr(os, step), []

    def fail(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with contextlib.suppress(StorageFault):
            Keystore.create(home)
    if not keystore.exists(home):
        Keystore.create(home)
    Keystore.load(home)


def test_sealed_values_are_random_and_bound_to_the_home(home: Path, tmp_path: Path) -> None:
    store = Keystore.create(home)
    (tmp_path / "other").mkdir(mode=0o700)
    other = Keystore.create(tmp_path / "other")
    sealed = store.seal_value(b"value")
    assert len(sealed) == len(b"value") + SEAL_OVERHEAD_BYTES
    assert store.seal_value(b"value") != sealed
    assert store.open_value(store.seal_value(b"")) == b""
    bad = [sealed[:end] for end in range(len(sealed))]
    bad += [sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in range(len(sealed))]
    for data in bad:
        with pytest.raises(StorageFault, match="cannot be read"):
            store.open_value(data)
    with pytest.raises(StorageFault):
        other.open_value(sealed)
