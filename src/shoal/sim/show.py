"""Show: prints what a command found for people; `--json` is for everybody else."""

from __future__ import annotations

from typing import Any

ITEMS = 12  # of a list of numbers


def show(result: dict[str, Any], indent: str = "") -> None:
    """Print keys and values, a line each; bounds as a table, tables within tables further in."""
    for key, value in result.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            show(value, indent + "  ")
        elif key == "bounds":
            for row in value:
                _show_bound(row)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for row in value:
                cells = "  ".join(f"{name} {_format(cell)}" for name, cell in row.items())
                print(f"{indent}{key:<26} {cells}")
        elif isinstance(value, list):
            more = f" ... ({len(value)})" if len(value) > ITEMS else ""
            print(f"{indent}{key:<26} " + " ".join(_format(item) for item in value[:ITEMS]) + more)
        elif isinstance(value, str):
            print(f"{indent}{key}\n{value}")
        else:
            print(f"{indent}{key:<26} {_format(value)}")


def _show_bound(row: dict[str, Any]) -> None:
    verdict = "ok  " if row["ok"] else "FAIL"
    print(f"{verdict} {row['name']:<32} {_format(row['value']):>12}   {_format_bound(*row['bound'])}")


def _format_bound(low: float | None, high: float | None) -> str:
    if low is None:
        return "" if high is None else f"at most {_format(high)}"
    if high is None:
        return f"at least {_format(low)}"
    return _format(low) if low == high else f"{_format(low)} to {_format(high)}"


def _format(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
