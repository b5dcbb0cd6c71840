"""Memory: what daemons hold does not grow with the number of files that they have shared and fetched."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import MakeNetwork

from shoal.core.units import KIB, MIB
from shoal.testing.processes import Device

ROUNDS = 2
FILES = 40_000  # in each share; with a tenth of them the caches below hide the rest
FOLDER = 500
SETTLED_S = 30.0  # at the latest: memory is given back some seconds after the work
LOOK_S = 0.2
# Beyond what an idle daemon holds. Wanted are caches: manifests up to 8 MiB, pages of SQLite up to 6 MiB,
# code that runs for the first time; 10 to 15 altogether. Without columns for what is found, one heap for all
# threads and a collection after each get it was 24 to 30.
MORE_BYTES = 20 * MIB


def held_bytes(device: Device) -> int:
    """Return what is this process's alone and not its libraries': pages that others may share vary."""
    lines = Path(f"/proc/{device.pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * KIB for line in lines if line.startswith("Private_Dirty:"))


def wait_below(device: Device, limit: int) -> None:
    """Wait until a device holds at most so much. Raises: AssertionError."""
    end = time.monotonic() + SETTLED_S
    while (held := held_bytes(device)) > limit:
        assert time.monotonic() < end, f"{device.name} holds {held / MIB:.1f} MiB, not {limit / MIB:.1f}"
        time.sleep(LOOK_S)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a thing: creating files is most of the test otherwise."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as path:
        yield Path(path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sharing_and_getting_many_files_again_and_again_takes_no_more_memory(
    network: MakeNetwork, place: Path
) -> None:
    one, two = network("one", "two")
    limits = {device.name: held_bytes(device) + MORE_BYTES for device in (one, two)}
    for number in range(1, ROUNDS + 1):
        tree, got = place / f"tree {number}", place / "got"
        for file in range(FILES):
            folder = tree / f"folder {file // FOLDER}"
            if file % FOLDER == 0:
                folder.mkdir(parents=True)
            (folder / f"file {file:06}").write_bytes(b"%d %d" % (number, file))
        link = one.run("share", str(tree), "--wait")["link"]
        two.run("get", link, str(got))
        shutil.rmtree(tree)
        shutil.rmtree(got)
        for device in (one, two):
            wait_below(device, limits[device.name])
