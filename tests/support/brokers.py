"""RabbitMQ and Redis servers of one test or module. They come from the system's packages and listen on loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from penstock.brokers.rabbitmq import RabbitAddress
from penstock.masking import Secret
from penstock.supervisor.ports import free_port
from tests.support.certificates import Issued
from tests.support.waiting import until

_RABBITMQ = Path("/usr/lib/rabbitmq/bin")  # not on PATH: the programs there run as the user who starts them
_START_SECONDS = 60


def needs_redis() -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


def needs_rabbitmq() -> pytest.MarkDecorator:
    return pytest.mark.skipif(not _RABBITMQ.is_dir(), reason="rabbitmq-server is not installed")


@dataclass(kw_only=True)
class Server:
    """A server on a port of loopback that can be killed and started again with what it has stored."""

    command: list[str]
    port: int
    folder: Path
    environment: dict[str, str]
    ready: str  # of the log, once it accepts connections
    process: Process | None = None

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    async def start(self) -> None:
        self.log.unlink(missing_ok=True)
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                cwd=self.folder,
                env=self.environment,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await until(self._is_ready, f"{self.command[0]} accepts connections", seconds=_START_SECONDS)

    def _is_ready(self) -> bool:
        assert self.process is not None
        text = self.log.read_text(errors="replace")
        assert self.process.returncode is None, text
        return self.ready in text

    async def kill(self) -> None:
        """Kill all processes of the server with SIGKILL."""
        process, self.process = self.process, None
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@asynccontextmanager
async def redis_server(
    folder: Path, *, password: str | None = None, tls: Issued | None = None, asks: bool = False
) -> AsyncIterator[Server]:
    """One server. With ``tls`` it listens with that certificate only; with ``asks`` it requires one of its clients."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    ports = ["--port", str(port)]
    if tls is not None:
        ports = [
            "--port", "0", "--tls-port", str(port), "--tls-cert-file", str(tls.certificate),
            "--tls-key-file", str(tls.key), "--tls-ca-cert-file", str(tls.authority),
            "--tls-auth-clients", "yes" if asks else "no",
        ]  # fmt: skip
    command = ["redis-server", *ports, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    if password is not None:
        command += ["--requirepass", password]
    server = Server(
        command=command, port=port, folder=folder, environment=dict(os.environ), ready="Ready to accept connections"
    )
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


@asynccontextmanager
async def rabbitmq_cluster(folder: Path, *names: str) -> AsyncIterator[list[Server]]:
    """A cluster of nodes."""
    async with epmd() as epmd_port, AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(rabbitmq_server(folder, name=name, epmd_port=epmd_port, cluster=names))
            for name in names
        ]
        yield nodes


@asynccontextmanager
async def rabbitmq_server(
    folder: Path,
    *,
    name: str = "one",
    epmd_port: int | None = None,
    cluster: Sequence[str] = (),
    tls: Issued | None = None,
    asks: bool = False,
) -> AsyncIterator[Server]:
    """One node. Nodes of one cluster share ``epmd_port``, where an epmd of their own listens."""
    async with AsyncExitStack() as stack:
        if epmd_port is None:
            epmd_port = await stack.enter_async_context(epmd())
        port, node_folder = free_port(), folder / name
        node_folder.mkdir(parents=True, exist_ok=True)
        plugins = node_folder / "enabled_plugins"
        plugins.write_text("[].\n")
        configuration = node_folder / "rabbitmq.conf"
        peers = [
            f"cluster_formation.classic_config.nodes.{number} = {one}@localhost"
            for number, one in enumerate(cluster, 1)
        ]
        if tls is not None:
            peers += [
                "listeners.tcp = none",
                f"listeners.ssl.default = 127.0.0.1:{port}",
                f"ssl_options.cacertfile = {tls.authority}",
                f"ssl_options.certfile = {tls.certificate}",
                f"ssl_options.keyfile = {tls.key}",
                f"ssl_options.verify = {'verify_peer' if asks else 'verify_none'}",
                f"ssl_options.fail_if_no_peer_cert = {str(asks).lower()}",
            ]
        configuration.write_text("\n".join(["cluster_formation.peer_discovery_backend = classic_config", *peers, ""]))
        cookie = node_folder / ".erlang.cookie"
        cookie.write_text("PENSTOCK")
        cookie.chmod(0o400)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(node_folder),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_NODENAME": f"{name}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(node_folder),
            "RABBITMQ_LOG_BASE": str(node_folder),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        if tls is not None:
            del environment["RABBITMQ_NODE_PORT"], environment["RABBITMQ_NODE_IP_ADDRESS"]
        server = Server(
            command=[str(_RABBITMQ / "rabbitmq-server")],
            port=port,
            folder=node_folder,
            environment=environment,
            ready="Server startup complete",
        )
        stack.push_async_callback(server.kill)
        await server.start()
        yield server


async def add_user(node: Server, name: str, permitted: str) -> RabbitAddress:
    """Add a user who may configure, write and read what fits a pattern; return the address for it."""
    await run_rabbitmqctl(node, "add_user", name, "secret")
    await run_rabbitmqctl(node, "set_permissions", name, permitted, permitted, permitted)
    return replace(address_of(node), user=name, password=Secret("secret"))


async def run_rabbitmqctl(node: Server, *arguments: str) -> None:
    """Run the program that manages a node."""
    program = await asyncio.create_subprocess_exec(
        str(_RABBITMQ / "rabbitmqctl"), *arguments, env=node.environment, stdin=DEVNULL, stdout=DEVNULL
    )
    assert await program.wait() == 0


@asynccontextmanager
async def epmd() -> AsyncIterator[int]:
    """The name server of Erlang's nodes, on a port of its own; without it, the first node would leave one behind."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        "epmd", "-port", str(port), "-address", "127.0.0.1", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
    )
    try:
        yield port
    finally:
        process.kill()
        await process.wait()


def address_of(*nodes: Server) -> RabbitAddress:
    return RabbitAddress(
        nodes=[("127.0.0.1", node.port) for node in nodes], user="guest", password=Secret("guest"), vhost="/"
    )
