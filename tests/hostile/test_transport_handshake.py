"""Strangers, liars and floods before anybody is authenticated (security.md section 5, rows 1-4 and 11-12)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import pytest
import uvloop
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL
from tests.support.lying_dialler import (
    GONE,
    LyingDialler,
    make_alpn,
    make_context,
    make_foreign_certificate,
)
from tests.support.transport_nodes import Say, slower, transport_network, wait_until

from shoal.core.errors import RemoteFault
from shoal.identity.keys import DeviceKeys
from shoal.transport.address import Address
from shoal.transport.config import AdmissionLimits
from shoal.transport.hello import HelloRole
from shoal.wire.frames import Frame, FrameKind
from shoal.wire.registry import ServiceNumber

LOOPS = {"uvloop": uvloop.new_event_loop}
ROOMY = AdmissionLimits(connections_burst=10_000, pending_a_group=64)


def wrong_names(node) -> list[list[bytes]]:
    right = make_alpn(node)
    return [
        [],
        [b"h2"],
        [b"h2", right],
        [right, right],
        [make_alpn(node, door_key=b"x" * 32)],
        [right[:-1] + (b"0" if right[-1:] != b"0" else b"1")],
        [right.replace(b"shoal/1", b"shoal/2")],
        [right.upper()],
        [b"shoal/1.."],
        [b"shoal-join/1." + b"0" * 32 + b"." + b"0" * 64],
        [b"\xff" * 255],
    ]


@pytest.mark.parametrize("index", range(11))
async def test_wrong_knock_is_shown_seven_bytes_and_no_certificate(index: int):
    async with transport_network() as network:
        node = await network.add()
        names = wrong_names(node)[index]
        liar = await LyingDialler.connect(node, make_context(DeviceKeys.generate().tls_key()), names)
        assert not await liar.handshake()
        assert len(liar.shown) == 7
        assert liar.shown[:5] == bytes.fromhex("1503030002")
        assert liar.tls.get_peer_certificate() is None
        assert node.rules == ["wrong_knock"]
        assert node.transport._channels.tls.verify_calls == 0


async def test_a_knock_is_good_once():
    async with transport_network() as network:
        node, keys = await network.add(), DeviceKeys.generate()
        network.members.add(keys.peer_id)
        name = make_alpn(node)
        first = await LyingDialler.connect(node, make_context(keys.tls_key()), [name])
        assert await first.handshake()
        second = await LyingDialler.connect(node, make_context(keys.tls_key()), [name])
        assert not await second.handshake()
        assert len(second.shown) == 7


async def test_old_door_keys_are_accepted_and_only_the_newest_is_free():
    async with transport_network() as network:
        limits = AdmissionLimits(connections_s=0.001, connections_burst=3)
        node, keys = await network.add(limits=limits), DeviceKeys.generate()
        network.members.add(keys.peer_id)
        node.view.keys = [b"new" + bytes(29), *node.view.keys]
        for _ in range(6):
            liar = await LyingDialler.connect(
                node, make_context(keys.tls_key()), [make_alpn(node, node.view.keys[0])]
            )
            assert await liar.handshake()
            liar.close()
        for _ in range(3):
            liar = await LyingDialler.connect(node, make_context(keys.tls_key()), [make_alpn(node)])
            assert await liar.handshake()
            liar.close()
        liar = await LyingDialler.connect(node, make_context(keys.tls_key()), [make_alpn(node)])
        assert not await liar.handshake()
        assert liar.shown == b""
        assert node.rules[-1] == "handshake_flood"


@pytest.mark.parametrize("groups", ["X25519", "P-256", "X25519:X25519MLKEM768", "SecP256r1MLKEM768"])
async def test_another_group_gets_an_alert_and_no_certificate(groups: str):
    async with transport_network() as network:
        node, keys = await network.add(), DeviceKeys.generate()
        network.members.add(keys.peer_id)
        context = make_context(keys.tls_key(), groups=groups)
        liar = await LyingDialler.connect(node, context, [make_alpn(node)])
        assert not await liar.handshake()
        # with a right knock OpenSSL asks for the other share; the second ClientHello has a seen nonce
        assert len(liar.shown) == (106 if groups == "X25519:X25519MLKEM768" else 7)
        assert liar.tls.get_peer_certificate() is None
        assert node.transport.sessions() == []


async def test_without_a_knock_no_hello_retry_request_is_sent():
    async with transport_network() as network:
        node = await network.add()
        for names in ([], [make_alpn(node, b"x" * 32)]):
            context = make_context(groups="X25519:X25519MLKEM768")
            liar = await LyingDialler.connect(node, context, names)
            assert not await liar.handshake()
            assert len(liar.shown) == 7


@pytest.mark.parametrize("kind", ["rsa", "p521", "none"])
async def test_only_ed25519_certificates_pass(kind: str):
    async with transport_network() as network:
        node = await network.add()
        if kind == "rsa":
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            context = make_context(key, make_foreign_certificate(key, hashes.SHA256()))
        elif kind == "p521":
            key = ec.generate_private_key(ec.SECP521R1())
            context = make_context(key, make_foreign_certificate(key, hashes.SHA512()))
        else:
            context = make_context()
        liar = await LyingDialler.connect(node, context, [make_alpn(node)])
        await liar.handshake()
        assert await liar.next_frame() == GONE
        assert node.transport.sessions() == []
        assert node.rules[-1] == "bad_handshake"


async def test_an_old_session_is_not_resumed_and_the_certificate_is_looked_at_again():
    async with transport_network() as network:
        node, keys = await network.add(), DeviceKeys.generate()
        network.members.add(keys.peer_id)
        context = make_context(keys.tls_key())
        offered = await LyingDialler.connect(node, context, [make_alpn(node)])
        assert await offered.handshake()
        await offered.be_session(node, keys)
        calls = node.transport._channels.tls.verify_calls
        assert calls > 0
        sessions = [offered.tls.get_session(), session_of_a_server_with_tickets(context, node.keys)]
        for count, session in enumerate(sessions, start=2):
            again = await LyingDialler.connect(node, context, [make_alpn(node)])
            if session is not None:
                again.tls.set_session(session)
            assert await again.handshake()
            await again.be_session(node, keys)
            assert not SSL._lib.SSL_session_reused(again.tls._ssl)
            assert node.transport._channels.tls.verify_calls == calls * count


def session_of_a_server_with_tickets(context: SSL.Context, keys: DeviceKeys) -> SSL.Session | None:
    """A session that a careless server with the node's own certificate would resume."""
    careless = make_context(keys.tls_key())
    careless.set_session_id(b"careless")
    session = None
    for resumed in (0, 1):
        server, client = SSL.Connection(careless, None), SSL.Connection(context, None)
        if session is not None:
            client.set_session(session)
        server.set_accept_state()
        client.set_connect_state()
        for _ in range(4):
            for one, other in ((client, server), (server, client)):
                with contextlib.suppress(SSL.WantReadError):
                    one.do_handshake()
                with contextlib.suppress(SSL.WantReadError):
                    other.bio_write(one.bio_read(65536))
        with contextlib.suppress(SSL.WantReadError):
            client.recv(1)
        with contextlib.suppress(SSL.Error):
            client.shutdown()  # a connection that is only dropped spoils its session
        assert SSL._lib.SSL_session_reused(client._ssl) == resumed  # it really would
        session = client.get_session()
    return session


@pytest.mark.parametrize("member", [False, True])
async def test_a_key_that_is_no_member_gets_no_answer_to_its_hello(member: bool):
    async with transport_network() as network:
        node, keys = await network.add(), DeviceKeys.generate()
        if member:  # it was one, and was removed
            network.members.add(keys.peer_id)
            (await LyingDialler.member(node, keys)).close()
            network.members.discard(keys.peer_id)
        liar = await LyingDialler.member(node, keys)
        await liar.say_hello(node, keys)
        assert await liar.next_frame() == GONE
        assert node.rules[-1] == "unknown_member"
        assert node.transport.sessions() == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"exporter": b"x" * 32}, "channel_binding_mismatch"),
        ({"role": HelloRole.RESPONDER}, "channel_binding_mismatch"),
        ({"network": b"O" * 32}, "wrong_network"),
    ],
)
async def test_hellos_that_are_not_for_this_channel(changes, rule):
    async with transport_network() as network:
        node, keys = await network.add(), DeviceKeys.generate()
        network.members.add(keys.peer_id)
        liar = await LyingDialler.member(node, keys)
        await liar.say_hello(node, keys, **changes)
        assert await liar.next_frame() == GONE
        assert node.rules == [rule]


async def test_a_hello_signed_by_another_member_is_refused():
    async with transport_network() as network:
        node, keys, other = await network.add(), DeviceKeys.generate(), DeviceKeys.generate()
        network.members |= {keys.peer_id, other.peer_id}
        liar = await LyingDialler.member(node, keys)
        await liar.say_hello(node, other)
        assert await liar.next_frame() == GONE
        assert node.rules == ["channel_binding_mismatch"]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff" + b"12345",
        b"\0\0\0\0",
        b"\x80\0\0\0" + b"1" * 8,
        Frame(FrameKind.REQUEST, 1, 2, 1, b""),
        Frame(FrameKind.REQUEST, 1, 2, 1, b"\x91" * 60_000),
        Frame(FrameKind.REQUEST, 1, 8, 1, b"\x91\xc4\x08" + b"h" * 8),
        Frame(FrameKind.REQUEST, 4, 2, 1, b"\x92\xc4\x01a\xa4echo"),
        Frame(FrameKind.NOTICE, 1, 4, 0, b"\x90"),
    ],
    ids=["4GiB", "zero", "2GiB", "empty hello", "nested", "ping", "request", "settled"],
)
async def test_nothing_but_a_hello_is_parsed_first(data):
    async with transport_network() as network:
        node, keys = await network.add(), DeviceKeys.generate()
        network.members.add(keys.peer_id)
        liar = await LyingDialler.member(node, keys)
        if isinstance(data, Frame):
            await liar.send_frame(data.kind, data.service, data.message_type, data.request_id, data.payload)
        else:
            await liar.send(data)
        assert await liar.next_frame() == GONE
        assert node.rules[0] in ("malformed_message", "oversize")
        assert node.echo.log == []


async def test_frames_without_end_before_an_answer_are_cut_off():
    async with transport_network() as network:
        node, keys = await network.add(), DeviceKeys.generate()
        node.view.on_learn = lambda: None
        liar = await LyingDialler.member(node, keys)
        frame = b"\0\0\x40\x08" + bytes([1, 1, 0, 2, 0, 0, 0, 1]) + b"x" * 16384
        with contextlib.suppress(OSError):
            for _ in range(100):
                await liar.send(frame)
        assert await liar.next_frame() == GONE


async def test_one_byte_a_second_ends_at_the_handshake_time_out():
    async with transport_network() as network:
        node, keys = await network.add(timing=slower(handshake_s=0.5)), DeviceKeys.generate()
        liar = await LyingDialler.connect(node, make_context(keys.tls_key()), [make_alpn(node)])
        with contextlib.suppress(SSL.WantReadError):
            liar.tls.do_handshake()
        started = asyncio.get_running_loop().time()
        with contextlib.suppress(OSError):
            for byte in liar.pending_output():
                liar.writer.write(bytes([byte]))
                await asyncio.sleep(0.05)
                if liar.reader.at_eof() or asyncio.get_running_loop().time() - started > 5:
                    break
        assert await liar.reader.read(100) == b""
        assert 0.4 < asyncio.get_running_loop().time() - started < 1.5
        assert node.rules == ["handshake_timeout"]


@pytest.mark.parametrize("stage", ["silent", "first byte", "tls", "half a hello"])
async def test_every_stage_of_a_handshake_is_bounded_in_time(stage: str):
    async with transport_network() as network:
        node, keys = await network.add(timing=slower(handshake_s=0.4)), DeviceKeys.generate()
        network.members.add(keys.peer_id)
        liar = await LyingDialler.connect(node, make_context(keys.tls_key()), [make_alpn(node)])
        if stage == "first byte":
            liar.writer.write(b"\x16")
        elif stage in ("tls", "half a hello"):
            assert await liar.handshake()
        if stage == "half a hello":
            await liar.send(b"\0\0\0\x40\1\1")
        assert await asyncio.wait_for(liar.reader.read(), 2.0) is not None  # to the end of the connection
        assert node.rules == ["handshake_timeout"]
        assert len(node.transport._acceptor._admission) == 0


async def test_garbage_and_other_protocols_are_closed_at_the_first_byte():
    async with transport_network() as network:
        node = await network.add()
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\0", b"SSH-2.0-x\r\n", b"\x15\3\3\0\2\2\0"):
            reader, writer = await asyncio.open_connection(node.address.host, node.address.port)
            writer.write(data)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read(10) == b""
            writer.close()
        assert node.rules == ["bad_preamble"] * 4


async def test_garbage_after_a_tls_first_byte():
    async with transport_network() as network:
        node = await network.add()
        reader, writer = await asyncio.open_connection(node.address.host, node.address.port)
        writer.write(b"\x16\3\1\2\0" + os.urandom(512))
        assert len(await reader.read(100)) <= 7
        await wait_until(lambda: node.rules == ["bad_handshake"])
        writer.close()


async def test_a_bloated_handshake_is_cut_off():
    async with transport_network() as network:
        node = await network.add()
        reader, writer = await asyncio.open_connection(node.address.host, node.address.port)
        # a ClientHello of 60 KiB in fragments of 16 KiB
        body = b"\1\0\xf0\0" + b"\0" * 16380
        with contextlib.suppress(OSError):
            for _ in range(4):
                writer.write(b"\x16\3\1\x40\0" + body[:16384])
                await writer.drain()
            assert len(await reader.read(100)) <= 7
        await wait_until(lambda: bool(node.rules))
        writer.close()


async def test_sixty_four_pending_handshakes_and_members_still_get_in():
    async with transport_network() as network:
        timing = slower(handshake_s=5.0)
        limits = AdmissionLimits(connections_burst=10_000, pending_a_group=64, evict_after_s=0.3)
        node = await network.add(timing=timing, limits=limits)
        friend = await network.add()
        opened = [socket.create_connection(("127.0.0.1", node.address.port)) for _ in range(80)]
        try:
            await wait_until(lambda: node.rules.count("handshakes_full") == 16)
            assert len(node.transport._acceptor._admission) == 64
            await asyncio.sleep(0.35)
            session = await friend.dial(node)  # the oldest that never knocked goes for it
            assert (await session.request(ServiceNumber.SWARM, Say(b"x"))).text == b"x"
            assert len(node.transport._acceptor._admission) == 63
        finally:
            for sock in opened:
                sock.close()
        await wait_until(lambda: len(node.transport._acceptor._admission) == 0)


async def test_a_flood_from_one_address_is_cut_to_its_budget_and_sessions_live_on():
    async with transport_network() as network:
        limits = AdmissionLimits(connections_s=5, connections_burst=10)
        node, friend = await network.add(limits=limits), await network.add()
        session = await friend.dial(node)
        for _ in range(10):
            opened = [asyncio.open_connection("127.0.0.1", node.address.port) for _ in range(20)]
            for _, writer in await asyncio.gather(*opened):
                writer.close()
        await wait_until(lambda: node.rules.count("handshake_flood") > 180)
        assert (await session.request(ServiceNumber.SWARM, Say(b"x"))).text == b"x"
        assert not session.closed


async def test_many_members_behind_one_address_get_in():
    async with transport_network() as network:
        node = await network.add(limits=AdmissionLimits(connections_s=0.001, connections_burst=2))
        for _ in range(10):
            await (await network.add()).dial(node)
        assert len(node.transport.sessions()) == 10
        assert node.rules == []


async def test_a_server_with_another_kind_of_key_is_a_fault():
    key = ec.generate_private_key(ec.SECP256R1())
    context = make_context(key, make_foreign_certificate(key, hashes.SHA256()))
    context.set_alpn_select_callback(lambda _, names: names[0])
    async with transport_network() as network:
        node, keys = await network.add(), DeviceKeys.generate()
        network.members.add(keys.peer_id)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tls = SSL.Connection(context, None)
            tls.set_accept_state()
            liar = LyingDialler(reader, writer, tls)
            await liar.handshake()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = node.address.__class__("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(RemoteFault) as error:
            await node.transport.dial(keys.peer_id, address)
        assert error.value.code == "tls"
        server.close()


async def test_who_answers_at_a_peers_address_does_not_learn_who_dialled():
    """Its key is wrong, so our certificate is not shown to it: a check after the handshake comes too late."""
    async with transport_network() as network:
        node, keys = await network.add(), DeviceKeys.generate()
        expected = DeviceKeys.generate().peer_id
        network.members.add(expected)
        shown: list[bytes] = []
        answered = asyncio.Event()
        context = make_context(keys.tls_key())
        context.set_verify(
            SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: shown.append(b"") or True
        )
        context.set_alpn_select_callback(lambda _, names: names[0])

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tls = SSL.Connection(context, None)
            tls.set_accept_state()
            liar = LyingDialler(reader, writer, tls)
            await liar.handshake()
            writer.close()
            answered.set()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(RemoteFault) as fault:
            await node.transport.dial(expected, address)
        assert fault.value.code == "wrong_peer"
        await answered.wait()
        assert shown == []
        server.close()
