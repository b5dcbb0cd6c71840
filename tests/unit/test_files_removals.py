"""Which loss of files is held back."""

from __future__ import annotations

import pytest

from shoal.apps.files.removals import check_removals
from shoal.content.manifest import EntryKind, Manifest, ManifestHeader
from shoal.core.errors import Refused


def tree(files: int, ignore: int = 0) -> Manifest:
    manifest = Manifest(ManifestHeader(bytes(32), 0))
    manifest.add_entry(b"t", EntryKind.DIR, 0o755, 0)
    if ignore:
        manifest.add_entry(b"t/.shoalignore", EntryKind.FILE, 0o644, 0)
    for number in range(files):
        manifest.add_entry(b"t/%06d" % number, EntryKind.FILE, 0o644, 0)
    return manifest


@pytest.mark.parametrize(
    ("before", "now", "held"),
    [
        (tree(1), tree(0), True),
        (tree(9), tree(0), True),
        (tree(9), tree(1), False),
        (tree(10), tree(1), False),
        (tree(11), tree(1), True),
        (tree(5), tree(0, ignore=1), True),
        (tree(0, ignore=1), tree(0), False),
        (tree(0), tree(0), False),
        (tree(1000), tree(100), False),
        (tree(1000), tree(99), True),
        (tree(1000), tree(99, ignore=1), True),
        (tree(3), tree(2000), False),
    ],
)
def test_a_version_without_nearly_all_files_is_held_back(before: Manifest, now: Manifest, held: bool) -> None:
    if held:
        with pytest.raises(Refused) as refused:
            check_removals(before, now)
        assert refused.value.code == "emptied"
    else:
        check_removals(before, now)


@pytest.mark.parametrize(
    ("before", "kept", "added", "gone"),
    [
        (41, 1, 1, "40 of 41 files are gone"),
        (41, 0, 1, "all files are gone"),
        (41, 1, 0, "40 of 41 files are gone"),
    ],
)
def test_what_is_gone_is_counted_whatever_came(before: int, kept: int, added: int, gone: str) -> None:
    now = tree(kept)
    for number in range(added):
        now.add_entry(b"t/new %d" % number, EntryKind.FILE, 0o644, 0)
    with pytest.raises(Refused) as refused:
        check_removals(tree(before), now)
    assert refused.value.cause.startswith(f"{gone}: ")
