"""Paths inside a share, and where symbolic links may lead."""

from __future__ import annotations

import pytest

from shoal.content.paths import display_path, find_path_problem, find_target_problem, order_key


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"/a",
        b"a/",
        b"a//b",
        b".",
        b"..",
        b"a/../b",
        b"a/.",
        b"a\x00",
        b"x" * 256,
        b"a/" * 300 + b"a",
        b"/".join([b"y" * 250] * 17),
    ],
)
def test_bad_paths(path: bytes) -> None:
    assert find_path_problem(path)


@pytest.mark.parametrize("path", [b"a", b"a/b", b"...", b"..a", b"\xff", b"a\nb", b" ", b"x" * 255])
def test_good_paths(path: bytes) -> None:
    assert find_path_problem(path) is None


def test_everything_below_a_folder_follows_it() -> None:
    paths = [b"a.txt", b"a", b"a/b", b"a/b/c", b"a-b", b"a/b.c", b"b"]
    assert sorted(paths, key=order_key) == [b"a", b"a/b", b"a/b/c", b"a/b.c", b"a-b", b"a.txt", b"b"]


def test_paths_are_shown_without_control_characters() -> None:
    assert display_path(b"a/\xc3\xa4") == "a/ä"
    assert display_path(b"a\x1b[31m\n\xff") == "a\\x1b[31m\\x0a\\xff"
    assert display_path("a\u202eb\U000e0001".encode()) == "a\\u202eb\\U000e0001"
    assert display_path(b"").isprintable()


@pytest.mark.parametrize(
    ("link", "target", "fine"),
    [
        (b"t/l", b"a", True),
        (b"t/l", b"./a//b/", True),
        (b"t/l", b".", True),
        (b"t/l", b"..", False),
        (b"t/s/l", b"..", True),
        (b"t/s/l", b"../a", True),
        (b"t/s/l", b"../../t/a", False),
        (b"t/s/l", b"a/..", False),
        (b"t/s/u/l", b"../.././../x", False),
        (b"t/l", b"/etc", False),
        (b"l", b"a", False),
        (b"t/l", b"..a", True),
    ],
)
def test_link_targets(link: bytes, target: bytes, fine: bool) -> None:
    assert (find_target_problem(link, target) is None) is fine
