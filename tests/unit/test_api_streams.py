"""Streams over the API: bytes in and out through a real Unix socket, with a fake node behind it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.fake_node import LINK, FakeNode, FakeStream, serve

from shoal.api import content_schema as c
from shoal.api.client import Client
from shoal.api.frames import DATA, END, FAILURE, FRAME_BYTES, NOTE, make_frame, read_frames
from shoal.core.errors import LocalMisuse, Refused, RemoteFault, ShoalError, Unavailable
from shoal.core.units import MIB


@pytest.fixture
def home(tmp_path: Path) -> str:
    return str(tmp_path / "home")


@pytest.fixture
def node(home: str) -> Iterator[FakeNode]:
    with serve(home) as fake:
        yield fake


def test_bytes_in(home: str, node: FakeNode) -> None:
    data = random.Random(1).randbytes(5 * MIB)
    with Client(home) as client:
        pieces = (data[start : start + 100_000] for start in range(0, len(data), 100_000))
        assert client.share_stream(pieces, b"dump \xff").link == LINK
        assert client.share_stream(iter(()), "empty", background=True).link == LINK
        assert client.status().name == "anna"
    assert node.piped == data
    first, second = (request for _, request in node.asked[:2])
    assert isinstance(first, c.ShareStreamRequest)
    assert not isinstance(first.name, str)
    assert second == c.ShareStreamRequest(name="empty", background=True)


def test_a_stream_that_is_refused_is_not_read_to_its_end(home: str, node: FakeNode) -> None:
    node.fail = Refused("Nothing was shared", cause="c", next_step="n", code="role")
    count = itertools.count()

    def endless() -> Iterator[bytes]:
        while next(count) < 100_000:  # 100 GB if nobody said no
            yield b"x" * MIB

    with Client(home) as client:
        with pytest.raises(Refused) as caught:
            client.share_stream(endless(), "name")
        assert (caught.value.code, caught.value.cause) == ("role", "c")
        assert next(count) < 1000
        node.fail = None
        assert client.status().name == "anna"


def test_what_reading_the_source_raises_is_the_callers(home: str, node: FakeNode) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise KeyError("oops")

    with Client(home) as client:
        with pytest.raises(KeyError):
            client.share_stream(broken(), "name")
        assert client.status().name == "anna"


def test_bytes_out(home: str, node: FakeNode) -> None:
    pieces = [random.Random(n).randbytes(MIB) for n in range(8)]
    node.stream = FakeStream(*pieces)
    with Client(home) as client:
        generator = client.get_stream(LINK, only=["a", b"\xff"], wait_s=None)
        got = []
        while True:
            try:
                got.append(next(generator))
            except StopIteration as end:
                result = end.value
                break
    assert b"".join(got) == b"".join(pieces)
    assert (result.name, result.bytes) == ("dump", 8 * MIB)
    request = node.asked[0][1]
    assert isinstance(request, c.GetStreamRequest)
    assert (request.link, len(request.only), request.wait_s) == (LINK, 2, None)


def test_notes_come_while_it_waits_and_leaving_ends_it(
    home: str, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.api.streams.NOTE_S", 0.02)
    node.stream = FakeStream(b"abc", None)
    notes: list[str] = []

    class Enough(Exception):
        pass

    def on_note(note: str) -> None:
        notes.append(note)
        if len(notes) == 3:
            raise Enough

    with Client(home) as client:
        generator = client.get_stream(LINK, on_note=on_note)
        assert next(generator) == b"abc"
        with pytest.raises(Enough):
            next(generator)
        assert node.stream.closed.wait(5)
        assert client.status().name == "anna"
    assert notes == ["looking for somebody"] * 3


def test_a_reader_that_closes_ends_it(home: str, node: FakeNode) -> None:
    node.stream = FakeStream(*[b"x" * MIB] * 1000)
    with Client(home) as client:
        generator = client.get_stream(LINK)
        assert next(generator) == b"x" * MIB
        generator.close()
        assert node.stream.closed.wait(5)


@pytest.mark.parametrize("when", [0, 3])
def test_failures_keep_their_class_before_and_after_the_first_byte(
    home: str, node: FakeNode, when: int
) -> None:
    node.stream = FakeStream(*[b"x"] * when, Unavailable("u", cause="c", next_step="n", code="no_provider"))
    with Client(home) as client:
        generator = client.get_stream(LINK)
        assert [next(generator) for _ in range(when)] == [b"x"] * when
        with pytest.raises(Unavailable) as caught:
            next(generator)
        assert (caught.value.code, caught.value.cause) == ("no_provider", "c")
        node.stream = FakeStream(KeyError("oops"))
        with pytest.raises(ShoalError) as internal:
            next(client.get_stream(LINK))
        assert internal.value.code == "internal"
        node.fail = LocalMisuse("l", code="bad_link")
        with pytest.raises(LocalMisuse):
            next(client.get_stream(LINK))


def test_frames_survive_any_cut() -> None:
    body = (
        make_frame(DATA, b"abc")
        + make_frame(NOTE, b"")
        + make_frame(DATA, b"d" * 70_000)
        + make_frame(END, b"{}")
    )
    rng = random.Random(7)
    for _ in range(20):
        cuts = sorted(rng.randrange(len(body) + 1) for _ in range(12))
        parts = [body[a:b] for a, b in itertools.pairwise([0, *cuts, len(body)])]
        frames = list(read_frames(parts))
        assert [kind for kind, _ in frames] == [DATA, NOTE, DATA, END]
        assert frames[2][1] == b"d" * 70_000
    assert list(read_frames([body[:-1]]))[-1][0] == DATA


@pytest.mark.parametrize(
    "head", [b"X\0\0\0\0", b"D" + (FRAME_BYTES + 1).to_bytes(4, "big"), FAILURE + b"\xff" * 4]
)
def test_what_is_no_frame_is_said(head: bytes) -> None:
    with pytest.raises(RemoteFault):
        list(read_frames([head]))
