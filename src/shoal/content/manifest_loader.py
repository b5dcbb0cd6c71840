"""Loader: reads a manifest from sealed segments that a peer sent.

Nothing in them is believed: for any bytes whatever the loader returns a manifest that is consistent in itself
or raises MalformedMessage or LimitExceeded. What it keeps is proportional to the bytes received, but for
segments that stand in it again and again, as data does that repeats: these are bounded by REPEATED_ROWS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from shoal.content.manifest import CHUNK_LIMIT, ENTRY_LIMIT, Manifest, ManifestHeader
from shoal.content.manifest_segments import (
    FORMAT_VERSION,
    ChunkSegment,
    EntrySegment,
    Reference,
    ReferenceSegment,
    Root,
    add_chunk_rows,
    add_entry_rows,
    decode_segment,
)
from shoal.content.seal import object_id, open_object
from shoal.core.errors import LimitExceeded, MalformedMessage

FindSegment = Callable[[bytes], bytes | None]
FindMissing = Callable[[Sequence[bytes]], Sequence[bytes]]  # which of these ids are not stored

REPEATED_ROWS = 2 * 1024 * 1024  # chunks in segments that came before: 2 TiB of the same, and 90 MiB here


def open_root(root_sealed: bytes, root_key: bytes) -> Root:
    """Return the root. Raises: MalformedMessage, also for a version or an algorithm that we do not know."""
    root = decode_segment(Root, open_object(root_key, root_sealed))
    if root.version != FORMAT_VERSION:
        raise MalformedMessage(
            f"a manifest of version {root.version}",
            cause=f"this release reads version {FORMAT_VERSION}",
            next_step="upgrade shoal",
            code="unsupported",
        )
    known = ManifestHeader(root.space, root.generation)
    if _header(root) != known:
        raise MalformedMessage(
            "a manifest made with an algorithm that this release does not know",
            cause=f"chunker {root.chunker}, seed rule {root.seed_rule}, hash {root.hash}, seal {root.seal}, "
            f"codec {root.codec}",
            next_step="upgrade shoal",
            code="unsupported",
        )
    if root.entries > ENTRY_LIMIT or root.chunks > CHUNK_LIMIT:
        raise LimitExceeded(f"a manifest of {root.entries} entries and {root.chunks} chunks")
    _check_sums(root.entry_references, root.entries, root.stream_bytes)
    _check_sums(root.chunk_references, root.chunks, root.stream_bytes)
    return root


def missing_segments(
    root_sealed: bytes, root_key: bytes, find_segment: FindSegment, find_missing: FindMissing
) -> list[bytes]:
    """Return ids that are still needed, nodes first, each once; call again after they were stored until it is
    empty.

    `find_segment` returns a stored sealed object or None, and is asked for nodes only: what lies below a node
    is known once that is there. `find_missing` is asked once, for all leaves that are known by now. Raises:
    MalformedMessage, LimitExceeded.
    """
    root = open_root(root_sealed, root_key)
    nodes: dict[bytes, None] = {}  # that are missing
    leaves: dict[bytes, None] = {}
    looked: set[tuple[int, bytes]] = set()
    for level, references in (
        (root.entry_level, root.entry_references),
        (root.chunk_level, root.chunk_references),
    ):
        _collect_missing(level, references, find_segment, nodes, leaves, looked)
    missing = find_missing(list(leaves)) if leaves else []
    return list(nodes | dict.fromkeys(missing))


def list_segments(root_sealed: bytes, root_key: bytes, find_segment: FindSegment) -> list[bytes]:
    """Return the ids of all segments below a root, as far as the nodes between are stored.

    Raises: MalformedMessage, LimitExceeded.
    """
    root = open_root(root_sealed, root_key)
    found = [*_walk(root.entry_level, root.entry_references, find_segment)]
    return [*found, *_walk(root.chunk_level, root.chunk_references, find_segment)]


def load_manifest(root_sealed: bytes, root_key: bytes, get_segment: Callable[[bytes], bytes]) -> Manifest:
    """Return the whole manifest. `get_segment` returns the sealed object of an id; what it raises passes
    through.

    Raises: MalformedMessage, LimitExceeded. Takes about 5 s and 150 MiB for a million entries: use a thread.
    """
    root = open_root(root_sealed, root_key)
    manifest = Manifest(_header(root))
    for reference, plaintext in _leaves(root.entry_level, root.entry_references, get_segment):
        before, bytes_before = len(manifest), manifest.stream_bytes
        segment = decode_segment(EntrySegment, plaintext)
        if len(segment.rows) != reference.rows or segment.rows[0].path != reference.first_path:
            raise MalformedMessage("a manifest segment that is not as its reference says")
        add_entry_rows(manifest, segment)
        _check_leaf(reference, len(manifest) - before, manifest.stream_bytes - bytes_before)
    _add_chunks(manifest, root, get_segment)
    manifest.check_complete()
    if (len(manifest), manifest.chunk_count, manifest.total_bytes, manifest.stream_bytes) != (
        root.entries,
        root.chunks,
        root.total_bytes,
        root.stream_bytes,
    ):
        raise MalformedMessage("a manifest whose counts are not as its root says")
    manifest.content_id = object_id(root_sealed)
    return manifest


def load_chunk_rows(root_sealed: bytes, root_key: bytes, get_segment: Callable[[bytes], bytes]) -> Manifest:
    """Return a manifest with its chunks alone, for who looks for keys: little of it where files are small.
    `get_segment` as in `load_manifest`.

    Raises: MalformedMessage, LimitExceeded.
    """
    root = open_root(root_sealed, root_key)
    manifest = Manifest(_header(root))
    _add_chunks(manifest, root, get_segment)
    if (manifest.chunk_count, manifest.chunk_end) != (root.chunks, root.stream_bytes):
        raise MalformedMessage("a manifest whose counts are not as its root says")
    return manifest


def _add_chunks(manifest: Manifest, root: Root, get_segment: Callable[[bytes], bytes]) -> None:
    chunk_bytes = repeated = 0
    seen: set[bytes] = set()
    for reference, plaintext in _leaves(root.chunk_level, root.chunk_references, get_segment):
        if reference.object_id in seen:
            repeated += reference.rows
        seen.add(reference.object_id)
        if repeated > REPEATED_ROWS:
            raise LimitExceeded(
                "a manifest that repeats itself", cause=f"more than {REPEATED_ROWS} chunks of it"
            )
        before = manifest.chunk_count
        add_chunk_rows(manifest, decode_segment(ChunkSegment, plaintext))
        end = manifest.chunk_end
        _check_leaf(reference, manifest.chunk_count - before, end - chunk_bytes)
        chunk_bytes = end


def _header(root: Root) -> ManifestHeader:
    return ManifestHeader(
        root.space, root.generation, root.chunker, root.seed_rule, root.hash, root.seal, root.codec
    )


def _leaves(
    level: int, references: list[Reference], get_segment: Callable[[bytes], bytes]
) -> Iterator[tuple[Reference, bytes]]:
    for reference in references:
        plaintext = open_object(reference.key, get_segment(reference.object_id), reference.object_id)
        if level:
            yield from _leaves(level - 1, _open_node(reference, plaintext, level), get_segment)
        else:
            yield reference, plaintext


def _collect_missing(
    level: int,
    references: list[Reference],
    find_segment: FindSegment,
    nodes: dict[bytes, None],
    leaves: dict[bytes, None],
    looked: set[tuple[int, bytes]],
) -> None:
    for reference in references:
        if (level, reference.object_id) in looked:
            continue  # however often it is named
        looked.add((level, reference.object_id))
        if not level:
            leaves[reference.object_id] = None
            continue
        sealed = find_segment(reference.object_id)
        if sealed is None:
            nodes[reference.object_id] = None
        else:
            plaintext = open_object(reference.key, sealed, reference.object_id)
            below = _open_node(reference, plaintext, level)
            _collect_missing(level - 1, below, find_segment, nodes, leaves, looked)


def _walk(level: int, references: list[Reference], find_segment: FindSegment) -> Iterator[bytes]:
    for reference in references:
        yield reference.object_id
        sealed = find_segment(reference.object_id) if level else None
        if sealed is not None:
            plaintext = open_object(reference.key, sealed, reference.object_id)
            yield from _walk(level - 1, _open_node(reference, plaintext, level), find_segment)


def _open_node(reference: Reference, plaintext: bytes, level: int) -> list[Reference]:
    node = decode_segment(ReferenceSegment, plaintext)
    if node.level != level or node.references[0].first_path != reference.first_path:
        raise MalformedMessage("a manifest node that is not as its reference says")
    _check_sums(node.references, reference.rows, reference.stream_bytes)
    return node.references


def _check_sums(references: list[Reference], rows: int, stream_bytes: int) -> None:
    if sum(r.rows for r in references) != rows or sum(r.stream_bytes for r in references) != stream_bytes:
        raise MalformedMessage("manifest references that do not add up")


def _check_leaf(reference: Reference, rows: int, stream_bytes: int) -> None:
    if rows != reference.rows or stream_bytes != reference.stream_bytes:
        raise MalformedMessage("a manifest segment that is not as its reference says")
