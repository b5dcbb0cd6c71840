"""Layering: a folder of src/shoal imports only folders below it."""

from __future__ import annotations

import pytest
from tests.support.source import Module, find_imports, find_modules, show

# architecture.md section 1, top to bottom
LAYERS = (
    "sim",  # a process of its own: nothing else imports it
    "cli",
    "node",
    "api",
    "apps",
    "swarm",
    "membership",
    "overlay",
    "transport",
    "storage",
    "content",
    "identity",
    "wire",
    "core",
)
# what lies beside the house: `testing` may import anything, and only tests and tools import it; the package's
# own top modules are its face (lazy imports of node and api) and its number
FREE = {"testing", "__init__", "__main__"}
EVERYBODYS = {"version"}


def find_faults(module: Module) -> list[str]:
    """Return what a module imports from a layer above its own."""
    layer = _layer(module.name)
    if layer in FREE:
        return []
    faults = []
    if layer not in LAYERS and layer not in EVERYBODYS:
        return [f"{module.path}: the folder {layer} has no place in the house: give it one in {__name__}"]
    for line, imported in find_imports(module):
        if imported.split(".")[0] != "shoal":
            continue
        target = _layer(imported)
        if target in EVERYBODYS or target == layer:
            continue
        below = layer in LAYERS and target in LAYERS and LAYERS.index(target) > LAYERS.index(layer)
        if not below:
            faults.append(f"{module.path}:{line}: {layer} imports {imported}, which is not below it")
    return faults


def _layer(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_folder_imports_only_what_is_below_it() -> None:
    modules = find_modules("src")
    assert len(modules) > 20
    faults = [fault for module in modules for fault in find_faults(module)]
    assert not faults, show(faults)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("src/shoal/core/bad.py", "import shoal.wire.codec"),
        ("src/shoal/wire/bad.py", "from shoal.identity import keys"),
        ("src/shoal/wire/bad.py", "from shoal import identity"),
        ("src/shoal/wire/bad.py", "from ..identity.keys import sign"),
        ("src/shoal/wire/__init__.py", "from ..identity import keys"),
        ("src/shoal/storage/bad.py", "def f():\n    from shoal.transport.session import Session"),
        ("src/shoal/swarm/bad.py", "if TYPE_CHECKING:\n    from shoal.apps.files.get import Get"),
        ("src/shoal/apps/files/bad.py", "import shoal"),
        ("src/shoal/apps/files/bad.py", "from shoal.testing.clock import ManualClock"),
        ("src/shoal/cellar/new.py", "x = 1"),
    ],
)
def test_it_finds_an_import_upwards(path: str, text: str) -> None:
    assert len(find_faults(Module(path, text))) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("src/shoal/wire/good.py", "from shoal.core.errors import ShoalError"),
        ("src/shoal/wire/good.py", "from .codec import decode\nfrom ..core import units"),
        ("src/shoal/wire/__init__.py", "from .codec import decode"),
        ("src/shoal/core/good.py", "import asyncio\nfrom shoal.version import __version__"),
        ("src/shoal/testing/good.py", "from shoal.cli.main import main"),
        ("src/shoal/__init__.py", "from shoal.api.client import connect"),
    ],
)
def test_it_lets_an_import_downwards_pass(path: str, text: str) -> None:
    assert find_faults(Module(path, text)) == []
