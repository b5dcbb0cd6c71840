"""Commands: what they print, to people and to scripts, and how they end; over a fake node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.fake_node import FAULTS, LINK, OTHER, FakeNode, serve

from shoal.api import schema as s
from shoal.api.paths import BytesPath
from shoal.cli.face import columns, printable
from shoal.cli.main import main
from shoal.cli.people import _describe_state
from shoal.core.errors import ShoalError


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    with serve(str(tmp_path / "home")) as fake:
        yield fake


Captured = pytest.CaptureFixture[str]


def run_json(capsys: Captured, *arguments: str) -> dict[str, object]:
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("invite",),
        ("peers",),
        ("members",),
        ("remove", "bert", "--yes"),
        ("leave", "--yes"),
        ("ping", "bert"),
        ("share", "/tmp"),
        ("shares",),
        ("unshare", "/tmp"),
        ("get", LINK),
        ("get", LINK, "--only", "*.jpg", "--only", "2024"),
        ("ls", LINK),
        ("ls", LINK, "photos", "--long"),
        ("transfers",),
        ("down",),
        ("pin", LINK),
        ("pins",),
        ("unpin", LINK),
        ("store", "status"),
        ("store", "verify"),
        ("store", "gc"),
        ("limits",),
        ("limits", "--upload", "1 MB/s", "--peer", "bert"),
        ("doctor",),
        ("config", "show"),
        ("config", "path"),
    ],
)
def test_every_command_speaks_json_and_plain(
    node: FakeNode, capsys: Captured, arguments: tuple[str, ...]
) -> None:
    assert run_json(capsys, *arguments)
    assert main(list(arguments)) == 0
    out, _ = capsys.readouterr()
    assert out.strip()
    assert "\x1b" not in out


def test_interface_of_get(node: FakeNode, capsys: Captured) -> None:
    assert run_json(capsys, "get", LINK, "/tmp") == {
        "files": 2,
        "bytes": 100,
        "seconds": 1.5,
        "fetched_bytes": 90,
        "refetched_bytes": 0,
        "reused_bytes": 10,
        "resumed": False,
        "skipped": [],
        "providers": {OTHER: 90},
        "manifest_bytes": 0,
    }


def test_a_part_is_asked_for(node: FakeNode, capsys: Captured) -> None:
    run_json(capsys, "get", LINK, "/tmp", "--only", "*.jpg", "--only", "p\udcff")
    request = node.asked[0][1]
    assert isinstance(request, s.GetRequest)
    assert request.only == ["*.jpg", BytesPath("cP8=")]


def test_a_listing_for_people(node: FakeNode, capsys: Captured) -> None:
    assert main(["ls", LINK]) == 0
    out, err = capsys.readouterr()
    assert out == "photos/\nphotos/a\\x1b[2J\n"
    assert "2 more entries are not shown" in err
    assert main(["ls", LINK, "photos", "-l", "--limit", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["drwxr-xr-x", "-", "2026-11-22", "10:58", "photos/"]
    assert lines[1].split() == ["-rw-r--r--", "2.0", "KiB", "2026-11-22", "10:58", "photos/a\\x1b[2J"]
    assert [getattr(request, "limit", 0) for name, request in node.asked if name == "ls"] == [1000, 5]


def test_share_is_null_until_complete_and_wait_fills_it(node: FakeNode, capsys: Captured) -> None:
    first = run_json(capsys, "share", "/tmp")
    assert (first["complete"], first["content_id"], first["files"], first["bytes"]) == (
        False,
        None,
        None,
        None,
    )
    waited = run_json(capsys, "share", "--wait", "/tmp")
    assert (waited["complete"], waited["content_id"], waited["files"], waited["bytes"]) == (
        True,
        "shc1x",
        2,
        100,
    )
    assert set(first) == set(waited)


@pytest.mark.parametrize(
    ("arguments", "wait_s"),
    [((), 0.0), (("--wait",), None), (("--wait", "30"), 30.0), (("--wait=2m",), 120.0)],
)
def test_wait_takes_an_optional_duration(
    node: FakeNode, capsys: Captured, arguments: tuple[str, ...], wait_s: float | None
) -> None:
    run_json(capsys, "get", *arguments, LINK, "/tmp")
    request = next(r for name, r in node.asked if name == "get")
    assert isinstance(request, s.GetRequest)
    assert (request.wait_s, request.link, request.dest) == (wait_s, LINK, "/tmp")


def test_paths_are_resolved_by_the_caller(
    node: FakeNode, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    run_json(capsys, "share", "a", "b/../c")
    run_json(capsys, "get", LINK)
    share, get = (r for name, r in node.asked if name in ("share", "get"))
    assert isinstance(share, s.ShareRequest)
    assert isinstance(get, s.GetRequest)
    assert share.paths == [str(tmp_path / "a"), str(tmp_path / "c")]
    assert get.dest == str(tmp_path)


@pytest.mark.parametrize(("fault", "code"), FAULTS)
def test_errors_are_one_object_or_three_lines(
    node: FakeNode, capsys: Captured, fault: ShoalError, code: int
) -> None:
    node.fail = fault
    assert main(["status", "--json"]) == code
    out, err = capsys.readouterr()
    assert err == ""
    assert set(json.loads(out)["error"]) == {"code", "message", "cause", "next_step"}
    assert main(["status"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["share"],
        ["share", "--watch", "--no-watch", "/tmp"],
        ["get", "--nope"],
        ["invite", "--role", "king"],
        ["invite", "--expires", "soon"],
        ["transfers", "--pause", "a", "--cancel", "a"],
        ["transfers", "--pause", "a", "--failed"],
        ["remove"],
    ],
)
def test_usage_errors_have_code_2(node: FakeNode, capsys: Captured, arguments: list[str]) -> None:
    assert main([*arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["next_step"]
    assert main(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize("first", [["--json"], ["--json", "--home", "HOME"], ["--home=HOME", "--json"]])
def test_common_options_may_come_first(
    node: FakeNode, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: list[str]
) -> None:
    if len(first) > 1:
        monkeypatch.delenv("SHOAL_HOME")
    arguments = [word.replace("HOME", str(tmp_path / "home")) for word in first]
    assert main([*arguments, "status"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "anna"
    assert main([*arguments, "share", "--", "-odd name"]) == 0
    assert json.loads(capsys.readouterr().out)["link"] == LINK


@pytest.mark.parametrize("arguments", [[], ["config"]])
def test_no_command_is_answered_with_help_alone(capsys: Captured, arguments: list[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert "Usage: shoal" in out + err
    assert "not understood" not in out + err


@pytest.mark.parametrize("arguments", [["remove", "bert"], ["leave"]])
def test_what_is_for_good_needs_a_yes_where_nobody_can_be_asked(
    node: FakeNode, capsys: Captured, arguments: list[str]
) -> None:
    assert main(arguments) == 4
    assert "--yes" in capsys.readouterr().err
    assert node.asked == []
    assert main([*arguments, "--yes"]) == 0
    assert len(node.asked) == 1


def test_remove_asks_about_a_device_that_there_is(
    node: FakeNode, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[str] = []

    def refuse(question: str, err: bool) -> bool:
        questions.append(question)
        return False

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", refuse)
    for text in ("bert", OTHER[:12]):
        assert main(["remove", text]) == 4
    assert questions == [f"Remove bert, member, {OTHER[:12]}, for good?"] * 2
    assert main(["remove", "nosuch"]) == 2
    assert len(questions) == 2
    assert "There is no member 'nosuch'" in capsys.readouterr().err
    assert [name for name, _ in node.asked] == ["members"] * 3


def test_status_says_how_many_of_how_many_are_connected(node: FakeNode, capsys: Captured) -> None:
    assert main(["status"]) == 0
    assert "peers      2 of 2 connected" in capsys.readouterr().out


def test_share_says_what_it_left_out(node: FakeNode, capsys: Captured) -> None:
    node.skipped = ["photos/pipe\x1b[2J"]
    assert main(["share", "/tmp", "--wait"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{LINK}\n"
    assert "skipped: photos/pipe\\x1b[2J" in err


def test_transfers_say_from_whom_and_why_not(node: FakeNode, capsys: Captured) -> None:
    assert main(["transfers"]) == 0
    assert "t1 from bert 90 B" in capsys.readouterr().out
    node.error = s.ErrorBody("io", "Writing to /x failed", "/x: Not a directory", "check that path")
    assert main(["transfers"]) == 0
    assert "t1: Writing to /x failed: /x: Not a directory" in capsys.readouterr().out


def test_shares_say_why_not(node: FakeNode, capsys: Captured) -> None:
    node.error = s.ErrorBody("misuse", "/x cannot be shared", "it is neither a file nor a folder", "")
    assert main(["shares"]) == 0
    assert "  /x cannot be shared: it is neither a file nor a folder" in capsys.readouterr().out


def test_names_of_others_cannot_move_the_cursor(node: FakeNode, capsys: Captured) -> None:
    assert main(["peers"]) == 0
    out = capsys.readouterr().out
    assert "bert\\x1b[2J" in out


def test_printable_shows_any_bytes() -> None:
    assert printable("a\nb\udcff") == "a\\nb\\xff"
    assert printable("ünï") == "ünï"


def test_columns_align() -> None:
    assert columns([["a", "bb"], ["ccc", "d"]], ["X", "Y"]) == ["X    Y", "a    bb", "ccc  d"]


def test_a_long_first_column_gives_way_before_the_last_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((24, 20)))
    rows = [["a-very-long-name-of-it", "192.0.2.1:4"], ["b", "192.0.2.2:4"]]
    assert columns(rows, gives_way=0) == ["a-very-lon…  192.0.2.1:4", "b            192.0.2.2:4"]
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((12, 20)))
    assert columns(rows, gives_way=0) == ["a-very-…  1…", "b         1…"]


def test_neighbours_are_named_where_not_everybody_is_one() -> None:
    near = s.Peer("shp1" + "a" * 60, "anna", "connected", ["192.0.2.1:1"], 1.0, neighbour=True)
    gone = s.Peer("shp1" + "b" * 60, "bert", "offline", [], None, reason="shutdown")
    assert [_describe_state(peer, True) for peer in (near, gone)] == ["neighbour", "offline (stopped)"]
    assert _describe_state(near, False) == "connected"


def test_background_is_asked_for(node: FakeNode, capsys: Captured) -> None:
    run_json(capsys, "share", "--background", "a")
    run_json(capsys, "get", LINK, "--background")
    share, get = (r for name, r in node.asked if name in ("share", "get"))
    assert isinstance(share, s.ShareRequest)
    assert isinstance(get, s.GetRequest)
    assert share.background
    assert get.background


def _run_unread(stream: str, *arguments: str, home: Path) -> tuple[int, str]:
    """Run a command of which nobody reads `stream`; return its exit code and what the other stream got."""
    reading, writing = os.pipe()
    os.close(reading)
    other = "stderr" if stream == "stdout" else "stdout"
    streams = {stream: writing, other: subprocess.PIPE}
    command = [sys.executable, "-m", "shoal", *arguments, "--home", str(home)]
    with subprocess.Popen(command, text=True, stdin=subprocess.DEVNULL, **streams) as process:
        os.close(writing)
        told = process.communicate(timeout=60)[0 if other == "stdout" else 1]
    return process.returncode, told


@pytest.mark.parametrize("word", ["status", "no-such-command"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_an_error_that_nobody_reads_is_its_exit_code(tmp_path: Path, word: str, stream: str) -> None:
    options = ["--json"] if stream == "stdout" else []
    code, told = _run_unread(stream, word, *options, home=tmp_path)
    assert (code, told) == (main([word, "--home", str(tmp_path)]), "")
    assert code != 0


@pytest.mark.parametrize("arguments", [("peers", "--help"), ("config", "show")])
def test_output_that_nobody_reads_is_no_failure(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert _run_unread("stdout", *arguments, home=tmp_path) == (0, "")


def test_an_error_that_cannot_be_written_as_an_object_is_told_in_lines(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shoal", "status", "--json", "--home", str(tmp_path)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == main(["status", "--home", str(tmp_path)])
    assert done.stderr.startswith("shoal: ")
    assert "Traceback" not in done.stderr


def test_shares_by_state_or_kind(node: FakeNode, capsys: Captured) -> None:
    assert main(["shares", "--state", "own"]) == 0
    out, err = capsys.readouterr()
    assert "photos" in out
    assert err == "1 of 1 share\n"
    assert main(["shares", "--state", "changed"]) == 0
    out, err = capsys.readouterr()
    assert out == "nothing is shared\n"
    assert err == "0 of 1 share\n"
    assert main(["shares", "--state", "odd"]) == 2
    assert "watched" in capsys.readouterr().err
