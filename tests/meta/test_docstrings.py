"""Docstrings: a module says what it is (`Noun: what it does.`), and everything public says something.

A method needs none where another class documents one of its name (that is the port it implements), nor does a
callback of asyncio, nor a property that only hands out a value: a docstring that repeats the name is noise.
"""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterable

import pytest
from tests.support.source import Module, find_modules, show

FIRST_LINE = re.compile(r"[A-Z][^:.!?]{0,60}: \S")
CALLBACKS = frozenset(dir(asyncio.Protocol)) | frozenset(dir(asyncio.BufferedProtocol))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def find_module_faults(module: Module) -> list[str]:
    """Return what is wrong with the first line of a module."""
    if module.is_package and not module.text and not module.path.startswith("src/"):
        return []  # it only makes a folder importable
    first = (ast.get_docstring(module.parse()) or "").split("\n")[0]
    if FIRST_LINE.match(first):
        return []
    return [f"{module.path}:1: the docstring begins {first[:40]!r}, not `Noun: what it does.`"]


def find_faults(module: Module, documented: frozenset[str] = frozenset()) -> list[str]:
    """Return the public classes, functions and methods without a docstring.

    `documented` are the methods that some class describes.
    """
    faults = []
    for node in module.parse().body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None and not _is_overload(node):
            faults.append(f"{module.path}:{node.lineno}: {node.name} has no docstring")
        if isinstance(node, ast.ClassDef):
            faults += [
                f"{module.path}:{method.lineno}: {node.name}.{method.name} has no docstring"
                for method in _methods(node)
                if ast.get_docstring(method) is None and method.name not in documented | CALLBACKS
            ]
    return faults


def find_documented(modules: Iterable[Module]) -> frozenset[str]:
    """Return the names of all methods that a docstring describes somewhere."""
    return frozenset(
        method.name
        for module in modules
        for node in ast.walk(module.parse())
        if isinstance(node, ast.ClassDef)
        for method in _methods(node)
        if ast.get_docstring(method) is not None
    )


def _methods(node: ast.ClassDef) -> list[Function]:
    return [
        item
        for item in node.body
        if isinstance(item, Function)
        and not item.name.startswith("_")
        and not _is_overload(item)
        and not _is_plain_property(item)
    ]


def _is_plain_property(node: Function) -> bool:
    decorators = {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list}
    plain = len(node.body) == 1 and isinstance(node.body[0], ast.Return | ast.Expr)
    return "setter" in decorators or (plain and bool(decorators & {"property", "cached_property"}))


def _is_overload(node: Function | ast.ClassDef) -> bool:
    return any(ast.unparse(decorator).split(".")[-1] == "overload" for decorator in node.decorator_list)


def test_modules_say_what_they_are() -> None:
    modules = find_modules("src", "tools")
    faults = [fault for module in modules for fault in find_module_faults(module)]
    assert not faults, show(faults)


def test_everything_public_has_a_docstring() -> None:
    modules = find_modules("src")
    documented = find_documented(modules)
    faults = [fault for module in modules for fault in find_faults(module, documented)]
    assert not faults, show(faults)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", 1),
        ("x = 1", 1),
        ('"""helpers."""', 1),
        ('"""Some helpers."""', 1),
        ('"""clock: what time it is."""', 1),
        ('"""Clock: what time it is."""', 0),
        ('"""Peer book: who was where, and what came of it.\n\nMore.\n"""', 0),
    ],
)
def test_it_finds_a_module_that_does_not_say_what_it_is(text: str, faults: int) -> None:
    assert len(find_module_faults(Module("src/shoal/core/x.py", text))) == faults


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("def f(): ...", 1),
        ("async def f(): ...", 1),
        ("class C: ...", 1),
        ('class C:\n    """C."""\n    def m(self): ...', 1),
        ('class C:\n    """C."""\n    @property\n    def p(self):\n        x = 1\n        return x', 1),
        ('class C:\n    """C."""\n    @property\n    def p(self):\n        return self._p', 0),
        ('class C:\n    """C."""\n    def data_received(self, data): ...', 0),
        ('class C:\n    """C."""\n    def _m(self): ...\n    def __len__(self): ...', 0),
        ('class C:\n    """C."""\n    def port_method(self): ...', 0),
        ('def f():\n    """Do it."""', 0),
        ("def _f(): ...", 0),
        ("class _C:\n    def m(self): ...", 0),
    ],
)
def test_it_finds_what_has_no_docstring(text: str, faults: int) -> None:
    assert len(find_faults(Module("src/shoal/core/x.py", text), frozenset({"port_method"}))) == faults
