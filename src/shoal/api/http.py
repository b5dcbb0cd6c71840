"""HTTP: the operations on a Unix socket, `POST /v1/<operation>` with JSON in and out.

Who may ask: processes of the user that runs the node, nobody else. The socket is 0600 in a directory that is
0700, and the peer's uid is checked for every connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from shoal.api.boundary import Failure, answer, guard, read_arguments
from shoal.api.faults import make_reply
from shoal.api.openapi import make_openapi
from shoal.api.operations import OPERATIONS, STREAMS_IN, STREAMS_OUT, NodeApi, Operation
from shoal.api.streams import make_stream_routes
from shoal.core.decoders import get_json_decoder
from shoal.core.errors import LimitExceeded, LocalMisuse, StorageFault
from shoal.core.units import MIB

log = logging.getLogger("shoal.api")

BODY_LIMIT_BYTES = MIB
CONNECTION_LIMIT = 128  # open at once; a CLI uses one; wild guess
_SO_PEERCRED: int | None = getattr(socket, "SO_PEERCRED", None)  # Linux
_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES = 0, 1, 76  # macOS and FreeBSD, sys/un.h and sys/ucred.h
SHUTDOWN_S = 1  # whole seconds that open requests get to end


def make_app(api: NodeApi) -> Starlette:
    """Make the ASGI application over a node."""
    routes = [Route(f"/v1/{op.name}", _make_endpoint(op, api), methods=["POST"]) for op in OPERATIONS]
    routes += make_stream_routes(api)
    document = msgspec.json.encode(make_openapi())

    async def openapi(_: Request) -> Response:
        return Response(document, media_type="application/json")

    async def unknown(request: Request) -> Response:
        names = ", ".join(op.name for group in (OPERATIONS, STREAMS_IN, STREAMS_OUT) for op in group)
        error = LocalMisuse(
            "There is no such operation",
            cause=f"{request.method} {request.url.path[:80]!r} is not one",
            next_step=f"POST /v1/ and one of: {names}",
            code="unknown_operation",
        )
        return answer(404, make_reply(error)[1])

    routes.append(Route("/openapi.json", openapi, methods=["GET"]))
    routes.append(Route("/{path:path}", unknown, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]))
    return Starlette(routes=routes)


def _make_endpoint(op: Operation[Any, Any], api: NodeApi) -> Callable[[Request], Awaitable[Response]]:
    decoder = get_json_decoder(op.request)

    async def work(request: Request) -> object:
        return await op.call(api, read_arguments(op.name, decoder, await _read_body(request)))

    async def endpoint(request: Request) -> Response:
        result = await guard(op.name, work(request))
        return answer(result.status, result.reply) if isinstance(result, Failure) else answer(200, result)

    return endpoint


async def _read_body(request: Request) -> bytes:
    """Return the body. Raises: LimitExceeded before more than the limit is kept."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_LIMIT_BYTES:
            raise LimitExceeded(
                "The request is too large", cause=f"it has more than {BODY_LIMIT_BYTES} bytes"
            )
    return bytes(body)


class _OwnUserProtocol(H11Protocol):
    """HTTP for one connection, which is closed unwritten when it is another user's."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        uid = find_peer_uid(transport.get_extra_info("socket"))
        if uid != os.getuid():
            log.warning("a process of user %s was refused at the API socket", uid)
            transport.close()
            return
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is not None:
            super().connection_lost(exc)


def find_peer_uid(sock: Any) -> int | None:
    """Return the user id at the other end of a Unix socket, or None where the system does not tell."""
    try:
        if _SO_PEERCRED is not None:
            found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, struct.calcsize("3i"))
            return int(struct.unpack("3i", found)[1])
        # macOS, FreeBSD: struct xucred {u_int version; uid_t uid; ...}
        found = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
        return int(struct.unpack_from("=II", found)[1])
    except (OSError, struct.error):
        return None


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the node's process owns those."""

    def __init__(self, config: uvicorn.Config, ready: asyncio.Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ApiServer:
    """Serves a node on one socket path. Expects that the caller holds the home's lock."""

    def __init__(self, api: NodeApi, path: str) -> None:
        self.path = path
        self._app = make_app(api)
        self._server: _Server | None = None
        self._ready = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled or stopped. Raises: StorageFault if the socket cannot be made."""
        sock = self._bind()
        config = uvicorn.Config(
            self._app,
            http=_OwnUserProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTION_LIMIT,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        self._server = _Server(config, self._ready)
        try:
            await self._server.serve(sockets=[sock])
        finally:
            sock.close()
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    async def wait_started(self) -> None:
        """Wait until requests are accepted. Cancelling is safe."""
        await self._ready.wait()

    def stop(self) -> None:
        """Accept no more; open requests get SHUTDOWN_S. Idempotent."""
        if self._server is not None:
            self._server.should_exit = True

    def _bind(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            before = os.umask(0o177)
            try:
                sock.bind(self.path)
            finally:
                os.umask(before)
            os.chmod(self.path, 0o600)
        except OSError as error:
            sock.close()
            raise StorageFault(
                "The node cannot be reached by commands",
                cause=f"its socket {self.path} cannot be made: {error.strerror}",
                next_step="check that the directory exists, is yours and has space",
            ) from error
        return sock
