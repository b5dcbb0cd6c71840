"""Module size: 100 to 250 lines are the aim, more than 600 fail."""

from __future__ import annotations

import pytest
from tests.support.source import Module, find_modules, show

LINES = 600


def find_faults(module: Module) -> list[str]:
    """Return the module if it is too long to be read in one go."""
    lines = len(module.text.splitlines())
    return (
        [f"{module.path}: {lines} lines, {LINES} are allowed: cut it by what it does"]
        if lines > LINES
        else []
    )


def test_no_module_is_too_long() -> None:
    modules = find_modules("src", "tests", "tools")
    faults = [fault for module in modules for fault in find_faults(module)]
    assert not faults, show(faults)


@pytest.mark.parametrize(("lines", "faults"), [(600, 0), (601, 1)])
def test_it_finds_a_long_module(lines: int, faults: int) -> None:
    assert len(find_faults(Module("src/shoal/core/x.py", "x = 1\n" * lines))) == faults
