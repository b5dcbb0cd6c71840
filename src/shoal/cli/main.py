"""Main: the entry point. Every way a command can end is decided here, with its exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import TracebackType

import typer

from shoal.cli.app import app
from shoal.cli.face import Face, make_face, stop_writing
from shoal.core.errors import ExitCode, LocalMisuse, ShoalError, StorageFault

INTERNAL_ERROR = 1  # an error nobody foresaw


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Prints errors; raises nothing that was foreseen."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    face = _find_face(given)
    sys.excepthook = _Unforeseen(face)
    try:
        code = int(
            app(_name_optional_values(_move_first_options(given)), standalone_mode=False, prog_name="shoal")
            or 0
        )
        if code == ExitCode.INTERRUPTED:
            _show_interrupted(face)
        return code
    except typer.TyperException as error:
        if not error.format_message():  # no command was given: its help has been printed instead
            return ExitCode.USAGE
        _show_error(face, _usage_fault(error))
        return ExitCode.USAGE
    except ShoalError as error:
        _show_error(face, error)
        return INTERNAL_ERROR if error.code == "internal" else error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _show_interrupted(face)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        stop_writing(sys.stdout)  # its reader went away, e.g. `| head`
        return ExitCode.OK
    except SystemExit as ending:
        if not isinstance(ending.__context__, BrokenPipeError):
            raise
        stop_writing(sys.stdout)  # the same, seen by the parser first, which would call it a failure
        return ExitCode.OK
    except OSError as error:
        _show_error(
            face,
            StorageFault(
                "The command was not carried out",
                cause=f"{error.strerror or error}: {error.filename!r}" if error.filename else str(error),
                next_step="check the path, its permissions and the space on its disk",
            ),
        )
        return ExitCode.STORAGE


def _show_error(face: Face, error: ShoalError) -> None:
    """Print an error; where nobody reads it, the exit code alone says so. An object that cannot be written
    (a full disk) becomes lines.
    """
    try:
        face.show_error(error)
    except OSError as unwritten:
        stop_writing(sys.stdout if face.json else sys.stderr)
        if face.json and not isinstance(unwritten, BrokenPipeError):
            _show_error(Face(face.home, json=False), error)


def _show_interrupted(face: Face) -> None:
    """Tell a script why there is no result; a person knows."""
    if face.json:
        _show_error(
            face,
            ShoalError(
                "The command was interrupted",
                cause="it got a signal",
                next_step="what the node has begun goes on; run the command again to watch it",
                code="interrupted",
            ),
        )


def _find_face(arguments: list[str]) -> Face:
    """Return how to speak when the arguments themselves cannot be understood."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return make_face(None, "--json" in options)


def _move_first_options(arguments: list[str]) -> list[str]:
    """Let --json and --home stand before the command too: `shoal --json status`."""
    first: list[str] = []
    rest = list(arguments)
    while len(rest) > 1 and (rest[0] in ("--json", "--home") or rest[0].startswith("--home=")):
        count = 2 if rest[0] == "--home" else 1
        first += rest[:count]
        del rest[:count]
    end = rest.index("--") if "--" in rest else len(rest)
    return [*rest[:end], *first, *rest[end:]]


def _name_optional_values(arguments: list[str]) -> list[str]:
    """Make `get --wait` without a duration mean for ever: option values cannot be optional otherwise."""
    command = next((word for word in ("get", "pin") if word in arguments[:1]), "get")
    if command not in arguments:
        return arguments
    result = list(arguments)
    for i, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == "--wait" and i > arguments.index(command):
            following = arguments[i + 1] if i + 1 < len(arguments) else ""
            if not following[:1].isdigit() or os.sep in following:
                result[i] = "--wait=forever"
    return result


def _usage_fault(error: typer.TyperException) -> LocalMisuse:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "shoal"
    return LocalMisuse(
        "The command was not understood",
        cause=error.format_message().rstrip("."),
        next_step=f"see: {command} --help",
        code="usage",
    )


class _Unforeseen:
    """The interpreter's last hook: three lines instead of a traceback, which SHOAL_TRACEBACK=1 adds."""

    def __init__(self, face: Face) -> None:
        self._face = face

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        last = trace
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        where = f" at {last.tb_frame.f_code.co_filename}:{last.tb_lineno}" if last is not None else ""
        _show_error(
            self._face,
            ShoalError(
                "The command failed unexpectedly",
                cause=f"{kind.__name__}: {error}{where}",
                next_step="please report this, with the log file in the home's folder log",
                code="internal",
            ),
        )
        if os.environ.get("SHOAL_TRACEBACK") == "1":
            sys.__excepthook__(kind, error, trace)
