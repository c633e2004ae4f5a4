"""``penstock serve``: every role on one machine, each in a process of its own, under one supervisor.

The supervisor owns the embedded PostgreSQL (unless DATABASE_URL names another), updates the schema, starts gateway,
workers and housekeeper, and restarts processes that die. On SIGTERM or SIGINT it drains all of them together, and stops
the database last.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final

from penstock.errors import PenstockError
from penstock.postgres import migrate
from penstock.postgres.address import database_url
from penstock.postgres.embedded import EmbeddedServer
from penstock.processes.backoff import Backoff
from penstock.processes.stopping import on_signals
from penstock.settings import Settings
from penstock.supervisor import leftovers
from penstock.supervisor.child import Child
from penstock.supervisor.ports import Listening, check_ports, listening
from penstock.telemetry import logs

_DATABASE_TIMEOUT: Final = timedelta(seconds=60)
_EXIT_MARGIN_SECONDS: Final = 5.0  # the time that a child needs beyond the grace for its own work

log = logs.get(__name__)

COMMAND: Final = (sys.executable, "-m", "penstock")
# Makes the children on the database at a URL, which they use once the event is set.
Family = Callable[[Settings, str, asyncio.Event], list[Child]]


class Supervisor:
    """Owns the database server and the children that ``family`` makes.

    ``ports`` are the addresses of the children. ``on_ready`` is called once, when the gateway is ready.
    """

    def __init__(
        self, settings: Settings, *, family: Family, ports: Sequence[Listening], on_ready: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._family = family
        self._ports = ports
        self._on_ready = on_ready
        self._server = EmbeddedServer(settings.penstock_data_dir) if settings.database_url is None else None
        self._children: list[Child] = []
        self._database_ready = asyncio.Event()
        self._stop_requested = asyncio.Event()

    async def run(self) -> None:
        """Serve until ``stop``; everything has ended when this returns. Raises CannotStart."""
        await check_ports(self._ports)
        running: list[asyncio.Task[None]] = []
        try:
            self._children = self._family(self._settings, database_url(self._settings), self._database_ready)
            running = [asyncio.create_task(child.run(), name=child.name) for child in self._children]
            if not await self._unless_stopped(self._bring_up_database()):
                return
            self._database_ready.set()
            if self._server is not None:
                running.append(asyncio.create_task(self._keep_server(self._server), name="postgres"))
            running.append(asyncio.create_task(self._announce(), name="announce"))
            await self._until_stop_or_failure(running)
        finally:
            await self._wind_down(running)

    def stop(self) -> None:
        """Request an orderly end; a second request kills the children."""
        if self._stop_requested.is_set():
            for child in self._children:
                child.kill()
        self._stop_requested.set()

    async def _bring_up_database(self) -> None:
        if self._server is not None:
            if self._server.is_new:
                await asyncio.gather(self._server.start(), asyncio.to_thread(migrate.import_tools))
            else:
                await self._server.start()
        url = database_url(self._settings)
        bring_up = migrate.migrate if self._settings.migrate_on_start else migrate.check
        await bring_up(url, timeout=_DATABASE_TIMEOUT)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run ``work``, cancel it when a stop is requested, and return whether it ended before that."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop_requested.wait())
        try:
            await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                return False
            task.result()
            return True
        finally:
            for one in (task, stop):
                one.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    async def _keep_server(self, server: EmbeddedServer) -> None:
        """Start the database again whenever it dies; the children reconnect."""
        backoff = Backoff()
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            status = await server.wait_died()
            while server.pid is None:
                delay = backoff.after_run_of(clock() - began)
                log.error("postgres_died", status=status, restart_seconds=delay)
                await asyncio.sleep(delay)
                began = clock()
                try:
                    await server.start()
                    log.info("postgres_restarted", pid=server.pid)
                except PenstockError as error:
                    log.error("postgres_restart_failed", reason=error.message)

    async def _announce(self) -> None:
        host, port = reachable_address(self._settings), self._settings.http_port
        while not await is_ready(host, port):  # noqa: ASYNC110  (there is no event from another process)
            await asyncio.sleep(0.03)
        self._on_ready()

    async def _until_stop_or_failure(self, running: list[asyncio.Task[None]]) -> None:
        stop = asyncio.create_task(self._stop_requested.wait())
        try:
            watched: set[asyncio.Task[None] | asyncio.Task[bool]] = {stop, *running}
            while not stop.done():
                done, watched = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a failing part is a bug in Penstock: end everything and raise it
        finally:
            stop.cancel()

    async def _wind_down(self, running: list[asyncio.Task[None]]) -> None:
        log.info("draining", parts=[child.name for child in self._children])
        by_name = {task.get_name(): task for task in running}
        for name in ("announce", "postgres"):
            if name in by_name:
                by_name[name].cancel()
        grace = self._settings.penstock_shutdown_grace.total_seconds() + _EXIT_MARGIN_SECONDS
        await asyncio.gather(*(child.stop(grace_seconds=grace) for child in self._children))
        await asyncio.gather(*running, return_exceptions=True)
        if self._server is not None:
            await self._server.stop()
        log.info("stopped")


async def serve(settings: Settings, *, on_ready: Callable[[], None]) -> None:
    """Run a complete Penstock until SIGTERM, SIGINT or SIGHUP; see ``supervise``."""
    await supervise(Supervisor(settings, family=children, ports=listening(settings), on_ready=on_ready))


async def supervise(supervisor: Supervisor) -> None:
    """Run a supervisor until SIGTERM, SIGINT or SIGHUP; a second signal kills the children that still drain."""
    with on_signals(supervisor.stop, signal.SIGHUP):
        await supervisor.run()


def shared_variables(settings: Settings, url: str) -> dict[str, str]:
    """Return the variables that all children get, which use the database at ``url``."""
    return {
        "DATABASE_URL": url,
        "MIGRATE_ON_START": "false",  # done before they start
        "PENSTOCK_BLOB_URL": settings.penstock_blob_url,  # its default depends on DATABASE_URL, which is set here
    }


def handing_on(settings: Settings, url: str, worker_id: str) -> Callable[[], Awaitable[None]] | None:
    """Return what hands on the jobs of a dead worker, if nothing else can have its name."""
    return partial(leftovers.hand_on, url, settings, worker_id) if settings.database_url is None else None


def children(settings: Settings, url: str, database_ready: asyncio.Event) -> list[Child]:
    """Return the processes of a complete Penstock on the database at ``url``, which they use once it is ready."""
    shared = shared_variables(settings, url) | {"HTTP_PORT": str(settings.http_port), "PENSTOCK_WORKERS": "1"}
    found = [Child(role, [*COMMAND, role], shared, needs=database_ready) for role in ("gateway", "housekeeper")]
    models_url = settings.penstock_models_url or gateway_url(settings)
    for index in range(settings.penstock_workers):
        number = index + 1
        worker_id = settings.worker_id if settings.penstock_workers == 1 else f"{settings.worker_id}-{number}"
        one = {
            "WORKER_ID": worker_id,
            "PENSTOCK_MODELS_URL": models_url,  # only the gateway loads models, so that a machine loads each only once
            "WORKER_HTTP_HOST": settings.worker_http_host,
            "WORKER_HTTP_PORT": str(settings.worker_http_port + index if settings.worker_http_port else 0),
        }
        hand_on = handing_on(settings, url, worker_id)
        child = Child(
            f"worker-{number}", [*COMMAND, "worker"], shared | one, needs=database_ready, before_release=hand_on
        )
        found.append(child)
    return found


def reachable_address(settings: Settings) -> str:
    """Return an address at which this machine reaches its own gateway."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.http_host, settings.http_host)  # noqa: S104


def gateway_url(settings: Settings) -> str:
    """Return the URL at which this machine reaches its own gateway."""
    host = reachable_address(settings)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.http_port}"


async def is_ready(host: str, port: int) -> bool:
    """Return whether the gateway at this address reports that it is ready."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: penstock\r\nConnection: close\r\n\r\n")
                return (await reader.readline()).split()[1:2] == [b"200"]
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
