"""Purity of machines: a module with a `step(self, now, ...)` has no clock, socket, file or dice itself."""

from __future__ import annotations

import ast

import pytest
from tests.support.source import Module, find_imports, find_modules, show

FORBIDDEN = {
    "asyncio",
    "concurrent",
    "multiprocessing",
    "os",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uuid",
}
ALLOWED_OF_RANDOM = {"Random"}
CLOCK_READERS = {"now", "utcnow", "today"}


def is_machine(module: Module) -> bool:
    """Say whether a module defines a class with a method step(self, now, ...)."""
    return any(
        isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
        and item.name == "step"
        and [argument.arg for argument in item.args.args][:2] == ["self", "now"]
        for node in ast.walk(module.parse())
        if isinstance(node, ast.ClassDef)
        for item in node.body
    )


def find_faults(module: Module) -> list[str]:
    """Return what in a machine's module could give two runs two results."""
    if not is_machine(module):
        return []
    faults = [
        f"{module.path}:{line}: a machine imports {name}"
        for line, name in find_imports(module)
        if name.split(".")[0] in FORBIDDEN
        or (name.startswith("random.") and name.split(".")[1] not in ALLOWED_OF_RANDOM)
    ]
    for node in ast.walk(module.parse()):
        where = f"{module.path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.AsyncFunctionDef | ast.Await):
            faults.append(f"{where}: a machine waits")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "random" and node.attr not in ALLOWED_OF_RANDOM:
                faults.append(f"{where}: a machine uses random.{node.attr}; it is given a random.Random")
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("random.Random", "Random"):
                faults.append(f"{where}: a machine makes its own dice; it is given a random.Random")
            elif called == "open" or called.split(".")[-1] in CLOCK_READERS:
                faults.append(f"{where}: a machine calls {called}")
    return faults


def test_machines_are_pure() -> None:
    modules = find_modules("src")
    faults = [fault for module in modules for fault in find_faults(module)]
    assert not faults, show(faults)


def test_there_are_machines() -> None:
    assert len([module for module in find_modules("src") if is_machine(module)]) >= 2


STEP = "\nclass M:\n    def step(self, now, event):\n        return []\n"


@pytest.mark.parametrize(
    "text",
    [
        "import asyncio" + STEP,
        "from time import monotonic" + STEP,
        "import os.path" + STEP,
        "from random import shuffle" + STEP,
        "import random\nx = random.random()" + STEP,
        "import random\nx = random.Random(1)" + STEP,
        "from random import Random\nx = Random()" + STEP,
        "from datetime import datetime\nx = datetime.now()" + STEP,
        "x = open('f')" + STEP,
        "def f():\n    import socket" + STEP,
        "class M:\n    async def step(self, now, event):\n        return []\n",
    ],
)
def test_it_finds_an_impure_machine(text: str) -> None:
    assert len(find_faults(Module("src/shoal/swarm/bad.py", text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "import asyncio\nclass Driver:\n    def run(self, now): ...\n",
        "import random\nfrom math import log\n\ndef make(rng: random.Random) -> None:\n    rng.random()\n"
        + STEP,
    ],
)
def test_it_lets_drivers_and_pure_machines_pass(text: str) -> None:
    assert find_faults(Module("src/shoal/swarm/good.py", text)) == []
