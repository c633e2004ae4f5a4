"""Gateways that respond by a script: as the contract says, with errors, or with a broken connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec
from aiohttp import web

from penstock import errors
from penstock.web import problems
from tests.support.http_servers import Handler, running

JOB_ID = UUID("01990000-0000-7000-8000-000000000001")


JOB: dict[str, Any] = {
    "id": str(JOB_ID),
    "owner_service": "python",
    "owner_ref": "",
    "task_type": "echo",
    "model_profile": "small",
    "status": "completed",
    "priority": 0,
    "attempt": 1,
    "max_attempts": 3,
    "tags": [],
    "created_at": "2026-01-01T00:00:00Z",
    "input": {},
    "result": {"a": 1},
    "something_newer": True,
}


class ScriptedGateway:
    """Responds by a script: each request takes the next step; the last step stays."""

    def __init__(self, *steps: Handler) -> None:
        self.steps = list(steps)
        self.requests: list[tuple[str, str, Any, dict[str, str]]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        body = msgspec.json.decode(content) if content else None
        self.requests.append((request.method, request.path_qs, body, dict(request.headers)))
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return await step(request)


@asynccontextmanager
async def scripted_gateway(*steps: Handler, port: int = 0) -> AsyncIterator[ScriptedGateway]:
    server = ScriptedGateway(*steps)
    async with running(server.handle, port=port) as server.url:
        yield server


def returns(content: object, status: int = 200) -> Handler:
    async def step(_request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")

    return step


def raises(error: errors.PenstockError) -> Handler:
    problem = problems.response(error)

    async def step(_request: web.Request) -> web.Response:
        headers = {name.decode(): value.decode() for name, value in problem.headers}
        return web.Response(body=problem.body, status=problem.status, headers=headers | {"Retry-After": "0"})

    return step


async def cuts(request: web.Request) -> web.Response:
    """Close the connection instead of responding."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def streams(*events: tuple[str, str], breaks: bool = False) -> Handler:
    """Return server-sent events (id, type), then end the stream: properly, or by a broken connection."""

    async def step(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": hello\n\n")
        for event_id, kind in events:
            data = {"specversion": "1.0", "id": event_id, "type": kind, "subject": str(JOB_ID), "data": {"attempt": 1}}
            text = msgspec.json.encode(data | {"time": "2026-01-01T00:00:00Z"}).decode()
            await response.write(f"id: {event_id}\r\nevent: {kind}\r\ndata: {text}\r\n\r\n".encode())
        if breaks:
            assert request.transport is not None
            request.transport.abort()
        return response

    return step
