"""Handlers: the narrowest type is caught; only the supervisor and the API boundary catch everything.

Cleaning up and raising again catches nothing: such a handler may name any type.
"""

from __future__ import annotations

import ast

import pytest
from tests.support.source import Module, find_modules, show

MAY_CATCH_ALL = ("src/shoal/core/supervisor.py", "src/shoal/api/boundary.py")
BROAD = {"Exception", "BaseException"}


def find_faults(module: Module) -> list[str]:
    """Return the broad handlers of a module that may have none."""
    if module.path in MAY_CATCH_ALL:
        return []
    faults = []
    for node in ast.walk(module.parse()):
        if isinstance(node, ast.ExceptHandler) and _raises_again(node):
            continue
        if isinstance(node, ast.ExceptHandler):
            caught = _names(node.type)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "suppress":
            caught = {name for argument in node.args for name in _names(argument)}
        else:
            continue
        if caught & (BROAD | {""}):
            faults.append(f"{module.path}:{node.lineno}: catches {', '.join(sorted(caught)) or 'everything'}")
    return faults


def _raises_again(handler: ast.ExceptHandler) -> bool:
    """Say whether a handler ends in `raise` and has no way around it."""
    last = handler.body[-1]
    ways_out = (ast.Return, ast.Break, ast.Continue, ast.Yield, ast.YieldFrom)
    return (
        isinstance(last, ast.Raise)
        and last.exc is None
        and not any(isinstance(node, ways_out) for node in ast.walk(handler))
    )


def _names(kind: ast.expr | None) -> set[str]:
    """Return the last words of the caught types, an empty one for a bare except."""
    if kind is None:
        return {""}
    items = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return {ast.unparse(item).split(".")[-1] for item in items}


def test_nobody_else_catches_everything() -> None:
    modules = find_modules("src")
    faults = [fault for module in modules for fault in find_faults(module)]
    assert not faults, show(faults)


def _handler(caught: str, body: str = "pass") -> str:
    return f"while True:\n  try:\n    pass\n  except{caught}:\n    {body}\n"


@pytest.mark.parametrize(
    ("path", "text", "faults"),
    [
        ("src/shoal/wire/x.py", _handler(""), 1),
        ("src/shoal/wire/x.py", _handler(" Exception"), 1),
        ("src/shoal/wire/x.py", _handler(" BaseException as error"), 1),
        ("src/shoal/wire/x.py", _handler(" (ValueError, builtins.Exception)"), 1),
        ("src/shoal/wire/x.py", "with contextlib.suppress(OSError, Exception):\n    pass", 1),
        ("src/shoal/wire/x.py", _handler(" (ValueError, OSError)"), 0),
        ("src/shoal/wire/x.py", _handler(" BaseException", "close(); raise"), 0),
        ("src/shoal/wire/x.py", _handler(" Exception as e", "raise OSError from e"), 1),
        ("src/shoal/wire/x.py", _handler(" Exception", "if x: raise"), 1),
        ("src/shoal/wire/x.py", _handler(" Exception", "if x:\n      continue\n    raise"), 1),
        ("src/shoal/core/supervisor.py", _handler(" Exception"), 0),
    ],
)
def test_it_finds_a_broad_handler(path: str, text: str, faults: int) -> None:
    assert len(find_faults(Module(path, text))) == faults
