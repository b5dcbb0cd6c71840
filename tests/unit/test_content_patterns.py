"""Patterns in gitignore syntax: what they match, in what time, and that git agrees."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from shoal.content.patterns import PATTERN_BYTES, parse_pattern, path_text
from shoal.core.errors import LocalMisuse

SEED = 20261122


def matches(pattern: bytes, path: bytes) -> bool:
    """Match as a folder if the path ends with a slash."""
    parsed = parse_pattern(pattern)
    assert parsed is not None
    return parsed.matches(path_text(path.rstrip(b"/")), path.endswith(b"/"))


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (b"a", [b"a", b"a/", b"x/a", b"x/y/a/"], [b"a/x", b"b", b"ab"]),
        (b"/a", [b"a", b"a/"], [b"x/a", b"a/a"]),
        (b"a/", [b"a/", b"x/a/"], [b"a", b"x/a", b"a/x"]),
        (b"a/b", [b"a/b", b"a/b/"], [b"x/a/b", b"a/x/b"]),
        (b"*.txt", [b".txt", b"x/y.txt"], [b"x.txt.gz", b"x.txt/y"]),
        (b"a/*", [b"a/x", b"a/x/"], [b"a/", b"a/x/y"]),
        (b"a/**", [b"a/x", b"a/x/y"], [b"a/", b"b/a/x"]),
        (b"**/a/b", [b"a/b", b"x/a/b", b"x/y/a/b"], [b"a/x/b"]),
        (b"a/**/b", [b"a/b", b"a/x/b", b"a/x/y/b/"], [b"a/b/c", b"x/a/b"]),
        (b"a/**/", [b"a/x/", b"a/x/y/"], [b"a/", b"a/x"]),
        (b"[ab]?", [b"ax", b"bb"], [b"a", b"cx", b"a/x"]),
        (b"a[!b]c", [b"axc"], [b"abc", b"a/c"]),
        (b"a[+-9]c", [b"a.c", b"a0c"], [b"a/c"]),
        (b"[[&~|]x", [b"[x", b"&x", b"|x"], [b"xx"]),
        (rb"\#a", [b"#a"], [b"a"]),
        (rb"\!a", [b"!a"], [b"a"]),
        (rb"a\*", [b"a*"], [b"ab"]),
        (b"a  ", [b"a"], [b"a  "]),
        (rb"a\ ", [b"a "], [b"a"]),
        ("ü?".encode(), ["üß".encode()], ["ü".encode()]),
        (b"\xff*", [b"\xff\xfe", b"x/\xff"], [b"\xfe\xff"]),
        (b"a*c", [b"a\nc", b"ac"], [b"a/c"]),
        (b"a", [b"x\ny/a"], [b"a\n"]),
        (b"*a*b*", [b"xaxbx", b"ab", b"aab"], [b"ba", b"a/b"]),
        (b"*aab", [b"aaab"], [b"aaba"]),
        (b"*/", [b"a/", b"a/b/"], [b"a", b"a/b"]),
    ],
)
def test_what_matches(pattern: bytes, yes: list[bytes], no: list[bytes]) -> None:
    assert [path for path in yes if not matches(pattern, path)] == []
    assert [path for path in no if matches(pattern, path)] == []


@pytest.mark.parametrize("line", [b"", b"   ", b"# comment", b"/", b"[z-", b"a[b"])
def test_what_is_no_pattern(line: bytes) -> None:
    assert parse_pattern(line) is None


@pytest.mark.parametrize("line", [b"a\\", b"[z-a]", b"a/**/b/**/c/**/d", b"x" * (PATTERN_BYTES + 1)])
def test_what_cannot_be_used_is_said(line: bytes) -> None:
    with pytest.raises(LocalMisuse) as caught:
        parse_pattern(line)
    assert caught.value.code == "bad_pattern"
    assert caught.value.cause
    assert caught.value.next_step


def test_a_negated_pattern_says_so() -> None:
    parsed = parse_pattern(b"!a/")
    assert parsed is not None
    assert parsed.negated
    assert parsed.matches("a", True)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (b"/" + b"*-" * 40 + b"z", b"-" * 255),
        (b"*[ab]" * 100 + b"c", b"ab" * 127),
        (b"a/**/b*/**/*b*c", b"a/" + b"/".join([b"b" * 15] * 250)),
        (b"**/" + b"*a" * 20 + b"/**/b", b"/".join([b"a" * 15] * 250)),
        (b"*" * 500 + b"z", b"y" * 255),
    ],
)
def test_matching_takes_bounded_time(pattern: bytes, path: bytes) -> None:
    parsed = parse_pattern(pattern)
    assert parsed is not None
    started = time.perf_counter()
    parsed.matches(path_text(path), False)
    assert time.perf_counter() - started < 0.5


ATOMS = [
    *("a", "b", "*", "**", "?", "a*", "*.txt", "*.log", "[ab]", "[!a]", "[a-b]*", "ab", r"\#c", r"\!d"),
    *("x y", "b?", "*b*", "[]a]", "[^b]", "[+-9]", r"\[a\]"),
]
NAMES = ["a", "b", "ab", "ba", "a.txt", "b.log", "x y", "[a]", "a-b", "#c", "!d", "a\nb"]


def make_pattern(rng: random.Random) -> str:
    pattern = "/".join(rng.choice(ATOMS) for _ in range(rng.choice((1, 1, 1, 2, 2, 3))))
    pattern = ("/" if rng.random() < 0.3 else "") + pattern + ("/" if rng.random() < 0.3 else "")
    return ("!" if rng.random() < 0.3 else "") + pattern


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("number", range(12))
def test_git_agrees(tmp_path: Path, number: int) -> None:
    """Random patterns in one file, random trees: git and we keep the same files."""
    rng = random.Random(SEED + number)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)

    def make(folder: Path, depth: int) -> None:
        for name in rng.sample(NAMES, 5):
            if depth < 3 and rng.random() < 0.5:
                (folder / name).mkdir()
                make(folder / name, depth + 1)
            else:
                (folder / name).touch()

    make(tmp_path, 0)
    lines = [make_pattern(rng) for _ in range(5)]
    (tmp_path / ".gitignore").write_text("\n".join(lines) + "\n")
    patterns = [parsed for line in lines if (parsed := parse_pattern(line.encode())) is not None]
    ours: set[bytes] = set()

    def walk(folder: bytes) -> None:
        for name in os.listdir(os.path.join(os.fsencode(tmp_path), folder)):
            path = os.path.join(folder, name)
            is_folder = os.path.isdir(os.path.join(os.fsencode(tmp_path), path))
            last = next((p for p in reversed(patterns) if p.matches(path_text(path), is_folder)), None)
            if name in (b".git", b".gitignore") or (last is not None and not last.negated):
                continue
            walk(path) if is_folder else ours.add(path)

    walk(b"")
    listed = subprocess.run(
        ["git", "-C", str(tmp_path), "ls-files", "-z", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    ).stdout
    gits = {path for path in listed.split(b"\0") if path and not path.endswith(b".gitignore")}
    assert ours == gits, lines
