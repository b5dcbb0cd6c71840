"""Client: a node's operations as typed Python calls, over its Unix socket.

    from shoal import connect

    with connect() as shoal:
        link = shoal.share("photos").link
        print(shoal.get(link, "/tmp").files)

Calls block; each raises only `ShoalError`, of the class that the node raised.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlencode

import httpx
import msgspec
from msgspec import Struct

from shoal.api import content_schema as c
from shoal.api import operations as ops
from shoal.api import pin_schema as p
from shoal.api import schema as s
from shoal.api import store_schema as st
from shoal.api.faults import ErrorReply, make_error
from shoal.api.frames import DATA, END, NOTE, read_frames
from shoal.api.operations import Operation, StreamIn, StreamOut
from shoal.api.paths import AnyPath, default_home, encode_path, resolve_path
from shoal.core.decoders import get_json_decoder
from shoal.core.errors import LocalMisuse, Refused, RemoteFault, Unavailable
from shoal.core.processes import is_alive
from shoal.storage.home import Home, find_socket_path

Q = TypeVar("Q", bound=Struct)
R = TypeVar("R", bound=Struct)

CALL_TIMEOUT_S = (
    60.0  # longest an operation takes by itself: `remove` waits 10 s, `get` finds its share first
)
POLL_S = 1.0  # progress is shown at least this often
ID_SHOWN = 12  # characters of a transfer's id in what a person is told to type
ENDED = ("done", "failed", "paused", "cancelled")


class Client:
    """A node, seen from a program of the same user. One connection; not for several threads at once."""

    def __init__(self, home: AnyPath | None = None) -> None:
        self.home = os.path.abspath(os.fsdecode(home)) if home is not None else default_home()
        self._path = find_socket_path(self.home)
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=self._path),
            base_url="http://shoal",
            timeout=httpx.Timeout(CALL_TIMEOUT_S),
            trust_env=False,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; idempotent."""
        self._http.close()

    def call(self, operation: Operation[Q, R], request: Q) -> R:
        """Ask one operation.

        Raises: Unavailable (code `not_running`) if no node runs in the home, ConfigFault if it is no home,
        else what the node raised.
        """
        with self._asking(operation.name):
            reply = self._http.post(f"/v1/{operation.name}", content=msgspec.json.encode(request))
        return _read_reply(operation.name, reply.status_code, reply.content, operation.response)

    def call_with(self, operation: StreamIn[Q, R], request: Q, body: Iterable[bytes]) -> R:
        """Ask an operation that takes bytes; `body` is read as fast as the node takes it. Raises: as `call`,
        and what reading it raises.
        """
        with self._asking(operation.name):
            reply = self._http.post(_stream_url(operation.name, request), content=iter(body))
        return _read_reply(operation.name, reply.status_code, reply.content, operation.response)

    def iterate(
        self, operation: StreamOut[Q], request: Q, on_note: Callable[[str], None] = lambda note: None
    ) -> Generator[bytes, None, c.StreamResult]:
        """Yield the bytes of an operation that answers with some; returns what they were. Whoever closes the
        generator before ends it in the node, too. `on_note` is told what is waited for.

        Raises: as `call`, Unavailable (code `node_ended`) if they are cut off.
        """
        name = operation.name
        with self._asking(name), self._http.stream("POST", _stream_url(name, request)) as reply:
            if reply.status_code != 200:
                reply.read()
                _read_reply(name, reply.status_code, reply.content, Struct)
            for kind, payload in read_frames(reply.iter_raw()):
                if kind == DATA:
                    yield payload
                elif kind == NOTE:
                    on_note(payload.decode("utf-8", "replace"))
                elif kind == END:
                    return _read_reply(name, 200, payload, c.StreamResult)
                else:
                    _read_reply(name, 500, payload, c.StreamResult)
        raise _node_ended(name)

    def status(self) -> s.Status:
        """Return who this node is."""
        return self.call(ops.STATUS, s.Nothing())

    def invite(
        self, role: s.RoleName = "member", expires_s: float = 24 * 3600.0, user: str | None = None
    ) -> s.Invite:
        """Make a ticket and a code that admit one device."""
        return self.call(ops.INVITE, s.InviteRequest(role=role, expires_s=expires_s, user=user))

    def invite_state(self, ticket: str, failures: int = 0, wait_s: float = 0.0) -> s.InviteState:
        """Return what became of an invite, as soon as that is news, else after `wait_s`."""
        return self.call(
            ops.INVITE_STATE, s.InviteWaitRequest(ticket=ticket, failures=failures, wait_s=wait_s)
        )

    def peers(self) -> list[s.Peer]:
        """Return the other active members."""
        return self.call(ops.PEERS, s.Nothing()).peers

    def members(self) -> s.Members:
        """Return everybody who is or was a member."""
        return self.call(ops.MEMBERS, s.Nothing())

    def remove(self, peer: str) -> s.Removal:
        """Expel a device: its id, the beginning of it, or its name. Waits up to 10 s."""
        return self.call(ops.REMOVE, s.PeerRequest(peer=peer))

    def leave(self) -> s.Left:
        """Give up membership; the node stops serving."""
        return self.call(ops.LEAVE, s.Nothing())

    def ping(self, peer: str) -> s.Ping:
        """Say how a peer is reached."""
        return self.call(ops.PING, s.PeerRequest(peer=peer))

    def share(
        self,
        *paths: AnyPath,
        wait: bool = False,
        watch: bool | None = None,
        background: bool = False,
        accept_removals: bool = False,
    ) -> s.Share:
        """Share files and folders; returns at once, or with `wait` when the share is complete.

        `watch`: whether changes of the files become versions by themselves; None leaves that as it is;
        False for what is shared already only ends that, also where the files are gone. In the `background`
        reading and sending them gives way to whatever else the node does. `accept_removals`: the
        next version of a watched share may lack nearly all files of the one before.
        """
        request = s.ShareRequest(
            paths=[resolve_path(p) for p in paths],
            watch=watch,
            background=background,
            accept_removals=accept_removals,
        )
        found = self.call(ops.SHARE, request)
        return self.wait_share(found) if wait else found

    def wait_share(
        self, share: s.Share, on_progress: Callable[[s.ShareDetail], None] | None = None
    ) -> s.Share:
        """Wait until a share is complete. Raises: what made its hashing fail."""
        done: int | None = None
        while True:
            request = s.ShareWaitRequest(share_id=share.share_id, done_bytes=done, wait_s=POLL_S)
            detail = self.call(ops.SHARE_STATE, request)
            if on_progress is not None:
                on_progress(detail)
            if detail.error is not None:
                raise make_error(detail.error, detail.fault or "ShoalError")
            if detail.complete:
                return s.Share(
                    detail.link, detail.share_id, True, detail.content_id, detail.files, detail.bytes
                )
            done = detail.done_bytes

    def shares(self) -> list[s.ShareDetail]:
        """Return everything this node serves."""
        return self.call(ops.SHARES, s.Nothing()).shares

    def unshare(self, share: str | None = None, *, path: AnyPath | None = None) -> s.Unshared:
        """Stop serving a share (id or link) or a shared path."""
        value = resolve_path(path) if path is not None else None
        return self.call(ops.UNSHARE, s.UnshareRequest(share=share, path=value))

    def ls(self, link: str, path: str | bytes = "", *, limit: int = c.LIST_LIMIT) -> c.ListPage:
        """Return what a link names: the entries at `path`, or those whose paths begin with it."""
        return self.call(ops.LS, c.ListRequest(link=link, path=encode_path(path), limit=limit))

    def share_stream(
        self, source: Iterable[bytes], name: str | bytes, *, background: bool = False
    ) -> s.Share:
        """Share what comes out of `source` as one file called `name`; returns when all of it came."""
        request = c.ShareStreamRequest(name=encode_path(name), background=background)
        return self.call_with(ops.SHARE_STREAM, request, source)

    def get_stream(
        self,
        link: str,
        *,
        only: Sequence[AnyPath] = (),
        wait_s: float | None = 0.0,
        background: bool = False,
        on_note: Callable[[str], None] = lambda note: None,
    ) -> Generator[bytes, None, c.StreamResult]:
        """Yield the one file that a link names (or `only` selects), in order, verified; no copy is kept."""
        request = c.GetStreamRequest(
            link=link, only=tuple(map(encode_path, only)), wait_s=wait_s, background=background
        )
        return self.iterate(ops.GET_STREAM, request, on_note)

    def start_get(
        self,
        link: str,
        dest: AnyPath = ".",
        *,
        overwrite: bool = False,
        wait_s: float | None = 0.0,
        only: Sequence[AnyPath] = (),
        background: bool = False,
    ) -> s.TransferDetail:
        """Start a transfer, or attach to the one that runs; returns at once."""
        request = s.GetRequest(
            link=link,
            dest=resolve_path(dest),
            overwrite=overwrite,
            wait_s=wait_s,
            only=[encode_path(pattern) for pattern in only],
            background=background,
        )
        return self.call(ops.GET, request)

    def get(
        self,
        link: str,
        dest: AnyPath = ".",
        *,
        overwrite: bool = False,
        wait_s: float | None = 0.0,
        only: Sequence[AnyPath] = (),
        background: bool = False,
        on_progress: Callable[[s.TransferDetail], None] | None = None,
    ) -> s.GetResult:
        """Fetch what a link names and return when it is there. Interrupting leaves the transfer running.

        `wait_s`: seconds to wait for absent providers, None for ever. `only`: gitignore-like patterns for the
        part that is wanted. In the `background` it moves what other transfers leave. Raises: what made the
        transfer fail.
        """
        started = self.start_get(
            link, dest, overwrite=overwrite, wait_s=wait_s, only=only, background=background
        )
        return self.wait_transfer(started, on_progress)

    def wait_transfer(
        self, transfer: s.TransferDetail, on_progress: Callable[[s.TransferDetail], None] | None = None
    ) -> s.GetResult:
        """Wait until a transfer is done.

        Raises: what made it fail, Unavailable if it was paused, Refused if somebody cancelled it.
        """
        while True:
            if on_progress is not None:
                on_progress(transfer)
            if transfer.state in ENDED:
                return _result_of(transfer)
            request = s.TransferRequest(id=transfer.id, revision=transfer.revision, wait_s=POLL_S)
            try:
                transfer = self.call(ops.TRANSFER, request)
            except LocalMisuse as error:
                if error.code != "unknown_transfer":
                    raise
                raise _cancelled() from error

    def transfers(self) -> list[s.Transfer]:
        """Return all transfers of this home."""
        return self.call(ops.TRANSFERS, s.Nothing()).transfers

    def control_transfer(self, transfer_id: str, verb: s.TransferVerb) -> s.TransferDetail:
        """Pause, resume or cancel a transfer."""
        return self.call(ops.CONTROL_TRANSFER, s.TransferControlRequest(id=transfer_id, verb=verb))

    def start_pin(self, link: str, *, lease_s: float | None = None, wait_s: float | None = 0.0) -> p.Pin:
        """Begin to keep a copy of what a link names, or attach to who does so; returns at once."""
        return self.call(ops.PIN, p.PinRequest(link=link, lease_s=lease_s, wait_s=wait_s))

    def pin(self, link: str, *, lease_s: float | None = None, wait_s: float | None = 0.0) -> p.Pin:
        """Keep a copy of what a link names and return when it is complete. Raises: what made it fail."""
        return self.wait_pin(self.start_pin(link, lease_s=lease_s, wait_s=wait_s))

    def wait_pin(self, pin: p.Pin, on_progress: Callable[[p.Pin], None] | None = None) -> p.Pin:
        """Wait until a pin is complete. Raises: what made it fail."""
        while pin.state in ("fetching", "repairing"):
            if on_progress is not None:
                on_progress(pin)
            request = p.PinWaitRequest(number=pin.number, revision=pin.revision, wait_s=POLL_S)
            pin = self.call(ops.PIN_STATE, request)
        if pin.error is not None:
            raise make_error(pin.error, pin.fault or "Unavailable")
        return pin

    def pins(self) -> list[p.Pin]:
        """Return the copies this node keeps."""
        return self.call(ops.PINS, s.Nothing()).pins

    def unpin(self, pin: str) -> list[p.Pin]:
        """Keep a copy no longer: a share id, its beginning, or a link."""
        return self.call(ops.UNPIN, p.UnpinRequest(pin=pin)).pins

    def wait_store_work(
        self, verb: st.StoreVerb, on_progress: Callable[[st.StoreWork], None] | None = None
    ) -> st.StoreWork:
        """Check the whole store (`verify`) or give space back (`gc`), and return at the end.

        Interrupting leaves it running. Raises: what made it fail.
        """
        work = self.call(ops.STORE_WORK, st.StoreWorkRequest(verb=verb, wait_s=POLL_S))
        while work.running:
            if on_progress is not None:
                on_progress(work)
            work = self.call(ops.STORE_WORK, st.StoreWorkRequest(verb=verb, start=False, wait_s=POLL_S))
        if work.error is not None:
            raise make_error(work.error, work.fault or "ShoalError")
        return work

    def limits(
        self, *, upload: str | None = None, download: str | None = None, peer: str | None = None
    ) -> s.Limits:
        """Return the limits in force, after setting some: `10 MB/s`, `unlimited`, or `default` to end it."""
        return self.call(ops.LIMITS, s.LimitsRequest(upload=upload, download=download, peer=peer))

    def follow(
        self,
        link: str,
        dest: AnyPath = ".",
        *,
        overwrite: bool = False,
        keep_s: float = 30 * 86400.0,
        keep_count: int = 100,
    ) -> s.Follow:
        """Keep a copy of a share current from now on; returns at once."""
        request = s.FollowRequest(
            link=link, dest=resolve_path(dest), overwrite=overwrite, keep_s=keep_s, keep_count=keep_count
        )
        return self.call(ops.FOLLOW, request)

    def follows(self) -> list[s.Follow]:
        """Return all copies that follow their share."""
        return self.call(ops.FOLLOWS, s.Nothing()).follows

    def unfollow(self, follow: str | None = None, *, path: AnyPath | None = None) -> s.Follow:
        """End a follow, by share id, link or name, or by its folder."""
        value = resolve_path(path) if path is not None else None
        return self.call(ops.UNFOLLOW, s.UnfollowRequest(follow=follow, path=value))

    def settings(self) -> list[s.Setting]:
        """Return the settings that the node was started with."""
        return self.call(ops.SETTINGS, s.Nothing()).settings

    def diagnose(self) -> s.Report:
        """Return what the running node finds about itself."""
        return self.call(ops.DIAGNOSE, s.Nothing())

    def down(self, timeout_s: float = 10.0) -> s.Stopping:
        """Stop the node and return when its process has ended. Raises: Unavailable after `timeout_s`."""
        stopping = self.call(ops.DOWN, s.Nothing())
        self.close()
        limit = time.monotonic() + timeout_s
        while is_alive(stopping.pid):
            if time.monotonic() > limit:
                raise Unavailable(
                    "The node has not stopped",
                    cause=f"process {stopping.pid} still runs after {math.ceil(timeout_s)} s",
                    next_step=f"end it with: kill -9 {stopping.pid} (nothing acknowledged is lost)",
                    code="not_stopped",
                )
            time.sleep(0.02)
        return stopping

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """Say in our words what goes wrong on the way to the node and back."""
        self._check_owner()
        try:
            yield
        except httpx.ConnectError as error:
            raise self._not_running() from error
        except httpx.TimeoutException as error:
            raise Unavailable(
                f"{name} was not answered",
                cause=f"the node has been silent for {CALL_TIMEOUT_S:.0f} s",
                next_step="see what it does: shoal doctor",
                code="no_answer",
            ) from error
        except httpx.TransportError as error:
            raise _node_ended(name) from error

    def _check_owner(self) -> None:
        """Raises: Refused if another user made the socket: one in /tmp could be bait."""
        try:
            owner = os.lstat(self._path).st_uid
        except OSError:
            return  # not there, or not to be seen: connecting says so
        if owner != os.geteuid():
            raise Refused(
                "The node was not asked",
                cause=f"the socket {self._path} belongs to user number {owner}",
                next_step="run the command as the user that runs the node",
                code="foreign_socket",
            )

    def _not_running(self) -> Unavailable:
        Home.open(self.home, lock=False).close()  # says what is wrong with the home, if something is
        return Unavailable(
            "No node runs in this home",
            cause=f"nobody answers for {self.home}",
            next_step="start it with: shoal up --detach",
            code="not_running",
        )


def connect(home: AnyPath | None = None) -> Client:
    """Return a client of the node in `home` (default: SHOAL_HOME, else the user's data directory)."""
    return Client(home)


def _stream_url(name: str, request: Struct) -> str:
    return f"/v1/{name}?{urlencode({'arguments': msgspec.json.encode(request)})}"


def _read_reply(name: str, status: int, content: bytes, kind: type[R]) -> R:
    """Return an answer. Raises: what the node raised, RemoteFault for what is no answer."""
    try:
        if status == 200:
            return get_json_decoder(kind).decode(content)
        failed = get_json_decoder(ErrorReply).decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RemoteFault(
            f"The answer to {name} cannot be read",
            cause=f"HTTP {status}; the node may be another release",
            next_step="restart the node: shoal down, then shoal up --detach",
        ) from error
    raise make_error(failed.error, failed.fault, failed.retry_after_s)


def _node_ended(name: str) -> Unavailable:
    return Unavailable(
        "The node went away",
        cause=f"it ended before it answered ({name})",
        next_step="start it again: shoal up --detach; transfers go on by themselves",
        code="node_ended",
    )


def _cancelled() -> Refused:
    return Refused(
        "The transfer has not ended",
        cause="it was cancelled, and what it had received is deleted",
        next_step="run the same get again to begin anew",
        code="cancelled",
    )


def _result_of(transfer: s.TransferDetail) -> s.GetResult:
    if transfer.error is not None:
        raise make_error(transfer.error, transfer.fault or "Unavailable")
    if transfer.state == "cancelled":
        raise _cancelled()
    if transfer.result is None:
        raise Unavailable(
            "The transfer has not ended",
            cause=f"it is {transfer.state}",
            next_step=f"go on with: shoal transfers --resume {transfer.id[:ID_SHOWN]}",
            code="paused",
        )
    return transfer.result
