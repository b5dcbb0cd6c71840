"""What `.shoalignore` files leave out of a share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.trees import share_tree, write_file

from shoal.core.errors import LocalMisuse
from shoal.storage.ignore import IGNORE_BYTES, IGNORE_NAME, PATTERN_LIMIT
from shoal.storage.scan import ScanResult, scan


@pytest.fixture
def root(tmp_path: Path) -> bytes:
    path = os.fsencode(tmp_path) + b"/tree"
    for name in (
        b"a.txt",
        b"a.tmp",
        b"keep.tmp",
        b"build/x",
        b"sub/b.tmp",
        b"sub/build/y",
        b"sub/deep/c.log",
    ):
        write_file(path + b"/" + name, b"data")
    return path


def names(found: ScanResult) -> list[bytes]:
    return [entry.path.partition(b"/")[2] for entry in found.entries[1:]]


def write_rules(folder: bytes, *lines: bytes) -> None:
    write_file(folder + b"/" + IGNORE_NAME, b"\n".join(lines) + b"\n")


def test_patterns_of_the_shared_folder(root: bytes) -> None:
    write_rules(root, b"# build products", b"*.tmp", b"!keep.tmp", b"/build/", b"")
    found = scan([root])
    assert names(found) == [
        b".shoalignore",
        b"a.txt",
        b"keep.tmp",
        b"sub",
        b"sub/build",
        b"sub/build/y",
        b"sub/deep",
        b"sub/deep/c.log",
    ]
    assert (found.ignored_count, found.skipped_count, found.skipped) == (3, 0, [])
    assert share_tree(root).ignored_count == 3


def test_a_deeper_file_goes_first_and_counts_for_its_folder_only(root: bytes) -> None:
    write_rules(root, b"*.tmp", b"*.log", b"build")
    write_rules(root + b"/sub", b"!*.tmp", b"/deep/*", b"!build")
    found = scan([root])
    assert names(found) == [
        b".shoalignore",
        b"a.txt",
        b"sub",
        b"sub/.shoalignore",
        b"sub/b.tmp",
        b"sub/build",
        b"sub/build/y",
        b"sub/deep",
    ]
    assert found.ignored_count == 4


def test_what_lies_in_a_folder_that_is_left_out_cannot_be_brought_back(root: bytes) -> None:
    write_rules(root, b"sub/", b"!sub/b.tmp")
    write_rules(root + b"/sub", b"!*")
    assert b"sub" not in names(scan([root]))


def test_each_top_name_has_rules_of_its_own(root: bytes, tmp_path: Path) -> None:
    write_rules(root, b"*.txt")
    other = write_file(os.fsencode(tmp_path) + b"/other/a.txt", b"x")
    write_rules(os.fsencode(tmp_path), b"*")  # above what is shared: it does not count
    found = scan([root, os.path.dirname(other), root + b"/a.tmp"])
    paths = [entry.path for entry in found.entries]
    assert b"other/a.txt" in paths
    assert b"a.tmp" in paths
    assert b"tree/a.txt" not in paths


def test_names_that_are_not_utf8_and_the_ways_of_editors(root: bytes) -> None:
    write_file(root + b"/bad \xff\xfe.tmp", b"x")
    write_file(root + b"/line\nbreak.tmp", b"x")
    write_file(root + b"/\xfcmlaut", b"x")
    write_file(root + b"/" + IGNORE_NAME, b"\xef\xbb\xbf*.tmp\r\n\xfc*\r\n")
    assert [n for n in names(scan([root])) if b"tmp" in n or b"\xfc" in n] == []


def test_all_of_it_may_be_left_out(root: bytes) -> None:
    write_rules(root, b"*")
    found = scan([root])
    assert [entry.path for entry in found.entries] == [b"tree"]
    assert found.ignored_count == 6


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"fine\na/**/b/**/c/**/d\n", "line 2"),
        (b"x" * (IGNORE_BYTES + 1), "larger than"),
        (b"a\n" * (PATTERN_LIMIT + 1), "patterns"),
    ],
)
def test_rules_that_cannot_be_used_are_not_passed_over(root: bytes, content: bytes, word: str) -> None:
    write_file(root + b"/sub/" + IGNORE_NAME, content)
    found = scan([root])
    assert b"sub" not in names(found)
    assert [s.path for s in found.skipped] == [b"tree/sub"]
    assert word in found.skipped[0].reason
    write_file(root + b"/" + IGNORE_NAME, content)
    with pytest.raises(LocalMisuse) as caught:
        scan([root])
    assert caught.value.code == "bad_ignore"
    assert word in caught.value.cause


def test_a_link_or_a_folder_of_that_name_is_no_rules_file(root: bytes) -> None:
    os.symlink(b"/etc/hostname", root + b"/sub/" + IGNORE_NAME)
    os.mkdir(root + b"/build/" + IGNORE_NAME)
    found = scan([root])
    assert [s.path for s in found.skipped] == [b"tree/build", b"tree/sub"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_rules_that_may_not_be_read(root: bytes) -> None:
    write_rules(root + b"/sub", b"*.tmp")
    os.chmod(root + b"/sub/" + IGNORE_NAME, 0)
    assert [s.path for s in scan([root]).skipped] == [b"tree/sub"]
