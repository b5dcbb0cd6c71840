"""The command line over real nodes: files of every kind, attaching, resuming, unsharing."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.e2e.conftest import MakeNetwork, code_of, wait_until

from shoal import connect
from shoal.core.errors import Refused
from shoal.core.units import KIB, MIB
from shoal.testing.processes import CommandFailed, Device
from shoal.testing.trees import find_difference, write_random_file, write_seeded_tree

SEED = 20261122

SHARE_KEYS = {"link", "share_id", "complete", "content_id", "files", "bytes"}
GET_KEYS = {
    "files",
    "bytes",
    "seconds",
    "fetched_bytes",
    "refetched_bytes",
    "reused_bytes",
    "resumed",
    "skipped",
    "providers",
    "manifest_bytes",
}


def make_tree(target: Path) -> Path:
    write_seeded_tree(target, random.Random(SEED), 8 * MIB)
    odd = target / "odd"
    odd.mkdir()
    (odd / "ünï ço∂e").write_text("x")
    Path(os.fsdecode(os.fsencode(odd) + b"/bytes \xff\xfe")).write_bytes(b"not UTF-8")
    (odd / "line\nbreak").write_text("y")
    (odd / "executable").write_text("#!/bin/sh\n")
    (odd / "executable").chmod(0o750)
    (odd / "inside").symlink_to("../odd/executable")
    with (odd / "sparse").open("wb") as file:
        file.seek(64 * MIB)
        file.write(b"end")
    os.utime(odd / "executable", ns=(1_000_000_000, 1_234_567_891_234_567_891))
    odd.chmod(0o711)
    return target


def start_get(device: Device, *args: str) -> None:
    """Start a get and stop watching it once the node knows of it."""
    process = device.popen("get", *args)
    try:
        wait_until(lambda: bool(device.run("transfers")["transfers"]))
    finally:
        process.terminate()
        process.communicate()


def test_share_and_get_a_tree(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    tree = make_tree(tmp_path / "tree")
    share = anna.run("share", str(tree))
    assert set(share) == SHARE_KEYS
    assert re.fullmatch(r"shl1[a-z2-7]+", share["link"])
    done = anna.run("share", "--wait", str(tree))
    assert (done["link"], done["share_id"], done["complete"]) == (share["link"], share["share_id"], True)
    assert re.fullmatch(r"shc1[a-z2-7]+", done["content_id"])
    target = tmp_path / "in"
    target.mkdir()
    got = bert.run("get", share["link"], str(target))
    assert set(got) == GET_KEYS
    assert find_difference(tree, target / "tree") is None
    assert (got["files"], got["bytes"]) == (done["files"], done["bytes"])
    assert got["skipped"] == []
    assert got["refetched_bytes"] == 0
    assert not got["resumed"]
    assert got["providers"] == {anna.run("status")["peer_id"]: got["fetched_bytes"]}
    sparse = (target / "tree" / "odd" / "sparse").stat()
    assert sparse.st_blocks * 512 < MIB
    assert sorted(os.listdir(target)) == ["tree"]


def test_dest_defaults_to_the_callers_directory_and_stdin_gives_the_link(
    network: MakeNetwork, tmp_path: Path
) -> None:
    anna, bert = network("anna", "bert")
    (anna.directory / "note.txt").write_text("hello")
    link = anna.run("share", "--wait", "note.txt", cwd=anna.directory)["link"]
    here = tmp_path / "here"
    here.mkdir()
    bert.run("get", stdin=f"{link}\n", cwd=here)
    assert (here / "note.txt").read_text() == "hello"
    assert bert.run("get", link, "sub", cwd=here)["files"] == 1
    assert (here / "sub" / "note.txt").read_text() == "hello"


def test_several_paths_are_one_share(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "three").write_text("three")
    paths = [str(tmp_path / name) for name in ("one", "two", "three")]
    share = anna.run("share", "--wait", *paths)
    assert share["files"] == 3
    bert.run("get", share["link"], str(tmp_path / "in"))
    for name in ("one", "two", "three"):
        assert find_difference(tmp_path / name, tmp_path / "in" / name) is None


def test_a_changed_tree_is_a_new_version_of_the_same_link(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    tree = tmp_path / "tree"
    write_seeded_tree(tree, random.Random(SEED), 6 * MIB)
    first = anna.run("share", "--wait", str(tree))
    bert.run("get", first["link"], str(tmp_path / "in"))
    (tree / "more").write_text("more")
    second = anna.run("share", "--wait", str(tree))
    assert second["share_id"] == first["share_id"]
    assert second["content_id"] != first["content_id"]
    got = bert.run("get", second["link"], str(tmp_path / "in"))
    assert find_difference(tree, tmp_path / "in" / "tree") is None
    assert got["reused_bytes"] > 5 * MIB
    assert got["fetched_bytes"] < 2 * MIB


def test_symlinks_that_lead_out_are_skipped_and_listed(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("x")
    (tree / "good").symlink_to("file")
    (tree / "absolute").symlink_to("/etc/passwd")
    (tree / "out").symlink_to("../../secret")
    share = anna.run("share", "--wait", str(tree))
    got = bert.run("get", share["link"], str(tmp_path / "in"))
    assert sorted(path.rsplit("/", 1)[-1] for path in got["skipped"]) == ["absolute", "out"]
    assert sorted(os.listdir(tmp_path / "in" / "tree")) == ["file", "good"]


def test_a_different_file_is_never_overwritten_unasked(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "same").write_text("same")
    (tree / "other").write_text("theirs")
    share = anna.run("share", "--wait", str(tree))
    here = tmp_path / "in" / "tree"
    here.mkdir(parents=True)
    (here / "other").write_text("mine")
    with pytest.raises(CommandFailed) as failed:
        bert.run("get", share["link"], str(tmp_path / "in"))
    assert code_of(failed)[0] == 4
    assert "--overwrite" in failed.value.error["next_step"]
    assert (here / "other").read_text() == "mine"
    bert.run("get", "--overwrite", share["link"], str(tmp_path / "in"))
    assert find_difference(tree, here) is None


def test_ctrl_c_stops_watching_and_nothing_else(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    write_random_file(tmp_path / "big", 8 * MIB)
    link = anna.run("share", "--wait", str(tmp_path / "big"))["link"]
    anna.stop()
    process = bert.popen("get", "--wait", link, str(tmp_path / "in"))
    wait_until(lambda: bool(bert.run("transfers")["transfers"]))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert json.loads(out)["error"]["code"] == "interrupted"
    assert "Traceback" not in err
    anna.up()
    wait_until(lambda: bert.run("transfers")["transfers"][0]["state"] == "done")
    assert find_difference(tmp_path / "big", tmp_path / "in" / "big") is None


def test_getting_again_is_done_at_once(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    write_random_file(tmp_path / "big", 16 * MIB)
    link = anna.run("share", "--wait", str(tmp_path / "big"))["link"]
    bert.run("get", link, str(tmp_path / "in"))
    before = (tmp_path / "in" / "big").stat()
    got = bert.run("get", link, str(tmp_path / "in"))
    assert got["reused_bytes"] == 16 * MIB
    assert (tmp_path / "in" / "big").stat().st_ino == before.st_ino


def test_getters_serve_each_other(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert, carl = network("anna", "bert", "carl")
    write_random_file(tmp_path / "big", 24 * MIB)
    link = anna.run("share", "--wait", str(tmp_path / "big"))["link"]
    bert.run("get", link, str(tmp_path / "b"))
    bert_id = bert.run("status")["peer_id"]
    anna.stop()
    got = carl.run("get", link, str(tmp_path / "c"))
    assert got["providers"] == {bert_id: 24 * MIB}
    assert find_difference(tmp_path / "big", tmp_path / "c" / "big") is None
    rows = [(x["own"], x["complete"]) for x in bert.run("shares")["shares"]]
    assert rows == [(False, True)]


def test_get_waits_for_the_sharer_and_goes_on_after_kill(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    write_random_file(tmp_path / "big", 96 * MIB)
    link = anna.run("share", "--wait", str(tmp_path / "big"))["link"]
    anna.stop()
    start_get(bert, "--wait", link, str(tmp_path / "in"))
    assert bert.run("transfers")["transfers"][0]["state"] in ("queued", "finding")
    anna.up()
    wait_until(lambda: bert.run("transfers")["transfers"][0]["done_bytes"] > 0)
    bert.kill()
    bert.up()
    got = bert.run("get", link, str(tmp_path / "in"))
    assert find_difference(tmp_path / "big", tmp_path / "in" / "big") is None
    assert got["refetched_bytes"] <= 32 * MIB
    rows = bert.run("transfers")["transfers"]
    assert [(r["state"], r["done_bytes"]) for r in rows] == [("done", 96 * MIB)]
    assert set(rows[0]) == {"id", "share_id", "state", "bytes", "done_bytes", "rate_bytes_s", "providers"}


def test_pause_resume_cancel(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    write_random_file(tmp_path / "big", 16 * MIB)
    link = anna.run("share", "--wait", str(tmp_path / "big"))["link"]
    anna.stop()
    start_get(bert, "--wait", link, str(tmp_path / "in"))
    transfer = bert.run("transfers")["transfers"][0]["id"]
    assert bert.run("transfers", "--pause", transfer)["state"] == "paused"
    anna.up()
    time.sleep(1)
    assert bert.run("transfers")["transfers"][0]["state"] == "paused"
    bert.run("transfers", "--resume", transfer)
    wait_until(lambda: bert.run("transfers")["transfers"][0]["state"] == "done")
    with pytest.raises(CommandFailed) as failed:
        bert.run("transfers", "--cancel", "nonsense")
    assert code_of(failed) == (2, "unknown_transfer")
    assert failed.value.error["cause"].startswith("no transfer has the id")


def test_who_watches_a_get_that_is_cancelled_is_told_so(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    write_random_file(tmp_path / "big", MIB)
    link = anna.run("share", "--wait", str(tmp_path / "big"))["link"]
    anna.stop()
    watching = bert.popen("get", "--wait", link, str(tmp_path / "in"))
    wait_until(lambda: bool(bert.run("transfers")["transfers"]))
    bert.run("transfers", "--cancel", bert.run("transfers")["transfers"][0]["id"])
    out, _ = watching.communicate(timeout=60)
    assert watching.returncode == 4
    assert json.loads(out)["error"]["code"] == "cancelled"


def test_what_is_not_there_cannot_be_ended_whatever_it_is(network: MakeNetwork) -> None:
    (anna,) = network("anna")
    for command in ("unpin", "unshare", "unfollow"):
        with pytest.raises(CommandFailed) as failed:
            anna.run(command, "nosuch")
        assert code_of(failed)[0] == 2


def test_the_python_client_does_what_the_commands_do(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    write_seeded_tree(tmp_path / "tree", random.Random(SEED), 2 * MIB)
    seen: list[str] = []
    with connect(str(anna.home)) as sharer, connect(str(bert.home)) as getter:
        assert sharer.status().name == "anna"
        link = sharer.share(tmp_path / "tree", wait=True).link
        result = getter.get(link, tmp_path / "in", on_progress=lambda t: seen.append(t.state))
        assert result.providers == {sharer.status().peer_id: result.fetched_bytes}
        assert getter.transfers()[0].state == seen[-1] == "done"
        with pytest.raises(Refused):
            getter.remove("anna")
    assert find_difference(tmp_path / "tree", tmp_path / "in" / "tree") is None


def test_importing_shoal_loads_next_to_nothing() -> None:
    heavy = "{'asyncio', 'httpx', 'msgspec', 'nacl', 'cryptography', 'typer'}"
    code = f"import sys, shoal; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unshare_by_path_means_the_share_of_that_path_alone(network: MakeNetwork, tmp_path: Path) -> None:
    (anna,) = network("anna")
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    both = anna.run("share", "--wait", one, two)
    alone = anna.run("share", "--wait", one)
    assert anna.run("unshare", one)["share_id"] == alone["share_id"]
    assert [x["share_id"] for x in anna.run("shares")["shares"]] == [both["share_id"]]
    assert anna.run("unshare", "one and 1 more")["share_id"] == both["share_id"]


def test_unshare_stops_serving(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    (tmp_path / "file").write_bytes(os.urandom(64 * KIB))
    share = anna.run("share", "--wait", str(tmp_path / "file"))
    assert [x["share_id"] for x in anna.run("shares")["shares"]] == [share["share_id"]]
    assert anna.run("unshare", str(tmp_path / "file"))["share_id"] == share["share_id"]
    assert anna.run("shares") == {"shares": []}
    with pytest.raises(CommandFailed) as failed:
        bert.run("get", share["link"], str(tmp_path / "in"))
    assert code_of(failed)[0] == 5
    with pytest.raises(CommandFailed) as failed:
        anna.run("unshare", str(tmp_path / "file"))
    assert code_of(failed) == (2, "not_shared")
    again = anna.run("share", "--wait", str(tmp_path / "file"))
    anna.run("unshare", again["link"])
    assert anna.run("shares") == {"shares": []}


def test_shares_survive_a_restart(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    (tmp_path / "file").write_bytes(os.urandom(MIB))
    share = anna.run("share", "--wait", str(tmp_path / "file"))
    anna.kill()
    anna.up()
    anna.wait_peers(1)
    assert bert.run("get", share["link"], str(tmp_path / "in"))["bytes"] == MIB
