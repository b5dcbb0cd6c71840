"""Vectors: makes spec/vectors/{content,manifest,feed,link}.json.

`python -m tests.support.content_vectors` writes them. That is done once, when a format is added: they hold
what is on disks and wires, and a test fails if today's code makes other bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3

from shoal.content.cut import CHUNK_MAX_BYTES, Cutter
from shoal.content.draft import DraftChunk, make_gap, refer, seal_chunks
from shoal.content.feed import SegmentReference
from shoal.content.feed_log import FeedWriter
from shoal.content.keys import ChunkKeys, SegmentKeys, cut_seed, location_key
from shoal.content.link import Link
from shoal.content.manifest import EntryKind, ManifestHeader
from shoal.content.manifest_builder import BuiltManifest, ManifestBuilder
from shoal.content.manifest_segments import KIND_CHUNKS, KIND_ENTRIES
from shoal.content.proof import EXPORTER_LABEL, make_fetch_proof
from shoal.content.seal import seal_object
from shoal.content.stream import iter_sections
from shoal.identity.keys import DeviceKeys

DIRECTORY = Path(__file__).parents[2] / "spec" / "vectors"
SECRET = bytes(range(32))
READ_KEY = bytes(range(32, 64))
NETWORK = b"n" * 32
SHARE = b"s" * 32
SPACE = bytes(32)
STREAM_BYTES = 6_000_001
TIME = 1_700_000_000


def make_stream(length: int, name: str = "stream") -> bytes:
    """Return test data that everybody can make: BLAKE3 of a name, extended."""
    return blake3(b"shoal vector " + name.encode()).digest(length)


def make_content() -> dict[str, Any]:
    """Cut points, chunk keys, a sealed object, sections, location keys."""
    data = make_stream(STREAM_BYTES)
    seed = cut_seed(SECRET)
    keys = ChunkKeys(SECRET)
    chunks, start = [], 0
    for length in Cutter(seed).cut_whole(data):
        chunks.append({"length": length, "key": keys.key(data[start : start + length]).hex()})
        start += length
    zeros = Cutter(seed).cut_whole(bytes(2_500_000))
    plaintext = b"a small object"
    sealed = seal_object(SegmentKeys(READ_KEY).key(plaintext), plaintext)
    sizes = [0, 100, 262_143, 262_144, 0, 5, 1_000_000, 300_000, 7]
    return {
        "about": "Cut points, chunk keys, sealed objects; spec/content.md. Bytes are hexadecimal.",
        "content_secret": SECRET.hex(),
        "cut_seed": seed,
        "stream": {"name": "stream", "length": STREAM_BYTES, "chunks": chunks},
        "zeros": {"length": 2_500_000, "lengths": zeros},
        "sections": {"data_bytes": sizes, "sections": [list(s) for s in iter_sections(sizes)]},
        "object": {
            "read_key": READ_KEY.hex(),
            "plaintext": plaintext.hex(),
            "key": sealed.key.hex(),
            "sealed": sealed.sealed.hex(),
            "id": sealed.object_id.hex(),
        },
        "location": {"share_id": SHARE.hex(), "key": location_key(SECRET, SHARE).hex()},
    }


ENTRIES: list[tuple[bytes, int, int, int, int, list[tuple[int, int]] | None, bytes]] = [
    (b"folder", EntryKind.DIR, 0o755, 1_600_000_000_000_000_001, 0, None, b""),
    (b"folder/a", EntryKind.DIR, 0o555, 0, 0, None, b""),
    (b"folder/a/deep", EntryKind.FILE, 0o644, -1, 300_000, None, b""),
    (b"folder/a.txt", EntryKind.FILE, 0o600, 1, 5, None, b""),
    (b"folder/empty", EntryKind.FILE, 0o777, 2, 0, None, b""),
    (b"folder/hole", EntryKind.FILE, 0o644, 3, 1_000_000, [], b""),
    (b"folder/link", EntryKind.SYMLINK, 0o777, 4, 0, None, b"a/deep"),
    (b"folder/sparse", EntryKind.FILE, 0o644, 5, 1_000_000, [(4096, 10), (900_000, 100_000)], b""),
    (b"folder/\xff\xfe", EntryKind.FILE, 0o644, 6, 1, None, b""),
]


def build_manifest() -> BuiltManifest:
    """Return the manifest of the vector; its stream is made data."""
    builder = ManifestBuilder(ManifestHeader(SPACE, 0), READ_KEY)
    for entry in ENTRIES:
        builder.add_entry(*entry)
    data = make_stream(builder.manifest.stream_bytes)
    sizes = [builder.manifest.data_bytes(i) for i in range(len(ENTRIES))]
    keys, cutter, start = ChunkKeys(SECRET), Cutter(cut_seed(SECRET)), 0
    for section in iter_sections(sizes):
        for length in cutter.cut_whole(data[start : start + section.data_bytes]):
            builder.add_chunk(length, keys.key(data[start : start + length]), 0)
            start += length
    return builder.build()


def make_manifest() -> dict[str, Any]:
    """A manifest with one entry of every kind."""
    built = build_manifest()
    manifest = built.manifest
    return {
        "about": "A manifest and its segments; spec/manifest.md. Bytes are hexadecimal.",
        "read_key": READ_KEY.hex(),
        "content_secret": SECRET.hex(),
        "entries": [
            {
                "path": entry.path.hex(),
                "kind": int(entry.kind),
                "mode": entry.mode,
                "mtime_ns": entry.mtime_ns,
                "size": entry.size,
                "extents": [list(extent) for extent in entry.extents],
                "target": entry.target.hex(),
            }
            for entry in manifest.files
        ],
        "chunks": [
            {
                "length": manifest.chunk_length(i),
                "key": manifest.chunk_key(i).hex(),
                "generation": manifest.chunk_generation(i),
                "pieces": [list(piece) for piece in manifest.pieces(i)],
            }
            for i in range(manifest.chunk_count)
        ],
        "segments": {
            s.object_id.hex(): {"key": s.key.hex(), "sealed": s.sealed.hex()} for s in built.segments
        },
        "root": {"key": built.root.key.hex(), "sealed": built.root.sealed.hex()},
        "content_id": built.root.object_id.hex(),
    }


def make_feed() -> dict[str, Any]:
    """A feed of two versions, and a draft of the third."""
    keys = DeviceKeys.from_seed(make_seed())
    built = build_manifest()
    counter = 0

    def random_bytes(length: int) -> bytes:
        nonlocal counter
        counter += 1
        return make_stream(length, f"nonce {counter}")

    writer, opening = FeedWriter.create(
        keys,
        NETWORK,
        READ_KEY,
        cut_seed=cut_seed(SECRET),
        space=SPACE,
        generation=0,
        name=b"folder",
        time=TIME,
        random_bytes=random_bytes,
    )
    entries = [opening]
    for version in range(2):
        references = [SegmentReference(s.object_id, s.key, 1, len(s.sealed)) for s in built.segments]
        entries += writer.announce(references, TIME + version)
        entries.append(
            writer.close_version(
                content_id=built.root.object_id,
                root_key=built.root.key,
                root_bytes=len(built.root.sealed),
                files=built.manifest.file_count,
                total_bytes=built.manifest.total_bytes,
                stream_bytes=built.manifest.stream_bytes,
                chunks=built.manifest.chunk_count,
                time=TIME + version,
            )
        )
    manifest = built.manifest
    entries.append(
        writer.begin_draft(
            entries=len(manifest),
            files=manifest.file_count,
            total_bytes=manifest.total_bytes,
            stream_bytes=manifest.stream_bytes,
            time=TIME + 2,
        )
    )
    rows = [DraftChunk(*manifest.chunk(0)[1:], 0), *make_gap(CHUNK_MAX_BYTES + 5, 0)]
    chunks = seal_chunks(READ_KEY, rows)
    entries += writer.announce(refer(built.segments[:1], KIND_ENTRIES), TIME + 2)
    entries += writer.announce(refer(chunks, KIND_CHUNKS), TIME + 3)
    assert writer.reader.draft is not None
    return {
        "about": "A feed of two versions with the same content, and a draft of the third that tells of a "
        "chunk and of a gap; spec/feed.md. Bytes are hexadecimal.",
        "seed": make_seed().hex(),
        "network_id": NETWORK.hex(),
        "share_id": writer.share_id.hex(),
        "read_key": READ_KEY.hex(),
        "entries": [entry.data.hex() for entry in entries],
        "cut_seed": cut_seed(SECRET),
        "name": b"folder".hex(),
        "versions": len(writer.reader.closings),
        "content_id": built.root.object_id.hex(),
        "draft": writer.reader.draft.number,
        "draft_chunks": [
            {"id": o.object_id.hex(), "key": o.key.hex(), "sealed": o.sealed.hex()} for o in chunks
        ],
        "draft_rows": [[row.length, row.key.hex(), row.generation] for row in rows],
    }


def make_seed() -> bytes:
    """Return the seed of the author's keys."""
    return bytes(range(len(DeviceKeys.generate().to_seed())))


def make_link() -> dict[str, Any]:
    """Links of all shapes, and fetch proofs."""
    links = [
        Link(NETWORK, SHARE, READ_KEY, 0),
        Link(NETWORK, SHARE, READ_KEY, 7, b"c" * 32),
        Link(NETWORK, SHARE, READ_KEY, 2**32 - 1, None, b"p" * 32),
        Link(NETWORK, SHARE, READ_KEY, 1, b"c" * 32, b"p" * 32),
    ]
    exporter, first, second = b"e" * 32, b"1" * 32, b"2" * 32
    return {
        "about": "Links and fetch proofs; spec/link.md. Bytes are hexadecimal.",
        "links": [
            {
                "network_id": link.network_id.hex(),
                "share_id": link.share_id.hex(),
                "read_key": link.read_key.hex(),
                "generation": link.generation,
                "content_id": link.content_id.hex() if link.content_id else None,
                "space": link.space.hex(),
                "packed": link.pack().hex(),
                "text": link.to_text(),
            }
            for link in links
        ],
        "proofs": [
            {
                "exporter_label": EXPORTER_LABEL,
                "exporter": exporter.hex(),
                "share_id": SHARE.hex(),
                "read_key": READ_KEY.hex(),
                "prover": prover.hex(),
                "verifier": verifier.hex(),
                "proof": make_fetch_proof(READ_KEY, exporter, SHARE, prover, verifier).hex(),
            }
            for prover, verifier in ((first, second), (second, first))
        ],
    }


MAKERS: dict[str, Callable[[], dict[str, Any]]] = {
    "content": make_content,
    "manifest": make_manifest,
    "feed": make_feed,
    "link": make_link,
}


def load(topic: str) -> Any:
    """Return the vectors of a topic."""
    return json.loads((DIRECTORY / f"{topic}.json").read_text())


if __name__ == "__main__":
    for topic, make in MAKERS.items():
        (DIRECTORY / f"{topic}.json").write_text(json.dumps(make(), indent=1) + "\n")
