"""OpenAPI: the description of every operation for other programs, made from the operations themselves."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal.api.content_schema import StreamResult
from shoal.api.faults import ErrorReply
from shoal.api.operations import OPERATIONS, STREAMS_IN, STREAMS_OUT, Operation, StreamIn, StreamOut
from shoal.version import __version__

AnyOperation = Operation[Any, Any] | StreamIn[Any, Any] | StreamOut[Any]
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def make_openapi() -> dict[str, Any]:
    """Describe every operation as OpenAPI 3.1."""
    operations: list[AnyOperation] = [*OPERATIONS, *STREAMS_IN, *STREAMS_OUT]
    types: list[Any] = [ErrorReply, StreamResult]
    for op in operations:
        types += [op.request] if isinstance(op, StreamOut) else [op.request, op.response]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    found = dict(zip(types, schemas, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Shoal", "version": __version__},
        "paths": {f"/v1/{op.name}": {"post": _describe(op, found)} for op in operations},
        "components": {"schemas": components},
    }


def _describe(op: AnyOperation, found: dict[Any, Any]) -> dict[str, Any]:
    asked = {"application/json": {"schema": found[op.request]}}
    described: dict[str, Any] = {
        "operationId": op.name,
        "summary": op.summary,
        "responses": {
            "200": {"description": "Done.", "content": _answered(op, found)},
            "default": {
                "description": "Not done; the body says why.",
                "content": {"application/json": {"schema": found[ErrorReply]}},
            },
        },
    }
    if isinstance(op, Operation):
        described["requestBody"] = {"content": asked}
    else:
        described["parameters"] = [{"name": "arguments", "in": "query", "content": asked}]
    if isinstance(op, StreamIn):
        described["requestBody"] = {"content": _BYTES}
    return described


def _answered(op: AnyOperation, found: dict[Any, Any]) -> dict[str, Any]:
    if isinstance(op, StreamOut):
        return _BYTES
    return {"application/json": {"schema": found[op.response]}}
