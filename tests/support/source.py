"""Source: the repository's own files, for the tests that look at them."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "shoal"
_SKIPPED = {
    ".venv",
    ".venv-bench",
    ".git",
    ".run",
    "build",
    "dist",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
}


class Module(NamedTuple):
    """One Python file. `path` is relative to the repository, with slashes."""

    path: str
    text: str

    @property
    def name(self) -> str:
        """The dotted name: src/shoal/core/clock.py is shoal.core.clock."""
        parts = self.path.removesuffix(".py").split("/")
        if parts[0] == "src":
            parts = parts[1:]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def is_package(self) -> bool:
        """Whether the file is an __init__.py."""
        return self.path.endswith("/__init__.py")

    def parse(self) -> ast.Module:
        """Return the syntax tree."""
        return ast.parse(self.text, self.path)


def find_modules(*folders: str) -> list[Module]:
    """Return all Python files below folders of the repository, sorted."""
    return [
        Module(path, (ROOT / path).read_text(encoding="utf-8"))
        for path in _walk()
        if path.endswith(".py") and path.startswith(tuple(f"{folder}/" for folder in folders))
    ]


def find_texts() -> Iterator[tuple[str, str]]:
    """Return (path, text) of every file that belongs to the repository and is UTF-8."""
    for path in _tracked() or _walk():
        try:
            yield path, (ROOT / path).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue


def find_imports(module: Module) -> list[tuple[int, str]]:
    """Return (line, dotted name) of everything imported anywhere in a module; `from a import b` is a.b."""
    found: list[tuple[int, str]] = []
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    for node in ast.walk(module.parse()):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def show(faults: list[str]) -> str:
    """Return faults one a line, for the message of a failed test."""
    return "\n".join(["", *faults])


def _walk() -> list[str]:
    paths: list[str] = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and not f.endswith(".egg-info"))
        relative = os.path.relpath(folder, ROOT)
        paths += [os.path.normpath(os.path.join(relative, file)) for file in sorted(files)]
    return paths


def _tracked() -> list[str]:
    """Return what git keeps; nothing outside a clone (an unpacked archive)."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [path for path in done.stdout.split("\0") if path] if done.returncode == 0 else []
