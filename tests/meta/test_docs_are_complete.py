"""Docs: every command with its options, and every setting, is in the documentation; and nothing else is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from shoal.cli.app import app
from shoal.node.config import load_config

DOCS = Path(__file__).parents[2] / "docs"
COMMON = {"--home", "--json", "--help"}  # of every command; said once


def list_commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield (words, command) of every command that does something."""
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from list_commands(below, (*words, name))
    else:
        yield " ".join(words), command


COMMANDS = dict(list_commands(typer.main.get_command(app)))


def read_reference() -> dict[str, str]:
    """Return what the list of all options in docs/cli.md says, by command."""
    text = (DOCS / "cli.md").read_text().partition("## Every option")[2].partition("\n## ")[0]
    found: dict[str, str] = {}
    for line in re.findall(r"^    (\S.*(?:\n {6,}.*)*)", text, re.MULTILINE):
        words = line.split()
        name = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
        found[name] = " ".join(words)
    return found


def test_every_command_is_listed_and_no_other() -> None:
    assert list(read_reference()) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_of_a_command_is_listed_and_no_other(name: str) -> None:
    line = read_reference()[name]
    options = [p for p in COMMANDS[name].params if p.param_type_name == "option"]
    expected = {o for p in options for o in (*p.opts, *p.secondary_opts) if o.startswith("--")} - COMMON
    assert set(re.findall(r"--[a-z-]+", line)) == expected
    metavars = [p.metavar or "" for p in COMMANDS[name].params if p.param_type_name == "argument"]
    arguments = [word for metavar in metavars for word in metavar.split("|")]
    plain = re.sub(r"\[--[^]]*\]+", "", line.removeprefix(name))
    assert re.findall(r"[A-Z]{2,}", plain) == arguments


@pytest.mark.parametrize("name", sorted({name.split()[0] for name in COMMANDS}))
def test_every_command_is_in_the_overview(name: str) -> None:
    overview = (DOCS / "cli.md").read_text().partition("\n## ")[0]
    assert re.search(rf"^    shoal {name}\b|; [^\n]*\b{name}\b", overview, re.MULTILINE)


def test_every_setting_is_documented_and_no_other(tmp_path: Path) -> None:
    table = (DOCS / "config.md").read_text().partition("## Keys")[2].partition("\n## ")[0]
    documented = [key.strip("[]") for key in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)]
    assert documented == list(load_config(str(tmp_path)).settings())
