"""Bits that flip in the database of a real node while it is down: said in words, or without any harm."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from shoal.core.errors import ExitCode
from shoal.core.units import MIB
from shoal.testing.kill_rounds import flip_bytes
from shoal.testing.processes import Device
from shoal.testing.trees import find_difference, write_seeded_tree

SEEDS = range(3)
FLIPS = 40


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node with a share and a pin, killed: part of its database is in the -wal file."""
    directory = tmp_path_factory.mktemp("made")
    with Device(directory / "ada", "ada") as ada:
        ada.up()
        write_seeded_tree(directory / "ada" / "tree", random.Random(7), 4 * MIB)
        ada.run("share", "--copy", "--wait", str(directory / "ada" / "tree"))
        ada.kill()
    return directory / "ada"


@pytest.mark.parametrize("end", ["", "-wal"])
@pytest.mark.parametrize("seed", SEEDS)
def test_flipped_bits_are_a_fault_or_harmless(tmp_path: Path, home: Path, seed: int, end: str) -> None:
    shutil.copytree(home, tmp_path / "ada", symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
    flip_bytes(tmp_path / "ada" / "home" / f"shoal.db{end}", random.Random(seed), FLIPS)
    with Device(tmp_path / "ada", "ada") as ada:
        started = ada.call("up", "--detach", "--listen", "127.0.0.1:0", "--no-lan", "--json")
        said = [started.stdout + started.stderr]
        if started.returncode == 0:
            ada.pid = int(ada.run("status")["pid"])
            for words in (["shares"], ["pins"], ["store", "verify"], ["doctor"], ["status"]):
                done = ada.call(*words)
                said.append(done.stdout + done.stderr)
                assert done.returncode in (0, ExitCode.STORAGE, ExitCode.UNAVAILABLE, ExitCode.CONFIG), said
        else:
            assert started.returncode in (ExitCode.STORAGE, ExitCode.CONFIG), said
            assert "next_step" in started.stdout
        log = tmp_path / "ada" / "home" / "log" / "shoal.log"
        said.append(log.read_text() if log.exists() else "")
        assert not [text for text in said if "Traceback" in text], said
        assert find_difference(home / "tree", tmp_path / "ada" / "tree") is None
