"""Handlers: the narrowest type is caught; only the supervisor and the API boundary catch everything.

What has to be taken back when a block fails stands in `undone_on_failure`, which catches nothing.
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
        if isinstance(node, ast.ExceptHandler):
            caught = _names(node.type)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "suppress":
            caught = {name for argument in node.args for name in _names(argument)}
        else:
            continue
        if caught & (BROAD | {""}):
            faults.append(f"{module.path}:{node.lineno}: catches {', '.join(sorted(caught)) or 'everything'}")
    return faults


def _names(kind: ast.expr | None) -> set[str]:
    """Return the last words of the caught types, an empty one for a bare except."""
    if kind is None:
        return {""}
    items = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return {ast.unparse(item).split(".")[-1] for item in items}


def test_nobody_else_catches_everything() -> None:
    modules = [*find_modules("src"), *find_modules("tools")]
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
        ("src/shoal/wire/x.py", _handler(" BaseException", "close(); raise"), 1),
        ("src/shoal/wire/x.py", _handler(" Exception as e", "raise OSError from e"), 1),
        ("tools/bench/x.py", _handler(" BaseException", "close(); raise"), 1),
        ("src/shoal/core/supervisor.py", _handler(" Exception"), 0),
    ],
)
def test_it_finds_a_broad_handler(path: str, text: str, faults: int) -> None:
    assert len(find_faults(Module(path, text))) == faults
