"""Care: commands about the node's health and settings. They work without a running node."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec import Struct, structs

from shoal.cli.face import HomeOption, JsonOption, columns, make_face, printable
from shoal.core.errors import ConfigFault, ExitCode, Unavailable

config_app = typer.Typer(help="Show and change settings.", no_args_is_help=True)


class SettingRow(Struct, frozen=True):
    """One setting: its value and where that came from."""

    key: str
    value: object
    origin: str


class Settings(Struct, frozen=True):
    """All settings."""

    file: str
    settings: list[SettingRow]


class SettingsFile(Struct, frozen=True):
    """Where the settings are read from."""

    file: str


def doctor(home: HomeOption = None, json: JsonOption = False) -> None:
    """Check clock, ports, disk and permissions, and say what to do about what is wrong."""
    from shoal.api.schema import Report
    from shoal.node.doctor import examine

    face = make_face(home, json)
    checks = examine(face.home)
    report = Report(checks=[])
    try:
        with face.connect() as client:
            report = client.diagnose()
    except (Unavailable, ConfigFault):
        pass  # no node runs; the local checks have said so
    checks += report.checks
    lines = columns([[c.state.upper() if c.state != "ok" else "ok", c.name, c.detail] for c in checks])
    lines += [f"{c.name}: {printable(c.next_step)}" for c in checks if c.state != "ok" and c.next_step]
    face.show(structs.replace(report, checks=checks), lines)
    if any(c.state == "fail" for c in checks):
        raise typer.Exit(ExitCode.CONFIG)


@config_app.command("show")
def show(home: HomeOption = None, json: JsonOption = False) -> None:
    """Show every setting, its value and where it came from."""
    from shoal.node.config import load_config

    face = make_face(home, json)
    config = load_config(face.home)
    rows = [SettingRow(key, value, config.origins[key]) for key, value in config.settings().items()]
    face.show(
        Settings(config.path, rows),
        columns([[r.key, _format(r.value), r.origin] for r in rows], ["KEY", "VALUE", "FROM"]),
    )


@config_app.command("set")
def set_(
    key: Annotated[str, typer.Argument(metavar="KEY")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="Several are separated by commas.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Write a setting into the home's config.toml. It counts from the next start."""
    from shoal.node.config import store_setting

    face = make_face(home, json)
    stored = store_setting(face.home, key, value)
    face.show(SettingRow(key, stored, "file"), [f"{key} = {_format(stored)}"])


@config_app.command("path")
def path(home: HomeOption = None, json: JsonOption = False) -> None:
    """Print where the settings are read from."""
    from shoal.node.config import find_config_path

    face = make_face(home, json)
    file = find_config_path(face.home)
    face.show(SettingsFile(file), [file])


def _format(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return (", ".join(map(str, value)) or "-") if isinstance(value, list | tuple) else str(value)
