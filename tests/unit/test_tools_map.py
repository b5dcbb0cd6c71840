"""Map: every module stands in it, no line is too wide."""

from __future__ import annotations

from pathlib import Path

from tests.support.source import find_modules
from tools.map import COLUMNS, make_map


def test_every_module_is_on_the_map_with_its_line() -> None:
    lines = list(make_map())
    assert max(map(len, lines)) <= COLUMNS
    names = [line.split()[0] for line in lines]
    modules = [m for m in find_modules("src", "tools") if not m.is_package]
    assert sorted(n for n in names if n.endswith(".py")) == sorted(m.path.split("/")[-1] for m in modules)
    clock = next(line for line in lines if line.strip().startswith("clock.py"))
    assert "Clock: " in clock


def test_a_long_line_is_cut(tmp_path: Path) -> None:
    folder = tmp_path / "src" / "shoal" / "core"
    folder.mkdir(parents=True)
    (folder / "long.py").write_text(f'"""Long: {"word " * 40}."""\n')
    (folder / "empty.py").write_text("")
    lines = list(make_map(tmp_path))
    assert [line.split()[0] for line in lines] == ["src/shoal/", "core/", "empty.py", "long.py"]
    assert lines[-1].endswith("…")
    assert len(lines[-1]) <= COLUMNS
