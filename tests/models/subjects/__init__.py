"""The subjects of the suite that every runtime passes: for each runtime two models, a plain and a streaming one.

Both take ``{"op": …}``: echo, stream, raise, exit, segfault, abort, sleep, grow, blob, print. Where an operation has no
meaning for a runtime, its subject lists it in ``without``, with the reason.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from penstock.errors import ModelFailed, PenstockError, ProviderFailed
from penstock.models.replica.runtimes.native import HEADER
from tests.support.http_servers import running
from tests.support.models import Models

HERE = Path(__file__).parent
SCHEMA: dict[str, Any] = {
    "input": {
        "type": "object",
        "properties": {
            "op": {"type": "string"},
            "text": {"type": "string"},
            "seconds": {"type": "number"},
            "n": {"type": "integer"},
            "blob": {"type": "string", "format": "media"},
        },
        "required": ["op"],
        "additionalProperties": False,
    },
    "output": {"type": "object", "properties": {"blob": {"type": "string", "format": "media"}}},
}
_CRASHES = ("exit", "segfault", "abort")
_ELSEWHERE = "the model's process is elsewhere; the suite kills the replica itself instead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A runtime, and how its two models are made."""

    name: str
    runtime: str
    plain: Mapping[str, Any]  # options
    streaming: Mapping[str, Any]
    failed: type[PenstockError] = ModelFailed  # what an exception of the model is to its caller
    cancels: bool = True  # running work ends when its caller goes
    without: Mapping[str, str] = field(default_factory=dict)  # operation: why it has no meaning here
    stated: Mapping[str, Any] = field(default_factory=dict)  # further keys of the manifest
    as_input: Callable[[dict[str, Any]], Any] = lambda given: given
    as_text: Callable[[Any], str] = lambda output: str(output["text"])
    as_chunk: Callable[[Any], Any] = lambda chunk: chunk


NAMES = ("python", "python-async", "subprocess", "native", "http", "openai")


@asynccontextmanager
async def subject(name: str, models: Models) -> AsyncIterator[Subject]:
    """Return one subject, with the server that it needs running."""
    async with AsyncExitStack() as servers:
        match name:
            case "python" | "python-async":
                shutil.copy(HERE / "code.py", models.folder / "subject_code.py")
                prefix = "Asynchronous" if name == "python-async" else ""
                yield Subject(
                    name=name,
                    runtime="python",
                    plain={"class": f"subject_code:{prefix or 'Plain'}"},
                    streaming={"class": f"subject_code:{prefix}Streaming"},
                )
            case "subprocess":
                command = [sys.executable, str(HERE / "program.py")]
                yield Subject(
                    name=name,
                    runtime="subprocess",
                    plain={"command": command},
                    streaming={"command": command},
                    cancels=False,  # unless its manifest says how
                    stated={"schema": SCHEMA},
                )
            case "native":
                library = models.folder / "libsubject.so"
                compiler = ["cc", "-std=c99", "-D_GNU_SOURCE", "-Wall", "-Werror", "-O1", "-shared", "-fPIC"]
                subprocess.run([*compiler, f"-I{HEADER.parent}", "-o", library, str(HERE / "library.c")], check=True)
                yield Subject(
                    name=name,
                    runtime="native",
                    plain={"library": str(library)},
                    streaming={"library": str(library)},
                    stated={"schema": SCHEMA},
                )
            case "http":
                address = await servers.enter_async_context(served(_http))
                yield Subject(
                    name=name,
                    runtime="http",
                    plain={"url": f"{address}/plain"},
                    streaming={"url": f"{address}/stream", "stream": "sse"},
                    failed=ProviderFailed,
                    without=dict.fromkeys((*_CRASHES, "grow", "print"), _ELSEWHERE),
                    stated={"schema": SCHEMA},
                )
            case _:
                address = await servers.enter_async_context(served(_openai))
                yield Subject(
                    name=name,
                    runtime="openai",
                    plain={"base_url": f"{address}/v1", "model": "fake"},
                    streaming={"base_url": f"{address}/v1", "model": "fake"},
                    failed=ProviderFailed,
                    without={"blob": "chat returns text"} | dict.fromkeys((*_CRASHES, "grow", "print"), _ELSEWHERE),
                    as_input=lambda given: {"user": json.dumps(given)},
                    as_text=lambda output: str(output["content"]),
                    as_chunk=lambda chunk: int(chunk["delta"]),
                )


class Server:
    """A model's server; ``left`` counts the callers that left before their response came."""

    def __init__(self) -> None:
        self.left = 0

    async def nap(self, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.left += 1
            raise


@asynccontextmanager
async def served(add: Callable[[web.Application, Server], None]) -> AsyncIterator[str]:
    """Yield a server's address while it runs."""
    application = web.Application(client_max_size=2**28)
    add(application, Server())
    async with running(application) as address:
        yield address


def _http(application: web.Application, server: Server) -> None:
    async def plain(request: web.Request) -> web.StreamResponse:
        given = await request.json()
        match given["op"]:
            case "raise":
                return web.json_response({"error": "this is what went wrong"}, status=500)
            case "cut":
                assert request.transport is not None
                request.transport.close()
            case "sleep":
                await server.nap(given["seconds"])
            case "blob":
                data = base64.b64decode(given["blob"].partition(",")[2])[::-1]
                url = "data:image/x-mirrored;base64," + base64.b64encode(data).decode()
                return web.json_response({"blob": url})
        return web.json_response({"text": given.get("text", "")})

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range((await request.json())["n"]):
            await response.write(f"data: {number}\n\n".encode())
        return response

    application.router.add_post("/plain", plain)
    application.router.add_post("/stream", stream)


def _openai(application: web.Application, server: Server) -> None:
    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        given = json.loads(body["messages"][-1]["content"])
        match given["op"]:
            case "raise":
                return web.json_response({"error": {"message": "this is what went wrong"}}, status=500)
            case "cut":
                assert request.transport is not None
                request.transport.close()
            case "sleep":
                await server.nap(given["seconds"])
        if not body.get("stream"):
            message = {"role": "assistant", "content": given.get("text", "")}
            return web.json_response({"model": "fake", "choices": [{"message": message, "finish_reason": "stop"}]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(given["n"]):
            part = {"model": "fake", "choices": [{"delta": {"content": str(number)}, "finish_reason": None}]}
            await response.write(f"data: {json.dumps(part)}\n\n".encode())
        last = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
        await response.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
        return response

    application.router.add_post("/v1/chat/completions", chat)
