"""Unused: what a module of the product defines is used by the product or its tools, not by tests alone."""

from __future__ import annotations

import ast
from collections.abc import Iterable

import pytest
from tests.support.source import Module, find_modules, show

MAY_BE_UNUSED = {
    "OverlayPort": "the contract in words: its one implementation and those above refer to it",
}
FOR_TESTS = "src/shoal/testing/"


def find_unused(modules: Iterable[Module]) -> list[str]:
    """Return the module-level names of `src` whose only mention is where they are defined, and imports.

    Coarse: it goes by the name alone, so one that several modules have is used if any of them is.
    """
    defined: list[tuple[str, str]] = []
    used: set[str] = set()
    for module in modules:
        tree = module.parse()
        if module.path.startswith("src/") and not module.path.startswith(FOR_TESTS):
            defined += [(name, f"{module.path}:{line}") for name, line in _defined(tree) if name[:2] != "__"]
        used |= _used(tree)
    return [f"{place}: nothing uses {name}" for name, place in defined if name not in used]


def _defined(tree: ast.Module) -> Iterable[tuple[str, int]]:
    for node in tree.body:
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.decorator_list  # a decorator may hand it on
        ):
            yield node.name, node.lineno
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in [*targets, *([node.target] if isinstance(node, ast.AnnAssign) else [])]:
            if isinstance(target, ast.Name):
                yield target.id, node.lineno


def _used(tree: ast.Module) -> set[str]:
    """Return every name that is read, as a variable or behind a dot, or that `__all__` lists."""
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            used |= set(ast.literal_eval(node.value))
    return used


def test_nothing_is_unused() -> None:
    faults = find_unused([*find_modules("src"), *find_modules("tools")])
    names = {fault.rpartition(" ")[2] for fault in faults}
    assert names == set(MAY_BE_UNUSED), show(faults)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("LIMIT = 3", 1),
        ("LIMIT: int = 3", 1),
        ("def f(): pass", 1),
        ("@app.command\ndef f(): pass", 0),
        ("def __getattr__(name): pass", 0),
        ("class A: pass", 1),
        ("LIMIT = 3\nprint(LIMIT)", 0),
        ("LIMIT = 3\n__all__ = ['LIMIT']", 0),
        ("async def f(): pass\nimport x\nx.f()", 0),
        ("from x import LIMIT\nLIMIT = 3", 1),
        ("class A: pass\nx: list[A]\nprint(x)", 0),
    ],
)
def test_it_finds_an_unused_name(text: str, faults: int) -> None:
    assert len(find_unused([Module("src/shoal/x.py", text)])) == faults
