"""Map: prints the tree of the source, each module with the first sentence of its docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = 100
TEXT_COLUMN = 26
# top to bottom, as in the architecture; what is not named here comes after
ORDER = (
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


def make_map(root: Path = ROOT) -> Iterator[str]:
    """Return the lines of the map, each at most COLUMNS wide."""
    yield from _folder(root / "src" / "shoal", "src/shoal", 0)
    yield from _folder(root / "tools", "tools", 0)
    yield from _counts(root / "tests", "tests", "test_*.py", "modules of tests")
    yield from _counts(root / "spec", "spec", "*.md", "pages")


def _folder(folder: Path, name: str, depth: int) -> Iterator[str]:
    """Return a folder's line, its modules, then its folders."""
    if not any(folder.rglob("*.py")):
        return
    yield _line(f"{name}/", _first_sentence(folder / "__init__.py"), depth)
    for module in sorted(folder.glob("*.py")):
        if module.name != "__init__.py":
            yield _line(module.name, _first_sentence(module), depth + 1)
    folders = [f for f in folder.iterdir() if f.is_dir() and f.name != "__pycache__"]
    for below in sorted(folders, key=_place):
        yield from _folder(below, below.name, depth + 1)


def _counts(folder: Path, name: str, pattern: str, what: str) -> Iterator[str]:
    """Return a line for a folder whose files speak for themselves, one for each folder in it."""
    if not folder.is_dir():
        return
    own = len(list(folder.glob(pattern)))
    yield _line(f"{name}/", f"{own} {what}" if own else "", 0)
    for below in sorted(f for f in folder.iterdir() if f.is_dir()):
        if count := len(list(below.rglob(pattern))):
            yield _line(f"{below.name}/", f"{count} {what}", 1)


def _place(folder: Path) -> tuple[int, str]:
    return (ORDER.index(folder.name) if folder.name in ORDER else len(ORDER), folder.name)


def _first_sentence(module: Path) -> str:
    if not module.exists():
        return ""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return re.sub(r"\. .*", ".", docstring.split("\n")[0])


def _line(name: str, text: str, depth: int) -> str:
    line = f"{'  ' * depth + name:<{TEXT_COLUMN}} {text}".rstrip()
    return line if len(line) <= COLUMNS else line[: COLUMNS - 1].rstrip() + "…"


if __name__ == "__main__":
    print("\n".join(make_map()))
