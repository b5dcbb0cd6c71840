"""Feeds: the chain of a share's entries, and what is wrong with others."""

from __future__ import annotations

import os

import pytest

from shoal.content.feed import Closing, SegmentReference, encode_payload, seal_payload
from shoal.content.feed_log import FeedReader, FeedWriter
from shoal.content.link import Link
from shoal.content.proof import check_fetch_proof, make_fetch_proof
from shoal.core.errors import LocalMisuse, MalformedMessage, RemoteFault
from shoal.identity.entry import ZERO_ID, Domain, Entry, pack_header, sign_entry
from shoal.identity.keys import DeviceKeys

NETWORK = b"n" * 32
READ_KEY = b"r" * 32
KEYS = DeviceKeys.generate()
OTHER = DeviceKeys.generate()


def open_feed() -> tuple[FeedWriter, list[Entry]]:
    writer, entry = FeedWriter.create(
        KEYS, NETWORK, READ_KEY, cut_seed=5, space=bytes(32), generation=1, name=b"name", time=10
    )
    return writer, [entry]


def close(writer: FeedWriter, content_id: bytes) -> Entry:
    return writer.close_version(
        content_id=content_id,
        root_key=b"k" * 32,
        root_bytes=100,
        files=1,
        total_bytes=2,
        stream_bytes=2,
        chunks=1,
        time=20,
    )


def sign(writer: FeedWriter, plaintext: bytes, keys: DeviceKeys = KEYS, seq: int | None = None) -> Entry:
    """Sign any plaintext as the next entry."""
    reader = writer.reader
    seq = reader.next_seq if seq is None else seq
    where = (Domain.FEED, NETWORK, reader.share_id)
    prev = reader.head if seq else ZERO_ID
    header = pack_header(*where, keys.peer_id, seq, prev, 0, 0, len(plaintext) + 40)
    return sign_entry(
        keys, *where, seq, prev, 0, 0, seal_payload(READ_KEY, header, plaintext, os.urandom(24))
    )


def test_versions_follow_each_other() -> None:
    writer, entries = open_feed()
    references = [SegmentReference(os.urandom(32), b"k" * 32, 1, 1000) for _ in range(1100)]
    entries += writer.announce(references, 11)
    assert len(entries) == 4
    reader = FeedReader(NETWORK, writer.share_id, READ_KEY)
    assert [reader.add(entry.data) for entry in entries] == [True] * 4
    assert reader.announced == references
    assert reader.latest is None
    for content_id in (b"1" * 32, b"2" * 32):
        entries.append(close(writer, content_id))
        reader.add(entries[-1])
    assert reader.announced == []
    assert reader.latest is not None
    assert reader.latest.version == 2
    assert reader.closed_at == 20
    assert reader.find_closing(b"1" * 32) == reader.find_version(1)
    assert reader.find_closing(b"3" * 32) is None
    assert (reader.find_version(0), reader.find_version(3)) == (None, None)
    assert not any(reader.add(entry) for entry in entries)
    again = FeedWriter(KEYS, reader)
    assert again.next_version == 3
    reader.add(close(again, b"4" * 32))
    with pytest.raises(LocalMisuse):
        FeedWriter(OTHER, reader)


def test_what_is_not_the_next_entry_of_this_feed_is_refused() -> None:
    writer, entries = open_feed()
    entries += [close(writer, b"1" * 32), close(writer, b"2" * 32)]
    foreign, foreign_entries = open_feed()
    reader = FeedReader(NETWORK, writer.share_id, READ_KEY)
    for bad in (entries[1], foreign_entries[0]):
        with pytest.raises(MalformedMessage):
            reader.add(bad)
    for arguments in ((NETWORK, writer.share_id, b"x" * 32), (b"x" * 32, writer.share_id, READ_KEY)):
        with pytest.raises(MalformedMessage):
            FeedReader(*arguments).add(entries[0])
    tampered = bytearray(entries[0].data)
    tampered[-1] ^= 1
    with pytest.raises(MalformedMessage):
        reader.add(bytes(tampered))
    assert reader.next_seq == 0
    reader.add(entries[0])
    with pytest.raises(MalformedMessage):
        reader.add(entries[2])
    with pytest.raises(MalformedMessage):
        reader.add(b"")
    assert foreign.share_id != writer.share_id


def test_another_device_cannot_open_or_continue_a_share() -> None:
    writer, entries = open_feed()
    opening = writer.reader.opening
    assert opening is not None
    stolen = sign(writer, encode_payload(opening), OTHER, seq=0)
    reader = FeedReader(NETWORK, writer.share_id, READ_KEY)
    with pytest.raises(MalformedMessage):
        reader.add(stolen)
    reader.add(entries[0])
    with pytest.raises(MalformedMessage):
        reader.add(sign(writer, b"\x05", OTHER))


def test_two_histories_are_told() -> None:
    writer, entries = open_feed()
    fork = sign(writer, b"\x05skipped")
    entries.append(close(writer, b"1" * 32))
    reader = FeedReader(NETWORK, writer.share_id, READ_KEY)
    for entry in entries:
        reader.add(entry)
    with pytest.raises(RemoteFault) as caught:
        reader.add(fork)
    assert caught.value.code == "equivocation"
    assert caught.value.peer == KEYS.peer_id


def test_payloads_that_break_the_rules() -> None:
    writer, entries = open_feed()
    opening = writer.reader.opening
    assert opening is not None
    wrong_version = Closing(2, b"c" * 32, b"k" * 32, 1, 1, 1, 1, 1)
    bad = [b"", b"\x02", b"\x04garbage", b"\x06", encode_payload(opening), encode_payload(wrong_version)]
    for plaintext in bad:
        reader = FeedReader(NETWORK, writer.share_id, READ_KEY)
        reader.add(entries[0])
        with pytest.raises(MalformedMessage):
            reader.add(sign(writer, plaintext))
        assert reader.next_seq == 1
    reader = FeedReader(NETWORK, writer.share_id, READ_KEY)
    reader.add(entries[0])
    assert reader.add(sign(writer, b"\x07 from a later release"))
    first = FeedReader(NETWORK, writer.share_id, READ_KEY)
    with pytest.raises(MalformedMessage):
        first.add(sign(writer, b"\x07", seq=0))
    short = sign_entry(KEYS, Domain.FEED, NETWORK, writer.share_id, 1, writer.reader.head, 0, 0, b"abc")
    second = FeedReader(NETWORK, writer.share_id, READ_KEY)
    second.add(entries[0])
    with pytest.raises(MalformedMessage):
        second.add(short)


def test_a_link_is_read_as_it_was_written() -> None:
    link = Link(NETWORK, b"s" * 32, READ_KEY, 7)
    assert Link.parse("  " + link.to_text().upper() + "\n") == link
    assert not link.is_permanent
    pinned = link.pinned(b"c" * 32)
    assert pinned.is_permanent
    assert Link.parse(pinned.to_text()) == pinned
    assert pinned.pinned(None) == link
    assert READ_KEY.hex() not in repr(link)
    assert repr(READ_KEY) not in repr(link)


def test_links_that_cannot_be_used() -> None:
    link = Link(NETWORK, b"s" * 32, READ_KEY, 7)
    for text in ("", "shl1", link.to_text()[:-1], link.to_text().replace("shl", "sht"), "x" * 10_000):
        with pytest.raises(LocalMisuse):
            Link.parse(text)
    packed = link.pack()
    default_written_out = b"\x02" + packed[1:] + bytes(32)
    for data in (
        b"",
        packed[:-1],
        packed + b"x",
        b"\x04" + packed[1:],
        b"\x01" + packed[1:],
        default_written_out,
    ):
        with pytest.raises(LocalMisuse):
            Link.unpack(data)
    for arguments in ((b"", b"s" * 32, READ_KEY, 0), (NETWORK, b"s" * 32, READ_KEY, 2**32)):
        with pytest.raises(LocalMisuse):
            Link(*arguments)


def test_a_proof_counts_for_one_session_share_and_direction() -> None:
    read_key, exporter, share, prover, verifier = (bytes([n]) * 32 for n in range(1, 6))
    proof = make_fetch_proof(read_key, exporter, share, prover, verifier)
    assert check_fetch_proof(proof, read_key, exporter, share, prover, verifier)
    assert not check_fetch_proof(proof, read_key, exporter, share, verifier, prover)
    for position in range(5):
        values = [read_key, exporter, share, prover, verifier]
        values[position] = bytes(32)
        assert not check_fetch_proof(proof, *values)
    assert not check_fetch_proof(b"", read_key, exporter, share, prover, verifier)
    with pytest.raises(LocalMisuse):
        make_fetch_proof(b"short", exporter, share, prover, verifier)
