"""No sleep: fast tests do not wait for real time; they move a clock or wait for a condition."""

from __future__ import annotations

import ast

import pytest
from tests.support.source import Module, find_modules, show

# where real processes and sockets run; support serves them too
MAY_SLEEP = ("tests/integration/", "tests/hostile/", "tests/e2e/", "tests/support/")


def find_faults(module: Module) -> list[str]:
    """Return the calls of any `sleep` in a fast test; `sleep(0)` only gives way and is no wait."""
    if module.path.startswith(MAY_SLEEP):
        return []
    return [
        f"{module.path}:{node.lineno}: {ast.unparse(node)} in a fast test"
        for node in ast.walk(module.parse())
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] == "sleep"
        and [ast.unparse(argument) for argument in node.args] != ["0"]
    ]


def test_fast_tests_do_not_sleep() -> None:
    modules = find_modules("tests")
    faults = [fault for module in modules for fault in find_faults(module)]
    assert not faults, show(faults)


@pytest.mark.parametrize(
    ("path", "text", "faults"),
    [
        ("tests/unit/test_x.py", "import time\ntime.sleep(1)", 1),
        ("tests/machine/test_x.py", "async def f():\n    await asyncio.sleep(0.01)", 1),
        ("tests/property/test_x.py", "from time import sleep\nsleep(delay)", 1),
        ("tests/unit/test_x.py", "async def f():\n    await asyncio.sleep(0)", 0),
        ("tests/hostile/test_x.py", "import time\ntime.sleep(1)", 0),
        ("tests/unit/test_x.py", "text = 'sleep(1)'", 0),
    ],
)
def test_it_finds_a_sleep(path: str, text: str, faults: int) -> None:
    assert len(find_faults(Module(path, text))) == faults
