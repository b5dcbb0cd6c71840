"""Storage on a real disk that runs full: a clear fault, a node that goes on, nothing acknowledged lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.stores import open_stores

from shoal.core.errors import ConfigFault, StorageFault
from shoal.storage.home import Home
from shoal.testing.disk import can_mount, fill_disk, small_disk

pytestmark = pytest.mark.skipif(not can_mount(), reason="needs root to mount a small disk")

MIB = 1024 * 1024


async def test_a_full_disk_is_a_fault_and_its_end_is_the_end_of_it(tmp_path: Path) -> None:
    with small_disk(str(tmp_path), 4 * MIB):
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(2 * MIB))
        acknowledged: list[bytes] = []
        async with open_stores(tmp_path) as stores:
            fault: StorageFault | None = None
            for number in range(1000):
                object_id = number.to_bytes(32, "big")
                try:
                    await stores.objects.put(b"s" * 32, [(object_id, bytes(50_000))])
                except StorageFault as caught:
                    fault = caught
                    break
                acknowledged.append(object_id)
            assert fault is not None
            assert fault.code == "disk_full"
            assert "free space" in fault.next_step
            assert len(acknowledged) > 5
            assert await stores.objects.find_missing(acknowledged) == []  # still reading
            ballast.unlink()
            await stores.objects.put(b"s" * 32, [(b"after" + bytes(27), bytes(50_000))])
        async with open_stores(tmp_path) as stores:
            assert await stores.database.check() == []
            assert await stores.objects.find_missing(acknowledged) == []


async def test_a_full_disk_at_the_end_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    with small_disk(str(tmp_path), 2 * MIB):
        async with open_stores(tmp_path) as stores:
            await stores.values.put_value("a", b"1")
            fill_disk(str(tmp_path / "ballast"))
        # closing had no room for its checkpoint
        (tmp_path / "ballast").unlink()
        async with open_stores(tmp_path) as stores:
            assert await stores.values.find_value("a") == b"1"


async def test_a_new_home_on_a_full_disk_says_so(tmp_path: Path) -> None:
    with small_disk(str(tmp_path), MIB):
        fill_disk(str(tmp_path / "ballast"))
        with pytest.raises((StorageFault, ConfigFault)) as caught:
            Home.open(str(tmp_path / "home"), create=True)
        assert caught.value.code == "disk_full"
        (tmp_path / "ballast").unlink()
        Home.open(str(tmp_path / "home"), create=True).close()
