"""A client of the gRPC server that speaks as the original's does, with messages built from the .proto files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from penstock.athena.protocol.messages.loader_pb2 import LoaderInput, LoaderOutput, MetaDesc, Payload
from penstock.athena.protocol.messages.xsf_pb2 import DataMeta, ReqData, Request, ResData, Response, Session
from penstock.models.host.deployment import Deployment
from tests.support.gateways import HttpCaller

END = (LoaderOutput.END, LoaderOutput.ONCE)
MAX_POLLS = 60  # of a call or session that a test follows to its end, by polls that wait for up to 5 seconds
SHOUT = """
    class Model:
        def predict(self, text: str, times: int = 1) -> str:
            return text.upper() * times
"""
RELAY = """
    from collections.abc import AsyncIterator

    class Model:
        async def predict(self, greeting: str) -> str:
            return greeting

        async def session(self, greeting: str, parts: AsyncIterator[str]) -> AsyncIterator[str]:
            yield greeting
            async for part in parts:
                yield part.upper()
            yield "end"
"""
GATED = """
    import asyncio
    from collections.abc import AsyncIterator

    class Model:
        def __init__(self) -> None:
            self.open = asyncio.Event()

        async def predict(self, greeting: str) -> str:
            if greeting == "open":
                self.open.set()
            return greeting

        async def session(self, greeting: str, parts: AsyncIterator[str]) -> AsyncIterator[str]:
            await self.open.wait()
            async for part in parts:
                yield f"{len(part)} of {part[0]}"
"""
SLOW = """
    import asyncio

    class Model:
        async def predict(self, text: str) -> str:
            await asyncio.Event().wait()
            return text
"""


class RpcClient:
    """Calls one server."""

    def __init__(self, channel: grpc.aio.Channel, key: str = "") -> None:
        self.channel = channel
        self.metadata = [("authorization", f"Bearer {key}")] if key else []

    async def raw(self, message: bytes, *, method: str = "/utils.XsfCall/call", **options: Any) -> bytes:
        """Send any bytes as the message of a method."""
        options.setdefault("metadata", self.metadata)
        options.setdefault("timeout", 20)
        multi_callable: Any = self.channel.unary_unary(method)
        reply: bytes = await multi_callable(message, **options)
        return reply

    async def call(self, op: str, handle: str = "", data: Sequence[bytes] = (), **param: object) -> ResData:
        """Call an operation; parameters are stated as texts."""
        request = ReqData(
            op=op,
            s=Session(h=handle, t="trace"),
            param={name: str(value) for name, value in param.items()},
            data=[DataMeta(data=one) for one in data],
        )
        return ResData.FromString(await self.raw(request.SerializeToString()))

    async def loader(
        self, op: str, handle: str = "", given: LoaderInput | None = None, **param: object
    ) -> LoaderOutput:
        """Call an operation with a loader's message; return the loader's output."""
        data = [] if given is None else [given.SerializeToString()]
        response = await self.call(op, handle, data, **param)
        return LoaderOutput.FromString(response.data[0].data)

    async def raw_output(self, message: bytes) -> LoaderOutput:
        """Send an encoded call; return the loader's output."""
        return LoaderOutput.FromString(ResData.FromString(await self.raw(message)).data[0].data)

    async def once(self, service: str, handle: str, *pieces: Payload, **params: str) -> LoaderOutput:
        """Call a service once, and poll until its result is there."""
        given = LoaderInput(serviceId=service, state="ONCE", params=params, pl=pieces)
        return await self.rest(handle, await self.loader("AIIn", handle, given, SeqNo=1, version="v2"))

    async def rest(self, handle: str, output: LoaderOutput) -> LoaderOutput:
        """Poll until there is a result."""
        for _ in range(MAX_POLLS):
            if output.code or output.pl or output.status in END:
                return output
            output = await self.loader("AIOut", handle, waitTime=5000)
        raise AssertionError(f"{handle} has no result: {output}")

    async def results(self, handle: str) -> list[LoaderOutput]:
        """Poll a session to its end; return the outputs with results, and the last one."""
        found: list[LoaderOutput] = []
        empty = 0
        while empty < MAX_POLLS:
            output = await self.loader("AIOut", handle, waitTime=5000)
            if output.pl or output.status in END:
                found.append(output)
            if output.status in END or output.code:
                return found
            empty = 0 if output.pl else empty + 1
        raise AssertionError(f"{handle} has not ended: {found}")

    async def some(self, handle: str, first: LoaderOutput, count: int) -> list[LoaderOutput]:
        """Poll a session until it has sent that many results; ``first`` is the output of its first message."""
        found = [first]
        for _ in range(MAX_POLLS + count):
            assert not found[-1].code, found[-1]
            if sum(len(output.pl) for output in found) >= count:
                return found
            assert found[-1].status not in END, found
            found.append(await self.loader("AIOut", handle, waitTime=5000))
        raise AssertionError(f"{handle} has sent only {found}")

    async def tool(self, query: str, headers: str = '{"method": "GET"}') -> str:
        """Run a command of the tool box."""
        message = Request(query=query, headers=headers).SerializeToString()
        return Response.FromString(await self.raw(message, method="/utils.ToolBox/cmdserver")).body


def text(name: str, data: str | bytes, status: int | None = None, **attributes: str) -> Payload:
    """Return a piece of text."""
    if status is not None:
        attributes["status"] = str(status)
    content = data.encode() if isinstance(data, str) else data
    return Payload(meta=MetaDesc(name=name, dataType="TEXT", attribute=attributes), data=content)


def part(service: str, number: int, *pieces: Payload, **params: str) -> LoaderInput:
    """Return a message of a session."""
    return LoaderInput(serviceId=service, state="STREAM", params=params, pl=pieces, sync_id=number)


@asynccontextmanager
async def rpc_client(caller: HttpCaller, key: str = "") -> AsyncIterator[RpcClient]:
    """Connect to the gRPC server of a gateway that runs in this process."""
    atom = caller.parts.athena.atom
    assert atom is not None
    async with grpc.aio.insecure_channel(f"127.0.0.1:{atom.server.port}") as channel:
        yield RpcClient(channel, key)


def data_of(outputs: list[LoaderOutput]) -> list[str]:
    """Return the data of all results."""
    return [one.data.decode() for output in outputs for one in output.pl]


def model(gateway: HttpCaller, name: str) -> Deployment:
    return gateway.parts.models.find(name)
