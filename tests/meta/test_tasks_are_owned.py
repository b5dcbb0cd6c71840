"""Tasks: each has an owner that waits for it: the supervisor, or a task group where it began."""

from __future__ import annotations

import ast

import pytest
from tests.support.source import Module, find_modules, show

MAY_START = {
    "src/shoal/core/supervisor.py": "owns what runs as long as the node",
    "src/shoal/api/streams.py": "a reply's next item races with the client's end; it awaits both",
}
STARTS = {"create_task", "ensure_future"}


def find_faults(module: Module) -> list[str]:
    """Return the calls that start a task which nothing has to wait for."""
    if module.path in MAY_START:
        return []
    tree = module.parse()
    groups = {
        item.optional_vars.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if ast.unparse(item.context_expr) == "asyncio.TaskGroup()"
        and isinstance(item.optional_vars, ast.Name)
    }
    return [
        f"{module.path}:{node.lineno}: {ast.unparse(node.func)} outside a task group; "
        "use Supervisor.spawn or asyncio.TaskGroup"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _starts(node.func, groups)
    ]


def _starts(function: ast.expr, groups: set[str]) -> bool:
    if isinstance(function, ast.Name):
        return function.id in STARTS
    return (
        isinstance(function, ast.Attribute)
        and function.attr in STARTS
        and ast.unparse(function.value) not in groups
    )


def test_every_task_has_an_owner() -> None:
    faults = [fault for module in find_modules("src") for fault in find_faults(module)]
    assert not faults, show(faults)


def test_the_exceptions_still_start_tasks() -> None:
    texts = {module.path: module.text for module in find_modules("src")}
    assert all(any(word in texts[path] for word in STARTS) for path in MAY_START)


_GROUP = "async def f():\n  async with {}asyncio.TaskGroup() as group:\n    {}.create_task(x())"


@pytest.mark.parametrize(
    ("path", "text", "faults"),
    [
        ("src/shoal/wire/x.py", "task = asyncio.create_task(x())", 1),
        ("src/shoal/wire/x.py", "from asyncio import ensure_future\nensure_future(x())", 1),
        ("src/shoal/wire/x.py", "asyncio.get_running_loop().create_task(x())", 1),
        ("src/shoal/wire/x.py", _GROUP.format("", "group"), 0),
        ("src/shoal/wire/x.py", _GROUP.format("asyncio.timeout(1), ", "group"), 0),
        ("src/shoal/wire/x.py", _GROUP.format("", "asyncio"), 1),
        ("src/shoal/core/supervisor.py", "asyncio.create_task(x())", 0),
    ],
)
def test_it_finds_a_task_without_owner(path: str, text: str, faults: int) -> None:
    assert len(find_faults(Module(path, text))) == faults
