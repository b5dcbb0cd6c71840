"""Paths: what may name a file inside a share, in which order, and how a person sees it.

A share path is bytes: components joined by `/`, relative, never normalised. Names that are not UTF-8 are
kept as they are. Order is by component, so that a directory is followed by all that is below it.
"""

from __future__ import annotations

from shoal.wire.limits import PATH_BYTES

COMPONENT_BYTES = 255  # NAME_MAX of every file system we write to
DEPTH = 256  # components; deeper trees cannot be walked with one descriptor a level everywhere
TARGET_BYTES = 4095  # of a symbolic link, as Linux

# A getter writes into DEST/<this prefix><transfer id> until all is verified; such folders are never shared.
PART_PREFIX = b".shoal-part-"
VERSIONS_NAME = b".shoal-versions"  # what a follow copy keeps of what it replaced; never shared either


def find_path_problem(path: bytes) -> str | None:
    """Say why `path` cannot be a path inside a share, or None if it can."""
    if not path:
        return "it is empty"
    if len(path) > PATH_BYTES:
        return f"it is longer than {PATH_BYTES} bytes"
    if b"\x00" in path:
        return "it has a NUL byte"
    components = path.split(b"/")
    if len(components) > DEPTH:
        return f"it is deeper than {DEPTH} folders"
    for component in components:
        if not component:
            return "it has an empty component"
        if component in (b".", b".."):
            return "it has a component . or .."
        if len(component) > COMPONENT_BYTES:
            return f"a component is longer than {COMPONENT_BYTES} bytes"
    return None


def find_top_problem(name: bytes) -> str | None:
    """Say why a share cannot have this top name although it is a path: a getter has its own there."""
    folded = name.lower()  # some disks take capitals for the same
    if folded == VERSIONS_NAME or folded.startswith(PART_PREFIX):
        return "the name is one that a getter keeps for itself"
    return None


def order_key(path: bytes) -> bytes:
    """Return what paths of a share are sorted by: `/` below every other byte.

    So `a`, `a/b`, `a.txt`: everything below a directory follows it at once. NUL is not in any path.
    """
    return path.replace(b"/", b"\x00")


def top_name(path: bytes) -> bytes:
    """Return the first component."""
    return path.partition(b"/")[0]


def display_path(path: bytes) -> str:
    """Write a path for people: undecodable bytes and control characters are escaped as `\\xNN`, `\\uNNNN`.

    A terminal never gets an escape sequence, a line break or a direction override out of a file's name.
    """
    text = path.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def find_target_problem(link: bytes, target: bytes) -> str | None:
    """Say why a symbolic link at `link` to `target` must not be created by a getter, or None.

    Only relative targets that stay inside the link's top folder are created. `..` is accepted at the
    beginning only: after another component it would be resolved behind whatever that component links to,
    so a check of the text alone would not hold.
    """
    if target.startswith(b"/"):
        return "its target is absolute"
    depth = link.count(b"/") - 1  # how often one may go up and still be inside the top folder
    if depth < 0:
        return "it is not inside a shared folder"
    down = False
    for component in target.split(b"/"):
        if component in (b"", b"."):
            continue
        if component != b"..":
            down = True
        elif down:
            return "its target goes up after going down"
        elif depth == 0:
            return "its target is outside the shared folder"
        else:
            depth -= 1
    return None
