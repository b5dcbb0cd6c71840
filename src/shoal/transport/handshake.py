"""Handshake: from an open TLS channel to a session: the two hellos and who may pass.

The initiator's hello comes first; the responder answers only a verified member; before that nothing but the
hello is parsed. Cancelling either function is safe: the caller aborts the channel.
"""

from __future__ import annotations

from dataclasses import dataclass

from shoal.core.errors import MalformedMessage, RemoteFault, Unavailable
from shoal.identity.keys import DeviceKeys
from shoal.transport.channel import TlsChannel
from shoal.transport.frame_pipe import FramePipe
from shoal.transport.hello import LABEL, HelloRole, check_hello, make_hello
from shoal.transport.messages import ERROR_BYTES, ErrorReply, Hello, SessionType, make_error
from shoal.transport.ports import MembershipView
from shoal.wire.codec import decode, encode
from shoal.wire.frames import Frame, FrameKind, pack_frame
from shoal.wire.registry import ServiceNumber

HELLO_ID = 1


@dataclass(frozen=True, slots=True)
class Party:
    """This node, as it introduces itself."""

    keys: DeviceKeys
    network_id: bytes
    view: MembershipView
    instance: bytes


async def initiate(party: Party, pipe: FramePipe, replaces: bool, shown: list[bytes]) -> Hello:
    """Say hello over a channel we dialled; return the responder's verified hello.

    `shown`: entries that admit this device, for a responder that may lack them.

    Raises: RemoteFault, Unavailable (code `synchronise`, `duplicate`, or `stranger` when it hung up).
    """
    channel = pipe.channel
    ours = _make(party, channel, HelloRole.INITIATOR, shown, replaces)
    send(channel, FrameKind.REQUEST, ours)
    try:
        frame = await pipe.next_frame()
    except Unavailable as error:
        raise Unavailable(
            "The peer hung up at our hello",
            cause="it does not know this device as a member of its network",
            next_step="if it was just admitted, wait until that peer has heard of it",
            code="stranger",
        ) from error
    if frame.service != ServiceNumber.SESSION or frame.request_id != HELLO_ID:
        raise MalformedMessage("something else came before the hello")
    if frame.kind is FrameKind.ERROR:
        raise make_error(decode(ErrorReply, frame.payload, ERROR_BYTES), channel.peer_id)
    if frame.kind is not FrameKind.RESPONSE or frame.message_type != SessionType.HELLO:
        raise MalformedMessage("something else came before the hello")
    return await _check(party, channel, HelloRole.RESPONDER, frame)


async def respond(party: Party, pipe: FramePipe) -> Hello:
    """Wait for the initiator's hello and verify it; return it. The caller answers with `send_hello`.

    Raises: RemoteFault (code `stranger` for a key that is no member), Unavailable.
    """
    frame = await pipe.next_frame()
    if (frame.kind, frame.service, frame.message_type, frame.request_id) != (
        FrameKind.REQUEST,
        ServiceNumber.SESSION,
        SessionType.HELLO,
        HELLO_ID,
    ):
        raise MalformedMessage("something else came before the hello")
    try:
        return await _check(party, pipe.channel, HelloRole.INITIATOR, frame)
    except Unavailable as error:
        # its knock was right and it showed entries of our log: it is told why, and nothing else
        refuse(pipe.channel, ErrorReply("unavailable", "synchronise", "Synchronise elsewhere", error.message))
        raise


def send_hello(party: Party, channel: TlsChannel, theirs: Hello) -> None:
    """Send the responder's hello, in answer to `theirs`."""
    shown = party.view.show_admission(channel.peer_id, theirs.head)
    send(channel, FrameKind.RESPONSE, _make(party, channel, HelloRole.RESPONDER, shown, False))


def refuse(channel: TlsChannel, reply: ErrorReply) -> None:
    """Answer the initiator's hello with an error."""
    payload = encode(reply, ERROR_BYTES)
    channel.write(pack_frame(Frame(FrameKind.ERROR, ServiceNumber.SESSION, 0, HELLO_ID, payload)))


def send(channel: TlsChannel, kind: FrameKind, hello: Hello) -> None:
    """Send a hello as a request (initiator) or response (responder)."""
    frame = Frame(kind, ServiceNumber.SESSION, SessionType.HELLO, HELLO_ID, encode(hello))
    channel.write(pack_frame(frame))


def _make(party: Party, channel: TlsChannel, role: HelloRole, shown: list[bytes], replaces: bool) -> Hello:
    return make_hello(
        party.keys,
        role,
        party.network_id,
        channel.exporter(LABEL, party.network_id, 32),
        channel.peer_id,
        party.view.head(),
        shown,
        party.instance,
        replaces,
    )


async def _check(party: Party, channel: TlsChannel, role: HelloRole, frame: Frame) -> Hello:
    peer_id = channel.peer_id
    hello = decode(Hello, frame.payload)
    exporter = channel.exporter(LABEL, party.network_id, 32)
    check_hello(hello, role, party.network_id, exporter, party.keys.peer_id, peer_id)
    if not party.view.is_active(peer_id) and hello.entries:
        await party.view.learn(hello.entries)
    if not party.view.is_active(peer_id):
        raise RemoteFault(
            "The peer is not a member of this network",
            peer=peer_id,
            cause="it was never admitted, or it was removed",
            code="stranger",
        )
    return hello
