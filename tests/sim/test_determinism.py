"""Determinism: a seed gives the same bytes in every process, another seed others."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMMANDS = [
    ["views", "--nodes", "200", "--cycles", "5"],
    ["broadcast", "--nodes", "200", "--messages", "6", "--crash", "0.5", "--loss", "0.02"],
    ["detect", "--nodes", "32", "--anomalous", "4", "--anomaly-s", "8", "--minutes", "1"],
    ["merge", "--nodes", "60", "--split-s", "120"],
    ["idle", "--nodes", "60", "--minutes", "2"],
]


def run(arguments: list[str], hash_seed: str, seed: str = "7") -> bytes:
    """Run a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "shoal.sim", *arguments, "--seed", seed, "--json"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_two_processes_print_the_same_bytes(arguments: list[str]) -> None:
    assert run(arguments, "1") == run(arguments, "2")


def test_another_seed_prints_others() -> None:
    assert run(COMMANDS[0], "1") != run(COMMANDS[0], "1", seed="8")
