"""Watched shares and copies that follow them, by the command line over real nodes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.e2e.conftest import MakeNetwork, wait_until

from shoal.testing.processes import CommandFailed
from shoal.testing.trees import find_difference


def test_a_watched_share_and_a_follower(tmp_path: Path, network: MakeNetwork) -> None:
    anna, bert = network("anna", "bert")
    tree, dest = tmp_path / "tree", tmp_path / "copy"
    tree.mkdir()
    (tree / "one").write_text("1")
    link = anna.run("share", "--watch", "--wait", str(tree))["link"]
    wait_until(lambda: not anna.run("shares")["shares"][0]["note"], 10)
    assert anna.run("shares")["shares"][0]["watching"]
    follow = bert.run("follow", link, str(dest), "--wait", "--keep", "1d", "--keep-count", "3")
    assert follow["state"] == "current"
    assert follow["version"] == 1
    (tree / "one").write_text("changed")
    (tree / "two").write_text("2")
    changed_at = time.monotonic()
    wait_until(lambda: (dest / "tree" / "two").exists(), 15)
    print(f"visible after {time.monotonic() - changed_at:.1f} s")
    wait_until(lambda: bert.run("follows")["follows"][0]["state"] == "current", 15)
    wait_until(lambda: find_difference(tree, dest / "tree") is None, 15)
    assert [p.read_text() for p in (dest / ".shoal-versions").glob("*/tree/one")] == ["1"]
    bert.kill()
    (tree / "two").unlink()
    bert.up()
    wait_until(lambda: find_difference(tree, dest / "tree") is None, 30)
    with pytest.raises(CommandFailed) as refused:
        bert.run("get", link, str(tmp_path / "other"))
    assert refused.value.error["code"] == "followed"
    assert "current" in bert.call("follows").stdout
    assert bert.run("unfollow", str(dest))["name"] == "tree"
    assert bert.run("follows")["follows"] == []
    assert anna.run("share", "--no-watch", str(tree))["link"] == link
    assert not anna.run("shares")["shares"][0]["watching"]


def test_waiting_for_a_follow_that_fails_ends_as_a_get_does(tmp_path: Path, network: MakeNetwork) -> None:
    anna, bert = network("anna", "bert")
    tree, dest = tmp_path / "tree", tmp_path / "copy"
    tree.mkdir()
    (tree / "one").write_text("1")
    (dest / "tree").mkdir(parents=True)
    (dest / "tree" / "one").write_text("mine")
    link = anna.run("share", "--wait", str(tree))["link"]
    with pytest.raises(CommandFailed) as got:
        bert.run("get", link, str(dest))
    with pytest.raises(CommandFailed) as failed:
        bert.run("follow", link, str(dest), "--wait")
    assert failed.value.error == got.value.error
    assert failed.value.code == got.value.code
    told = bert.call("follow", link, str(dest), "--wait")
    assert told.returncode == got.value.code
    assert "shoal: " in told.stderr
    (dest / "tree" / "one").unlink()
    assert bert.run("follow", link, str(dest), "--wait")["state"] == "current"


def test_a_follow_is_ended_by_its_name(tmp_path: Path, network: MakeNetwork) -> None:
    anna, bert = network("anna", "bert")
    (tmp_path / "copies").mkdir()
    for number in "12":
        (tmp_path / number / "tree").mkdir(parents=True)
        (tmp_path / number / "tree" / "file").write_text(number)
        link = anna.run("share", "--wait", str(tmp_path / number / "tree"))["link"]
        bert.run("follow", link, str(tmp_path / "copies" / number), "--wait")
    with pytest.raises(CommandFailed) as several:
        bert.run("unfollow", "tree")
    assert (several.value.code, several.value.error["code"]) == (2, "ambiguous_follow")
    for number in "12":
        assert str(tmp_path / "copies" / number) in several.value.error["cause"]
    bert.run("unfollow", str(tmp_path / "copies" / "1"))
    for nobody in ("wood", "shs1", "s"):
        with pytest.raises(CommandFailed) as unknown:
            bert.run("unfollow", nobody)
        assert (unknown.value.code, unknown.value.error["code"]) == (2, "unknown_follow")
    done = bert.run("unfollow", "tree")
    assert done["dest"] == str(tmp_path / "copies" / "2")
    assert bert.run("follows")["follows"] == []
