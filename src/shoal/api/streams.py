"""Streams: the operations whose body is a stream of bytes, over HTTP; their arguments are JSON in the URL.

Neither direction keeps more than a few pieces: reading and sending wait for each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from shoal.api import content_schema as c
from shoal.api.boundary import Failure, answer, guard, read_arguments
from shoal.api.frames import DATA, END, FAILURE, NOTE, make_frame
from shoal.api.operations import STREAMS_IN, STREAMS_OUT, ByteStream, NodeApi, StreamIn, StreamOut
from shoal.core.decoders import get_json_decoder

NOTE_S = 5.0  # a note is sent this often while nothing else is


def make_stream_routes(api: NodeApi) -> list[Route]:
    """Return the routes of all stream operations."""
    routes = [Route(f"/v1/{op.name}", _make_inward(op, api), methods=["POST"]) for op in STREAMS_IN]
    routes += [Route(f"/v1/{op.name}", _make_outward(op, api), methods=["POST"]) for op in STREAMS_OUT]
    return routes


def _make_inward(op: StreamIn[Any, Any], api: NodeApi) -> Callable[[Request], Awaitable[Response]]:
    decoder = get_json_decoder(op.request)

    async def work(request: Request) -> object:
        arguments = read_arguments(op.name, decoder, _arguments(request))
        return await op.call(api, arguments, request.stream())

    async def endpoint(request: Request) -> Response:
        result = await guard(op.name, work(request))
        if isinstance(result, Failure):
            failed = answer(result.status, result.reply)
            failed.headers["connection"] = "close"  # what else comes of the body is not read
            return failed
        return answer(200, result)

    return endpoint


def _make_outward(op: StreamOut[Any], api: NodeApi) -> Callable[[Request], Awaitable[Response]]:
    decoder = get_json_decoder(op.request)

    async def work(request: Request) -> ByteStream:
        return await op.call(api, read_arguments(op.name, decoder, _arguments(request)))

    async def endpoint(request: Request) -> Response:
        stream = await guard(op.name, work(request))
        if isinstance(stream, Failure):
            return answer(stream.status, stream.reply)
        return StreamingResponse(_frames(op.name, stream), media_type="application/octet-stream")

    return endpoint


def _arguments(request: Request) -> bytes:
    return request.query_params.get("arguments", "").encode("utf-8", "surrogateescape")


async def _frames(name: str, stream: ByteStream) -> AsyncIterator[bytes]:
    """Yield the frames of a stream, with a note now and then while it waits."""
    items = stream.read()
    step: asyncio.Future[bytes | c.StreamResult | Failure] | None = None
    try:
        while True:
            step = asyncio.ensure_future(guard(name, anext(items)))
            while not (await asyncio.wait([step], timeout=NOTE_S))[0]:
                yield make_frame(NOTE, stream.note.encode())
            item = step.result()
            if isinstance(item, bytes):
                yield make_frame(DATA, item)
            elif isinstance(item, Failure):
                yield make_frame(FAILURE, msgspec.json.encode(item.reply))
                return
            else:
                yield make_frame(END, msgspec.json.encode(item))
                return
    finally:  # without waiting: who reads may be gone, and this cancelled
        closing = asyncio.ensure_future(_close(step, items))
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)


async def _close(step: asyncio.Future[Any] | None, items: AsyncGenerator[Any, None]) -> None:
    if step is not None and not step.done():
        step.cancel()
        await asyncio.wait([step])
    await items.aclose()


_closing: set[asyncio.Future[None]] = set()
