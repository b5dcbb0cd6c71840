"""The bytes in spec/vectors/{content,manifest,feed,link}.json are the bytes of this release."""

from __future__ import annotations

import pytest
from tests.support.content_vectors import MAKERS, load

from shoal.content.feed_log import FeedReader
from shoal.content.link import Link
from shoal.content.manifest import Manifest, ManifestHeader
from shoal.content.manifest_loader import load_manifest
from shoal.content.manifest_segments import ChunkSegment, add_chunk_rows, decode_segment
from shoal.content.proof import check_fetch_proof
from shoal.content.seal import open_object


@pytest.mark.parametrize("topic", sorted(MAKERS))
def test_today_s_code_makes_the_same_bytes(topic: str) -> None:
    assert MAKERS[topic]() == load(topic)


def test_objects_are_opened() -> None:
    vector = load("content")["object"]
    opened = open_object(
        bytes.fromhex(vector["key"]), bytes.fromhex(vector["sealed"]), bytes.fromhex(vector["id"])
    )
    assert opened.hex() == vector["plaintext"]


def test_a_manifest_is_read() -> None:
    vector = load("manifest")
    manifest = load_manifest(
        bytes.fromhex(vector["root"]["sealed"]),
        bytes.fromhex(vector["root"]["key"]),
        lambda object_id: bytes.fromhex(vector["segments"][object_id.hex()]["sealed"]),
    )
    assert [entry.path.hex() for entry in manifest.files] == [e["path"] for e in vector["entries"]]
    for entry, expected in zip(manifest.files, vector["entries"], strict=True):
        assert (entry.kind, entry.mode, entry.mtime_ns, entry.size) == (
            expected["kind"],
            expected["mode"],
            expected["mtime_ns"],
            expected["size"],
        )
        assert [list(extent) for extent in entry.extents] == expected["extents"]
        assert entry.target.hex() == expected["target"]
    for ordinal, chunk in enumerate(vector["chunks"]):
        assert manifest.chunk(ordinal)[1:] == (chunk["length"], bytes.fromhex(chunk["key"]))
        assert [list(piece) for piece in manifest.pieces(ordinal)] == chunk["pieces"]
    assert manifest.content_id is not None
    assert manifest.content_id.hex() == vector["content_id"]


def test_a_feed_is_read() -> None:
    vector = load("feed")
    reader = FeedReader(*(bytes.fromhex(vector[name]) for name in ("network_id", "share_id", "read_key")))
    for data in vector["entries"]:
        assert reader.add(bytes.fromhex(data))
    assert reader.opening is not None
    assert (reader.opening.cut_seed, reader.opening.name.hex()) == (vector["cut_seed"], vector["name"])
    assert len(reader.closings) == vector["versions"]
    assert reader.find_closing(bytes.fromhex(vector["content_id"])) == reader.latest
    assert reader.draft is not None
    assert reader.draft.number == vector["draft"]
    (reference,), (told,) = reader.draft.chunks, vector["draft_chunks"]
    assert (reference.object_id.hex(), reference.key.hex()) == (told["id"], told["key"])
    plaintext = open_object(reference.key, bytes.fromhex(told["sealed"]), reference.object_id)
    manifest = Manifest(ManifestHeader(bytes(32), 0))
    add_chunk_rows(manifest, decode_segment(ChunkSegment, plaintext))
    rows = [[*manifest.chunk(i)[1:], manifest.chunk_generation(i)] for i in range(manifest.chunk_count)]
    assert [[length, key.hex(), generation] for length, key, generation in rows] == vector["draft_rows"]


def test_links_and_proofs_are_read() -> None:
    for vector in load("link")["links"]:
        link = Link.parse(vector["text"])
        assert link.pack().hex() == vector["packed"]
        assert (link.content_id.hex() if link.content_id else None) == vector["content_id"]
        assert link.space.hex() == vector["space"]
    for vector in load("link")["proofs"]:
        names = ("proof", "read_key", "exporter", "share_id", "prover", "verifier")
        assert check_fetch_proof(*(bytes.fromhex(vector[name]) for name in names))
        names = ("proof", "read_key", "exporter", "share_id", "verifier", "prover")
        assert not check_fetch_proof(*(bytes.fromhex(vector[name]) for name in names))
