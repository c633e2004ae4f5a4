"""A real server of S3 (moto) in a process of its own, and a proxy before it that fails and delays requests."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from penstock.masking import Secret
from penstock.supervisor.ports import free_port
from tests.support.http_servers import running
from tests.support.processes import clean_environment
from tests.support.waiting import until

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@dataclass(frozen=True, slots=True)
class S3Server:
    """A server with an empty bucket for each test."""

    address: str

    async def bucket(self, name: str) -> None:
        """Create a bucket."""
        async with aiohttp.ClientSession() as session, session.put(f"{self.address}/{name}") as response:
            assert response.status == 200, await response.text()

    async def unfinished_uploads(self, bucket: str) -> int:
        """Return the number of multipart uploads that were begun and neither completed nor aborted."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.address}/{bucket}?uploads") as response:
            return (await response.text()).count("<UploadId>")


@asynccontextmanager
async def s3_server(folder: Path) -> AsyncIterator[S3Server]:
    """Run moto's server."""
    port = free_port()
    log = folder / "s3.log"
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port),
            env=clean_environment(MOTO_S3_DEFAULT_MAX_KEYS="1000"), cwd=folder,
            stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip

    async def accepts() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    try:
        await until(accepts, "the server of S3 accepts connections")
        yield S3Server(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        await process.wait()


@dataclass(slots=True)
class S3Proxy:
    """Passes requests on to a server of S3, unless ``fault`` returns a status for one."""

    server: str
    address: str = ""
    fault: Callable[[web.Request], int | None] = lambda _request: None
    held: asyncio.Event = field(default_factory=asyncio.Event)  # set when a request is held
    resumed: asyncio.Event = field(default_factory=asyncio.Event)  # lets held requests through
    holds: Callable[[web.Request], bool] = lambda _request: False
    requests: list[tuple[str, str]] = field(default_factory=list)  # methods and paths

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        body = await request.read()
        status = self.fault(request)
        if status is not None:
            return web.Response(status=status, text="<Error><Code>SlowDown</Code></Error>")
        if self.holds(request):
            self.held.set()
            await self.resumed.wait()
        headers = {k: v for k, v in request.headers.items() if k.lower() not in {"content-length", "transfer-encoding"}}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method,
                self.server + request.raw_path,
                data=io.BytesIO(body) if body else None,
                headers=headers,
                skip_auto_headers=["Content-Type"],
            ) as response,
        ):
            content = await response.read()
            kept = {
                k: v
                for k, v in response.headers.items()
                if k.lower() not in {"transfer-encoding", "connection", "date", "server"}
            }
            if request.method == "HEAD":
                return web.Response(status=response.status, headers=kept)
            kept.pop("Content-Length", None)
            return web.Response(status=response.status, body=content, headers=kept)


@asynccontextmanager
async def s3_proxy(server: S3Server, *, port: int = 0) -> AsyncIterator[S3Proxy]:
    """Run a proxy before a server."""
    proxy = S3Proxy(server.address)
    async with running(proxy.handle, port=port) as address:
        proxy.address = address
        yield proxy


def s3_settings(address: str) -> dict[str, object]:
    """Return the settings that lead to a server, beside PENSTOCK_BLOB_URL."""
    return {
        "penstock_blob_endpoint": address,
        "aws_access_key": Secret(ACCESS_KEY),
        "aws_secret_key": Secret(SECRET_KEY),
    }
