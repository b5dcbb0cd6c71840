"""Frames, codec, registry: everything that decodes raises only a RemoteFault."""

import msgspec
import pytest

from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage
from shoal.wire.codec import Message, decode, encode
from shoal.wire.frames import HEADER_BYTES, Frame, FrameKind, FrameReader, pack_frame
from shoal.wire.limits import MESSAGE_BYTES
from shoal.wire.registry import MessageTable, ServiceNumber


class Greeting(Message, frozen=True):
    name: str
    count: int = 0


class Longer(Message, frozen=True):
    name: str
    count: int = 0
    more: str = ""


def test_frame_layout_is_as_written() -> None:
    frame = Frame(FrameKind.REQUEST, 2, 0x0304, 0x05060708, b"abc")
    assert pack_frame(frame).hex() == "0000000b" + "01" + "02" + "0304" + "05060708" + "616263"


def test_frames_survive_any_cut() -> None:
    frames = [Frame(FrameKind.NOTICE, 1, n, 0, bytes([n]) * n) for n in range(5)]
    stream = b"".join(map(pack_frame, frames))
    for step in (1, 3, 7, len(stream)):
        reader = FrameReader()
        got = [f for at in range(0, len(stream), step) for f in reader.feed(stream[at : at + step])]
        assert got == frames


@pytest.mark.parametrize("declared", [0, 1, 7])
def test_too_short_a_frame_is_malformed(declared: int) -> None:
    with pytest.raises(MalformedMessage):
        FrameReader().feed(declared.to_bytes(4, "big"))


@pytest.mark.parametrize("declared", [MESSAGE_BYTES + 9, 2**31, 2**32 - 1])
def test_too_long_a_frame_is_refused_at_its_header(declared: int) -> None:
    with pytest.raises(LimitExceeded):
        FrameReader().feed(declared.to_bytes(4, "big"))


def test_the_longest_frame_is_allowed() -> None:
    frame = Frame(FrameKind.RESPONSE, 1, 1, 1, bytes(MESSAGE_BYTES))
    (got,) = FrameReader().feed(pack_frame(frame))
    assert len(got.payload) == MESSAGE_BYTES
    with pytest.raises(LocalMisuse):
        pack_frame(Frame(FrameKind.RESPONSE, 1, 1, 1, bytes(MESSAGE_BYTES + 1)))


def test_unknown_kind_is_malformed() -> None:
    raw = bytearray(pack_frame(Frame(FrameKind.NOTICE, 1, 1, 0, b"")))
    assert len(raw) == HEADER_BYTES
    raw[4] = 99
    with pytest.raises(MalformedMessage):
        FrameReader().feed(bytes(raw))


def test_messages_may_grow_by_fields_with_defaults() -> None:
    assert decode(Greeting, encode(Longer("a", 1, "new"))) == Greeting("a", 1)
    assert decode(Longer, encode(Greeting("a", 1))) == Longer("a", 1, "")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x90",
        msgspec.msgpack.encode([1, 2]),
        b"\x91" * 50_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x92\xa1a\xa1b",
    ],
)
def test_hostile_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(Greeting, data)


def test_size_is_checked_before_decoding() -> None:
    with pytest.raises(LimitExceeded):
        decode(Greeting, bytes(11), limit_bytes=10)
    with pytest.raises(LocalMisuse):
        encode(Greeting("x" * 100), limit_bytes=50)


def test_odd_unknown_messages_are_ignored_even_ones_are_not() -> None:
    table = MessageTable(ServiceNumber.SESSION, {2: Greeting})
    number, payload = table.encode(Greeting("a"))
    assert table.decode(number, payload) == Greeting("a")
    assert table.decode(77, b"anything") is None
    with pytest.raises(MalformedMessage):
        table.decode(78, b"anything")
