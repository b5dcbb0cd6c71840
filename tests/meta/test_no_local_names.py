"""No local names: no file of the repository names a package index's host or a directory of one machine."""

from __future__ import annotations

import re

import pytest
from tests.support.source import find_texts, show

# cut in two, so that this file does not name them either
_HOSTS = ("py" + "pi.", "python" + "hosted.", "npm" + "js.", "proxy." + "golang")
_OPTIONS = ("--index" + "-url", "--extra-index" + "-url", "--find" + "-links")
_DIRECTORIES = ("wo" + "rk", "ro" + "ot")
NAMES = re.compile(
    "|".join(re.escape(word) for word in (*_HOSTS, *_OPTIONS))
    + rf"|(?<![\w.~$}}*-])/(?:{'|'.join(_DIRECTORIES)})(?:/|\b(?=[\s\"'`:;,)]))"
)


def find_faults(path: str, text: str) -> list[str]:
    """Return the lines that name what only one machine has."""
    return [
        f"{path}:{number}: {found.group()!r} in {line.strip()[:80]!r}"
        for number, line in enumerate(text.splitlines(), 1)
        if (found := NAMES.search(line))
    ]


def test_no_file_names_an_index_or_a_local_directory() -> None:
    faults = [fault for path, text in find_texts() for fault in find_faults(path, text)]
    assert not faults, show(faults)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("--index" + "-url https://somewhere/simple", 1),
        ("see https://py" + "pi.org/project/shoal", 1),
        ("cd /wo" + "rk/main", 1),
        ('HOME = "/ro' + 'ot"', 1),
        ("pip install --require-hashes -r requirements/dev.lock", 0),
        ("the network/work/of many", 0),
        ("(path, root / name) and /rooted/x", 0),
    ],
)
def test_it_finds_local_names(text: str, faults: int) -> None:
    assert len(find_faults("README.md", text)) == faults
