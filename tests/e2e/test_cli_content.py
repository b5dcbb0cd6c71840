"""The command line over real nodes: listing, getting a part, ignore files, pipes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from tests.e2e.conftest import MakeNetwork, code_of, wait_until

from shoal import connect
from shoal.core.units import KIB, MIB
from shoal.testing.processes import CommandFailed, Device
from shoal.testing.trees import find_difference

SEED = 20261123


def make_tree(root: Path) -> Path:
    rng = random.Random(SEED)
    for year in ("2023", "2024"):
        (root / year).mkdir(parents=True)
        (root / year / "large.raw").write_bytes(rng.randbytes(3 * MIB))
        for number in range(5):
            (root / year / f"small {number}.txt").write_bytes(rng.randbytes(7 * KIB))
    Path(os.fsdecode(os.fsencode(root) + b"/2024/\xff\x1b[2J.txt")).write_bytes(b"odd")
    (root / "link").symlink_to("2024/large.raw")
    (root / "2024" / "large.raw").chmod(0o640)
    os.utime(root / "2024" / "large.raw", ns=(0, 1_600_000_000 * 10**9))
    return root


def open_pipe(device: Device, *args: str, **streams: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        device.command(*args), env=device.environment, cwd=device.directory, stderr=subprocess.PIPE, **streams
    )


def pipe_out(device: Device, *args: str) -> tuple[int, bytes, str]:
    """Run a command to its end; return code, standard output as bytes, standard error."""
    done = open_pipe(device, *args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    out, err = done.communicate(timeout=60)
    return done.returncode, out, err.decode()


def test_listing_and_a_part(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    tree = make_tree(tmp_path / "photos")
    link = anna.run("share", "--wait", str(tree))["link"]
    page = bert.run("ls", link)
    assert set(page) == {"share_id", "name", "version", "content_id", "files", "bytes", "entries", "more"}
    assert (page["name"], page["version"], page["files"], page["more"]) == ("photos", 1, 13, 0)
    found = {entry["path"]: entry for entry in page["entries"]}
    assert found["photos/2024/large.raw"] == {
        "path": "photos/2024/large.raw",
        "kind": "file",
        "bytes": 3 * MIB,
        "mtime": "2020-09-13T12:26:40Z",
        "mode": "-rw-r-----",
    }
    assert found["photos/link"]["target"] == "2024/large.raw"
    assert found["photos/2023"] | {"mtime": "", "mode": ""} == {
        "path": "photos/2023",
        "kind": "folder",
        "bytes": None,
        "mtime": "",
        "mode": "",
    }
    odd = next(entry for entry in page["entries"] if "raw" in entry)
    assert odd["path"] == "photos/2024/\\xff\\x1b[2J.txt"
    assert set(odd["raw"]) == {"base64"}
    assert bert.run("ls", link, "2024/sm")["entries"] == [
        entry for path, entry in found.items() if path.startswith("photos/2024/small")
    ]
    short = bert.call("ls", link, "photos/2024", "--long", "--limit", "2")
    assert short.stdout.splitlines()[1].split() == [
        "-rw-r-----",
        "3.0",
        "MiB",
        "2020-09-13",
        "12:26",
        "photos/2024/large.raw",
    ]
    assert "6 more entries are not shown" in short.stderr
    assert all(ord(c) >= 32 or c == "\n" for c in bert.call("ls", link).stdout)
    with pytest.raises(CommandFailed) as failed:
        bert.run("ls", link, "2025")
    assert code_of(failed) == (2, "no_such_path")

    got = bert.run("get", link, "in", "--only", "2024", "--only", "nothing")
    assert (got["files"], got["unmatched"]) == (7, ["nothing"])
    assert got["bytes"] == 3 * MIB + 5 * 7 * KIB + 3
    assert find_difference(tree / "2024", bert.directory / "in" / "photos" / "2024") is None
    assert sorted(os.listdir(bert.directory / "in" / "photos")) == ["2024"]
    shared = bert.run("shares")["shares"][0]
    assert (shared["only"], shared["files"]) == (["2024", "nothing"], 7)
    with pytest.raises(CommandFailed) as failed:
        bert.run("get", link, "in", "--only", "*.png")
    assert code_of(failed) == (2, "nothing_selected")
    with pytest.raises(CommandFailed) as failed:
        bert.run("get", link, "in", "--only", "!2024")
    assert code_of(failed) == (2, "bad_pattern")
    whole = bert.run("get", link, "in")
    assert whole["reused_bytes"] >= 3 * MIB
    assert find_difference(tree, bert.directory / "in" / "photos") is None
    anna.stop()
    assert bert.run("ls", link)["files"] == 13  # what is here needs nobody


def test_ignore_files(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    tree = tmp_path / "work"
    for name in ("keep.txt", "a.tmp", "build/out", "src/b.tmp", "src/main.c"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    (tree / ".shoalignore").write_text("*.tmp\n/build/\n")
    done = anna.call("share", "--wait", str(tree))
    assert "3 files" in done.stderr
    assert "3 left out by .shoalignore" in done.stderr
    assert "skipped" not in done.stderr
    detail = anna.run("shares")["shares"][0]
    assert (detail["ignored"], detail["skipped"]) == (3, [])
    names = [entry["path"] for entry in bert.run("ls", detail["link"])["entries"]]
    assert names == ["work", "work/.shoalignore", "work/keep.txt", "work/src", "work/src/main.c"]
    (tree / ".shoalignore").write_text("a/**/b/**/c/**/d\n")
    with pytest.raises(CommandFailed) as failed:
        anna.run("share", "--wait", str(tree))
    assert code_of(failed) == (2, "bad_ignore")


def test_pipes(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    data = random.Random(SEED).randbytes(20 * MIB + 1)
    writer = open_pipe(
        anna, "share", "-", "--name", "dump.sql", "--wait", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    out, err = writer.communicate(data, timeout=60)
    assert writer.returncode == 0, err
    link = out.decode().strip()
    assert b"20.0 MiB kept in the home as dump.sql" in err
    code, got, err_text = pipe_out(bert, "get", link, "-")
    assert (code, got == data) == (0, True)
    assert "dump.sql, 20.0 MiB" in err_text
    assert bert.run("transfers") == {"transfers": []}
    assert bert.run("shares") == {"shares": []}

    reader = open_pipe(bert, "get", link, "-", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert reader.stdout is not None
    assert reader.stdout.read(1000) == data[:1000]
    reader.stdout.close()  # as `| head` does
    assert reader.stderr is not None
    assert reader.stderr.read() == b""
    assert reader.wait(10) == 0

    stopped = open_pipe(bert, "get", link, "-", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert stopped.stdout is not None
    stopped.stdout.read(1000)
    stopped.send_signal(signal.SIGINT)
    stopped.stdout.close()
    assert stopped.wait(10) == 130
    assert stopped.stderr is not None
    stopped.stderr.close()
    assert pipe_out(bert, "get", link, "-")[:2] == (0, data)  # nothing of them is in the way

    for arguments, code_word in (
        (("get", link, "-", "--json"), "usage"),
        (("get", link, "-", "--only", "nothing"), None),
        (("share", "-", "/tmp"), "usage"),
        (("share", "/tmp", "--name", "x"), "usage"),
        (("share", "-", "--name", "a/b"), None),
    ):
        code, got, err_text = pipe_out(bert, *arguments)
        assert code == 2, arguments
        assert "Traceback" not in err_text
        assert code_word is None or "json" in arguments[-1] or err_text.count("\n") == 3
    spool = anna.home / "spool"
    assert [path.name for path in spool.glob("*/*")] == ["dump.sql"]
    anna.run("unshare", link)
    assert list(spool.iterdir()) == []


def test_a_pipe_that_is_interrupted_shares_nothing(network: MakeNetwork, tmp_path: Path) -> None:
    (anna,) = network("anna")
    writer = open_pipe(anna, "share", "-", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert writer.stdin is not None
    writer.stdin.write(b"x" * 12 * MIB)
    writer.stdin.flush()
    spool = anna.home / "spool"
    wait_until(lambda: any(path.stat().st_size for path in spool.glob("*/*")))
    writer.send_signal(signal.SIGINT)
    assert writer.wait(10) == 130
    with suppress(BrokenPipeError):
        writer.stdin.close()
    assert writer.stderr is not None
    writer.stderr.close()
    wait_until(lambda: not list(spool.iterdir()))
    assert anna.run("shares") == {"shares": []}
    killed = open_pipe(anna, "share", "-", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert killed.stdin is not None
    killed.stdin.write(b"y" * 12 * MIB)
    killed.stdin.flush()
    wait_until(lambda: any(path.stat().st_size for path in spool.glob("*/*")))
    anna.kill()
    with suppress(BrokenPipeError):
        killed.stdin.close()
    assert killed.wait(10) == 5
    assert killed.stderr is not None
    assert b"The node went away" in killed.stderr.read()
    killed.stderr.close()
    assert list(spool.iterdir())
    anna.up()
    wait_until(lambda: not list(spool.iterdir()))


def test_from_python(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    with connect(anna.home) as shoal:
        share = shoal.wait_share(shoal.share_stream((b"%d\n" % i for i in range(100_000)), "numbers"))
    expected = b"".join(b"%d\n" % i for i in range(100_000))
    assert share.bytes == len(expected)
    with connect(bert.home) as shoal:
        pieces = shoal.get_stream(share.link)
        assert b"".join(pieces) == expected
        assert [entry.path for entry in shoal.ls(share.link).entries] == ["numbers"]
        assert shoal.get(share.link, tmp_path / "in", only=["num*"]).files == 1
