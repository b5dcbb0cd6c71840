"""Care: commands about the node's health and settings. They work without a running node."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Literal

import typer
from msgspec import UNSET, Struct, structs

from shoal.cli import complete
from shoal.cli.face import Face, HomeOption, JsonOption, make_face, printable, wrapped_columns
from shoal.core.errors import ConfigFault, ExitCode, Unavailable
from shoal.storage.home import has_network

config_app = typer.Typer(help="Show and change settings.", no_args_is_help=True)


JOINED_KEYS = ("name", "user")  # others know them from when the device joined


class SettingRow(Struct, frozen=True):
    """One setting: its value and where that came from; `next`: what the file says for the next start."""

    key: str
    value: object
    origin: str
    next: object = UNSET


class Settings(Struct, frozen=True):
    """All settings: of the node if it is `running`, else of its next start."""

    file: str
    settings: list[SettingRow]
    running: bool = False


class StoredSetting(Struct, frozen=True):
    """What was written into the file. `counts`: from the next start, or when a device joins: never again."""

    key: str
    value: object
    origin: str
    counts: Literal["next_start", "join"]


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
    rows = []
    for check in checks:
        rows.append([check.state.upper() if check.state != "ok" else "ok", check.name, check.detail])
        if check.state != "ok" and check.next_step:
            rows.append(["", "", f"-> {check.next_step}"])
    lines = wrapped_columns(rows)
    face.show(structs.replace(report, checks=checks), lines)
    if any(c.state == "fail" for c in checks):
        raise typer.Exit(ExitCode.CONFIG)


@config_app.command("show")
def show(home: HomeOption = None, json: JsonOption = False) -> None:
    """Show every setting, its value and where it came from: of the running node, if it runs."""
    from shoal.node.config import load_config

    face = make_face(home, json)
    config = load_config(face.home)
    stored = [SettingRow(key, value, config.origins[key]) for key, value in config.settings().items()]
    rows, running = stored, False
    with suppress(Unavailable, ConfigFault), face.connect() as client:  # where none runs, the next start's
        used = {x.key: SettingRow(x.key, x.value, x.origin) for x in client.settings()}
        rows, running = [_compare(used[x.key], x) for x in stored if x.key in used], True
    lines = wrapped_columns([["KEY", "FROM", "VALUE"], *([r.key, r.origin, _format(r.value)] for r in rows)])
    for row in rows:
        if row.next is not UNSET:
            lines.append(printable(f"{row.key} is {_format(row.next)} in the file: from the next start"))
    face.show(Settings(config.path, rows, running), lines)


@config_app.command("set")
def set_(
    key: Annotated[str, typer.Argument(metavar="KEY", autocompletion=complete.settings)],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="Several are separated by commas.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Write a setting into the home's config.toml. It counts from the next start."""
    from shoal.node.config import store_setting

    face = make_face(home, json)
    stored = store_setting(face.home, key, value)
    joined = key in JOINED_KEYS and has_network(face.home)
    face.show(
        StoredSetting(key, stored, "file", "join" if joined else "next_start"), [f"{key} = {_format(stored)}"]
    )
    if joined:
        face.tell("It counts when a device joins. This one has: others go on knowing it as before.")
    elif _runs(face):
        face.tell("It counts from the next start: shoal down, then shoal up.")
    else:
        face.tell("It counts from the next start.")


@config_app.command("path")
def path(home: HomeOption = None, json: JsonOption = False) -> None:
    """Print where the settings are read from."""
    from shoal.node.config import find_config_path

    face = make_face(home, json)
    file = find_config_path(face.home)
    face.show(SettingsFile(file), [file])


def _compare(used: SettingRow, stored: SettingRow) -> SettingRow:
    """Return what a node uses, and what the file says since. Flags and variables come before the file."""
    changed = used.value != stored.value and used.origin in ("file", "default")
    return structs.replace(used, next=stored.value) if changed and stored.origin != "environment" else used


def _runs(face: Face) -> bool:
    with suppress(Unavailable, ConfigFault), face.connect() as client:
        client.status()
        return True
    return False


def _format(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return (", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)) or "-"
