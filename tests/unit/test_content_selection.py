"""Selection: which files and chunks patterns choose out of a share."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shoal.content.manifest import EntryKind, Manifest, ManifestHeader
from shoal.content.selection import PATTERN_LIMIT, Selection, check_patterns, refuse_empty, select
from shoal.core.errors import LocalMisuse

TREE: tuple[tuple[bytes, int | None], ...] = (  # None: a folder
    (b"photos", None),
    (b"photos/#1.jpg", 10),
    (b"photos/2023", None),
    (b"photos/2023/a.jpg", 100),
    (b"photos/2023/b.raw", 200),
    (b"photos/2024", None),
    (b"photos/2024/a.jpg", 300),
    (b"photos/2024/trip", None),
    (b"photos/2024/trip/c.jpg", 400),
    (b"photos/2024/trip/\xff[1].jpg", 500),
    (b"photos/empty", None),
    (b"photos/large.mov", 1000),
    (b"photos/odd [\\", 2000),
)


def make_manifest(chunk_bytes: Sequence[int] = ()) -> Manifest:
    manifest = Manifest(ManifestHeader(bytes(32), 0))
    for path, size in TREE:
        kind = EntryKind.DIR if size is None else EntryKind.FILE
        manifest.add_entry(path, kind, 0o755, 0, size or 0)
    lengths = chunk_bytes or (manifest.stream_bytes,)
    for number, length in enumerate(lengths):
        manifest.add_chunk(length, bytes([number]) * 32, 0)
    manifest.check_complete()
    return manifest


def names(selection: Selection) -> list[bytes]:
    return [path for i, path in enumerate(selection.manifest.files.paths()) if selection.has(i)]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([b"photos/2023/a.jpg"], [b"photos", b"photos/2023", b"photos/2023/a.jpg"]),
        ([b"2023/a.jpg"], [b"photos", b"photos/2023", b"photos/2023/a.jpg"]),
        ([b"*.raw"], [b"photos", b"photos/2023", b"photos/2023/b.raw"]),
        ([b"/*.mov"], [b"photos", b"photos/large.mov"]),
        ([b"empty"], [b"photos", b"photos/empty"]),
        ([b"empty/"], [b"photos", b"photos/empty"]),
        ([b"photos/large.mov/"], []),
        (
            [b"2024/trip"],
            [
                b"photos",
                b"photos/2024",
                b"photos/2024/trip",
                b"photos/2024/trip/c.jpg",
                b"photos/2024/trip/\xff[1].jpg",
            ],
        ),
        ([b"photos"], [path for path, _ in TREE]),
        ([b"*"], [path for path, _ in TREE]),
        # the path of an entry is itself, whatever its characters mean otherwise
        (
            [b"photos/2024/trip/\xff[1].jpg"],
            [b"photos", b"photos/2024", b"photos/2024/trip", b"photos/2024/trip/\xff[1].jpg"],
        ),
        ([b"photos/odd [\\"], [b"photos", b"photos/odd [\\"]),
        ([b"#1.jpg"], [b"photos", b"photos/#1.jpg"]),
        (
            [b"b.raw", b"/large.*"],
            [b"photos", b"photos/2023", b"photos/2023/b.raw", b"photos/large.mov"],
        ),
        ([b"A.jpg"], []),
    ],
)
def test_what_is_selected(patterns: list[bytes], expected: list[bytes]) -> None:
    assert names(select(make_manifest(), patterns)) == expected


def test_counts_and_patterns_without_effect() -> None:
    selection = select(make_manifest(), [b"*.raw", b"nothing", b"2024", b"c.jpg"])
    assert (selection.files, selection.total_bytes) == (4, 200 + 300 + 400 + 500)
    assert selection.unmatched == [b"nothing"]


def test_chunks_are_wanted_whole_or_in_part() -> None:
    #  #1: 0-10  a: 10-110  b: 110-310  a: 310-610  c: 610-1010  [1]: 1010-1510  large: 1510-2510
    manifest = make_manifest([110, 300, 200, 900, 600, 400, 2000])
    selection = select(manifest, [b"2024", b"large.mov"])
    assert selection.wanted() == [1, 2, 3, 4, 5]
    assert selection.whole() == [2, 3, 4, 5]
    assert [selection.is_whole(o) for o in range(7)] == [False, False, True, True, True, True, False]
    assert select(manifest, [b"*"]).whole() == list(range(7))
    assert select(manifest, [b"empty"]).wanted() == []


def test_the_single_file() -> None:
    manifest = make_manifest()
    index = select(manifest, [b"b.raw", b"empty"]).find_single_file()
    assert index is not None
    assert manifest.path(index) == b"photos/2023/b.raw"
    assert select(manifest, [b"a.jpg"]).find_single_file() is None
    assert select(manifest, [b"empty"]).find_single_file() is None


def test_nothing_selected_shows_what_there_is() -> None:
    patterns = [b"*.png", b"2025"]
    with pytest.raises(LocalMisuse) as caught:
        refuse_empty(select(make_manifest(), patterns), patterns)
    assert caught.value.code == "nothing_selected"
    assert "*.png or 2025" in caught.value.cause
    assert "photos/2023" in caught.value.cause
    assert "and 8 more" in caught.value.cause


@pytest.mark.parametrize(
    "patterns", [[b"!a"], [b""], [b"/"], [b"//"], [b"%d" % i for i in range(PATTERN_LIMIT + 1)]]
)
def test_patterns_that_are_refused_at_once(patterns: list[bytes]) -> None:
    with pytest.raises(LocalMisuse) as caught:
        check_patterns(patterns)
    assert caught.value.code == "bad_pattern"
    assert caught.value.next_step


@pytest.mark.parametrize("pattern", [b"a\\", b"photos/[", b"[z-a]", b"a/**/b/**/c/**/d"])
def test_what_is_neither_a_name_nor_a_pattern(pattern: bytes) -> None:
    assert check_patterns([pattern]) == [pattern]
    with pytest.raises(LocalMisuse) as caught:
        select(make_manifest(), [pattern])
    assert caught.value.code == "bad_pattern"
    assert caught.value.next_step


def test_the_same_patterns_look_the_same() -> None:
    assert check_patterns([b"b", b"a", b"b"]) == check_patterns([b"a", b"b"]) == [b"a", b"b"]
