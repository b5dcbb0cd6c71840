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
WAIT_S = 20.0

SLOW_DISK = """
import os, time

preadv = os.preadv

def slowly(fd, buffers, offset):
    size = sum(len(buffer) for buffer in buffers)
    if size > 1 << 20:  # only hashing reads that much at once
        time.sleep(size / 60e6)
    return preadv(fd, buffers, offset)

os.preadv = slowly
"""


@pytest.fixture(autouse=True)
def slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SLOW_DISK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


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


def begin(anna: Device, bert: Device, tree: Path, dest: Path) -> TransferDetail:
    """Share and get at once; return when some of it is there."""
    link = anna.run("share", str(tree))["link"]
    with connect(str(bert.home)) as client:
        client.start_get(link, str(dest), wait_s=WAIT_S)
    early = wait_transfer(bert, lambda t: t.done_bytes > 24 * MIB)
    assert not is_complete(anna)
    assert early.note == "the sharer is still reading the files"
    assert early.bytes is not None
    assert early.bytes > LARGE_BYTES + SMALL_BYTES / 2
    assert not (dest / tree.name).exists()  # no final name before all is known
    return early


def check(done: TransferDetail, tree: Path, dest: Path) -> None:
    assert find_difference(tree, dest / tree.name) is None
    assert done.result is not None
    assert done.bytes is not None
    print(done.result)
    assert done.result.refetched_bytes <= AGAIN_LIMIT
    assert done.result.fetched_bytes <= done.bytes + AGAIN_LIMIT
    assert os.listdir(dest) == [tree.name]


def test_the_sharer_is_killed_while_it_hashes(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    tree, dest = make_tree(tmp_path / "tree"), tmp_path / "in"
    early = begin(anna, bert, tree, dest)
    anna.kill()
    anna.up()
    assert not is_complete(anna)
    wait_transfer(bert, lambda t: t.done_bytes > early.done_bytes + 40 * MIB)
    check(wait_transfer(bert, lambda t: t.state == "done"), tree, dest)


def test_the_getter_is_killed_while_the_sharer_hashes(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    tree, dest = make_tree(tmp_path / "tree"), tmp_path / "in"
    early = begin(anna, bert, tree, dest)
    bert.kill()
    bert.up()
    again = wait_transfer(bert, lambda t: t.done_bytes > early.done_bytes)
    assert not is_complete(anna)
    assert again.state == "fetching"
    check(wait_transfer(bert, lambda t: t.state == "done"), tree, dest)
