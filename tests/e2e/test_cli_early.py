"""A get that fetches while the sharer still hashes: real processes, a slow disk, and kill -9 of either."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.e2e.conftest import MakeNetwork

from shoal import connect
from shoal.api.operations import TRANSFER
from shoal.api.schema import TransferDetail, TransferRequest
from shoal.core.units import MIB
from shoal.testing.processes import Device
from shoal.testing.trees import find_difference, write_random_file, write_seeded_tree

LARGE_BYTES = 136 * MIB  # hashed by two threads at once
SMALL_BYTES = 40 * MIB
AGAIN_LIMIT = 16 * MIB  # may be fetched twice after a kill
WAIT_S = 60.0

FIRST_BYTES = 40 * MIB  # of the large file: what is hashed before either of them is killed
LATER_BYTES = 120 * MIB  # and before the getter is known to go on

SLOW_DISK = """
import os, time

preadv = os.preadv

def slowly(fd, buffers, offset):
    size = sum(len(buffer) for buffer in buffers)
    if size > 1 << 20 and os.readlink(f"/proc/self/fd/{fd}").endswith("/large"):  # it is being hashed
        while offset + size > os.stat(ALLOWED).st_size:
            time.sleep(0.02)
    return preadv(fd, buffers, offset)

os.preadv = slowly
"""


class SlowDisk:
    """Lets every node hash so much of the large file, and no more until it is told so."""

    def __init__(self, folder: Path) -> None:
        self._allowed = folder / "allowed"
        self._allowed.touch()
        (folder / "sitecustomize.py").write_text(SLOW_DISK.replace("ALLOWED", repr(str(self._allowed))))

    def allow(self, end_bytes: int) -> None:
        """Let it be read up to here from now on."""
        os.truncate(self._allowed, end_bytes)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    folder = tmp_path / "slow"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    return SlowDisk(folder)


def make_tree(root: Path) -> Path:
    write_seeded_tree(root, random.Random(1), SMALL_BYTES)
    write_random_file(root / "large", LARGE_BYTES)
    return root


def is_complete(device: Device) -> bool:
    with connect(str(device.home)) as client:
        return client.shares()[0].complete


def wait_transfer(device: Device, is_there: Callable[[TransferDetail], bool]) -> TransferDetail:
    """Wait for a state of the only transfer."""
    limit = time.monotonic() + WAIT_S
    with connect(str(device.home)) as client:
        while True:
            number = client.transfers()[0].id
            transfer = client.call(TRANSFER, TransferRequest(id=number))
            if is_there(transfer):
                return transfer
            assert time.monotonic() < limit, transfer
            time.sleep(0.02)


def begin(anna: Device, bert: Device, tree: Path, dest: Path, disk: SlowDisk) -> None:
    """Share and get at once; return when some of it is there, while the sharer waits for its disk."""
    disk.allow(FIRST_BYTES)
    link = anna.run("share", str(tree))["link"]
    with connect(str(bert.home)) as client:
        client.start_get(link, str(dest), wait_s=WAIT_S)
    early = wait_transfer(bert, lambda t: t.done_bytes > 24 * MIB)
    assert not is_complete(anna)
    assert early.note == "the sharer is still reading the files"
    assert early.bytes is not None
    assert early.bytes > LARGE_BYTES + SMALL_BYTES / 2
    assert not (dest / tree.name).exists()  # no final name before all is known


def check(done: TransferDetail, tree: Path, dest: Path) -> None:
    assert find_difference(tree, dest / tree.name) is None
    assert done.result is not None
    assert done.bytes is not None
    print(done.result)
    assert done.result.refetched_bytes <= AGAIN_LIMIT
    assert done.result.fetched_bytes <= done.bytes + AGAIN_LIMIT
    assert os.listdir(dest) == [tree.name]


def test_the_sharer_is_killed_while_it_hashes(network: MakeNetwork, tmp_path: Path, disk: SlowDisk) -> None:
    anna, bert = network("anna", "bert")
    tree, dest = make_tree(tmp_path / "tree"), tmp_path / "in"
    begin(anna, bert, tree, dest, disk)
    anna.kill()
    anna.up()
    assert not is_complete(anna)
    disk.allow(10 * LARGE_BYTES)
    check(wait_transfer(bert, lambda t: t.state == "done"), tree, dest)


def test_the_getter_is_killed_while_the_sharer_hashes(
    network: MakeNetwork, tmp_path: Path, disk: SlowDisk
) -> None:
    anna, bert = network("anna", "bert")
    tree, dest = make_tree(tmp_path / "tree"), tmp_path / "in"
    begin(anna, bert, tree, dest, disk)
    bert.kill()
    bert.up()
    disk.allow(LATER_BYTES)
    again = wait_transfer(bert, lambda t: t.done_bytes > FIRST_BYTES + SMALL_BYTES)
    assert not is_complete(anna)
    assert again.state == "fetching"
    disk.allow(10 * LARGE_BYTES)
    check(wait_transfer(bert, lambda t: t.state == "done"), tree, dest)
