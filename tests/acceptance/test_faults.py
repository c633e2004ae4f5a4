"""Processes killed, stopped or cut off in the middle of work: nothing accepted is lost or done twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from aiohttp import web

from penstock.assembly.housekeeper import HousekeeperAssembly
from penstock.client import Client
from penstock.errors import PenstockError
from penstock.jobs.filters import JobFilter
from penstock.jobs.job import JobSubmission
from penstock.jobs.service import JobService
from penstock.jobs.states import Status
from penstock.jobs.work import ClaimRequest, JobCompletion
from penstock.postgres.embedded import EmbeddedServer, embedded_url, socket_folder
from penstock.postgres.migrate import migrate
from penstock.postgres.pool import Database
from penstock.supervisor.ports import free_port
from penstock.tenants.principal import DEFAULT_TENANT
from penstock.work.executors import Executors
from penstock.workers.worker import Worker
from tests.support.gateways import settings_for
from tests.support.http_servers import running
from tests.support.processes import PENSTOCK, alive, children, clean_environment
from tests.support.waiting import succeeds, until

ROOT = Path(__file__).parents[2]
JOB = JobSubmission(owner_service="tests", task_type="echo", model_profile="small")


@asynccontextmanager
async def _process(*command: str, log: Path | None = None, **environment: str) -> AsyncIterator[Process]:
    """Run a command; what it and its children write goes to the file ``log`` if that is given."""
    with ExitStack() as files:
        file = None if log is None else files.enter_context(log.open("ab"))
        process = await asyncio.create_subprocess_exec(
            *command, env=clean_environment(**environment), cwd=ROOT, stdout=file or PIPE, stderr=file
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@asynccontextmanager
async def _worker(
    name: str, url: str, *, pause: float = 0.01, lease: float = 1.0, log: Path | None = None
) -> AsyncIterator[Process]:
    async with _process(
        sys.executable,
        "-m",
        "tests.acceptance.echo_worker",
        WORKER_ID=name,
        DATABASE_URL=url,
        PAUSE_SECONDS=str(pause),
        LEASE_SECONDS=str(lease),
        PYTHONPATH=os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        log=log,
    ) as process:
        yield process


@asynccontextmanager
async def _service(url: str) -> AsyncIterator[tuple[JobService, Database]]:
    database = Database(url, application_name="penstock-test")
    await database.open(timeout=timedelta(seconds=20))
    service = JobService(database)
    await service.start()
    try:
        yield service, database
    finally:
        await service.stop()
        await database.close()


@asynccontextmanager
async def _housekeeper(database: Database) -> AsyncIterator[None]:
    assembly = HousekeeperAssembly(settings_for(database.url))
    running = asyncio.create_task(assembly.housekeeper.run())
    try:
        yield
    finally:
        await assembly.housekeeper.stop()
        await running
        await assembly.close()


@asynccontextmanager
async def _serve(folder: Path, *, log: Path | None = None) -> AsyncIterator[tuple[Process, Client, str]]:
    """Run ``penstock serve`` on a folder; yield its process, a client, and the URL of its database."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    async with (
        _process(
            *PENSTOCK,
            "serve",
            HTTP_PORT=str(port),
            WORKER_HTTP_PORT=str(free_port()),
            PENSTOCK_DATA_DIR=str(folder),
            PENSTOCK_LOG_LEVEL="error" if log is None else "info",
            log=log,
        ) as serve,
        Client(address) as client,
    ):
        await until(lambda: _responds(client), "the gateway responds", seconds=30)
        yield serve, client, embedded_url(folder)


async def _responds(client: Client) -> bool:
    try:
        await client.stats()
    except PenstockError:
        return False
    return True


async def _completed(service: JobService) -> int:
    try:
        return (await service.of(DEFAULT_TENANT).stats()).totals.completed
    except PenstockError:
        return -1


async def _all_completed_once(service: JobService, database: Database, ids: Sequence[UUID]) -> None:
    """Wait until all jobs have ended, then check that each has one result and one end."""

    async def done() -> bool:
        return await _completed(service) >= len(ids)

    await until(done, "all jobs are completed", seconds=40)
    for job_id in ids:
        job = await service.of(DEFAULT_TENANT).get(job_id)
        assert job.status is Status.COMPLETED
        epochs = [attempt.epoch for attempt in job.attempts]
        assert epochs == sorted(set(epochs))
    async with database.acquire() as connection:
        ended = await connection.fetch(
            "SELECT ended.id, count(*) AS times FROM event, unnest(job_ids) AS ended(id)"
            " WHERE kind = 'job.completed' GROUP BY 1"
        )
        rows = await connection.fetchval("SELECT count(*) FROM done")
    assert {row["id"]: row["times"] for row in ended} == dict.fromkeys(ids, 1)
    assert rows == len(ids)


async def test_a_killed_worker_loses_no_job_and_completes_none_twice(database_url: str) -> None:
    async with _service(database_url) as (service, database), _housekeeper(database):
        submitted = await service.of(DEFAULT_TENANT).submit_many([JOB] * 300)
        async with _worker("first", database_url) as first, _worker("second", database_url):
            await until(lambda: _at_least(service, 60), "some jobs are completed")
            first.send_signal(signal.SIGKILL)
            await _all_completed_once(service, database, [one.job.id for one in submitted])


async def test_a_worker_that_slept_past_its_lease_changes_nothing_when_it_wakes(database_url: str) -> None:
    async with _service(database_url) as (service, database), _housekeeper(database):
        async with _worker("sleeper", database_url, pause=0.5) as sleeper:
            job = (await service.of(DEFAULT_TENANT).submit(JOB)).job
            await until(lambda: _is(service, job.id, Status.RUNNING), "the sleeper has it")
            sleeper.send_signal(signal.SIGSTOP)
            async with _worker("other", database_url):
                await until(lambda: _is(service, job.id, Status.COMPLETED), "the other did it", seconds=15)
            before = await service.of(DEFAULT_TENANT).get(job.id)
            sleeper.send_signal(signal.SIGCONT)
            proof = (
                await service.of(DEFAULT_TENANT).submit(JOB)
            ).job  # once it has done this one, it has reported that one
            await until(lambda: _is(service, proof.id, Status.COMPLETED), "the sleeper works again")
            sleeper.send_signal(signal.SIGTERM)
            outcomes = json.loads((await sleeper.communicate())[0])
        after = await service.of(DEFAULT_TENANT).get(job.id)
        assert outcomes == {"lost": 1, "completed": 1}
        assert (
            (after.worker_id, after.finished_at)
            == (before.worker_id, before.finished_at)
            == ("other", after.finished_at)
        )
        assert bytes(after.result or b"") == bytes(before.result or b"")
        assert [attempt.worker_id for attempt in after.attempts] == ["sleeper"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", ["gateway", "postgres"])
async def test_any_process_of_serve_may_be_killed_under_load(victim: str, tmp_path: Path) -> None:
    """Every confirmed submission is kept; others are sent again with their keys and create no second job."""
    tmp_path.chmod(0o711)
    async with (
        _serve(tmp_path / "data") as (serve, client, url),
        _service(url) as (service, database),
        _worker("echo", url, lease=5.0),
    ):
        ids: dict[int, UUID] = {}

        async def submit(number: int) -> None:
            job = await _persistently(client, number)
            ids[number] = job

        load = [asyncio.create_task(submit(number)) for number in range(200)]
        await until(lambda: len(ids) >= 40, "some were accepted")
        (pid,) = [pid for pid, command in children(serve.pid).items() if _is_victim(command, victim)]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not alive(pid), "it has ended")
        load += [asyncio.create_task(submit(number)) for number in range(200, 300)]
        await asyncio.gather(*load)
        assert len(set(ids.values())) == 300
        await _all_completed_once(service, database, list(ids.values()))


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prepared_data")
async def test_outages_of_the_database_leave_no_traceback_in_any_log(tmp_path: Path) -> None:
    """They occur under traffic of every kind: submissions, long-polls, event streams, heartbeats, completions."""
    tmp_path.chmod(0o711)
    log = tmp_path / "log"
    async with (
        _serve(tmp_path / "data", log=log) as (serve, client, url),
        _worker("echo", url, lease=5.0, log=log),
        asyncio.TaskGroup() as traffic,
    ):
        stopping = asyncio.Event()
        completed: list[UUID] = []

        async def run_jobs(caller: int) -> None:
            while not stopping.is_set():
                job_id = await _persistently(client, f"{caller} {len(completed)}")
                try:
                    done = await client.wait(job_id, timedelta(seconds=60))
                except PenstockError:
                    continue
                if done.status is Status.COMPLETED:
                    completed.append(job_id)

        async def follow() -> None:
            while not stopping.is_set():
                try:
                    async for _ in client.events():
                        if stopping.is_set():
                            break
                except PenstockError:
                    await succeeds(client.stats, unless=PenstockError)

        async def leave() -> None:
            """Wait for a job that nobody runs, and hang up again and again."""
            job_id = await _persistently(client, "nobody", task_type="nobody")
            while not stopping.is_set():
                with suppress(PenstockError, TimeoutError):
                    await asyncio.wait_for(client.wait(job_id, timedelta(seconds=60)), 0.02)

        for number in range(20):
            traffic.create_task(run_jobs(number))
        for _ in range(5):
            traffic.create_task(follow())
            traffic.create_task(leave())
        for _ in range(3):
            goal = len(completed) + 100
            await until(lambda goal=goal: len(completed) >= goal, "more jobs are completed", seconds=60)  # type: ignore[misc]
            (pid,) = [pid for pid, command in children(serve.pid).items() if _is_victim(command, "postgres")]
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: not alive(pid), "it has ended")  # type: ignore[misc]
        goal = len(completed) + 100
        await until(lambda: len(completed) >= goal, "work continues", seconds=60)
        stopping.set()
    lines = log.read_text(errors="replace").splitlines()
    bad = ("Traceback", "never retrieved", "never awaited", '"level":"error"', '"level":"critical"')
    found = [line for line in lines if any(word in line for word in bad)]
    assert [line for line in found if '"event":"postgres_died"' not in line] == []
    assert len(found) == 3, "each outage is an error once, of the supervisor"


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prepared_data")
async def test_jobs_of_a_killed_worker_of_serve_are_requeued_at_once(tmp_path: Path) -> None:
    """The lease is the default of 15 minutes, but the supervisor knows that the worker is dead."""
    tmp_path.chmod(0o711)
    async with AsyncExitStack() as parts:
        provider, address = await parts.enter_async_context(_slow_provider())
        port = free_port()
        environment = {
            "HTTP_PORT": str(port),
            "WORKER_HTTP_PORT": str(free_port()),
            "PENSTOCK_DATA_DIR": str(tmp_path / "data"),
            "PENSTOCK_LOG_LEVEL": "error",
            "LLM_BASE_URL": address,
            "LLM_MODEL": "small",
        }
        client = await parts.enter_async_context(Client(f"http://127.0.0.1:{port}"))
        async with _process(*PENSTOCK, "serve", log=None, **environment) as serve:
            await until(lambda: _responds(client), "the gateway responds", seconds=30)
            job = await client.submit(
                owner_service="tests", task_type="llm_chat", model_profile="small", input={"user": "hello"}
            )
            await until(lambda: provider.calls == 1, "the worker asks the provider")
            (pid,) = [pid for pid, command in children(serve.pid).items() if "penstock worker" in command]
            os.kill(pid, signal.SIGKILL)
            await until(lambda: provider.calls == 2, "its successor asks again", seconds=20)
            serve.kill()  # now everything is killed, in the middle of the second attempt
            await serve.wait()
        provider.responding.set()
        async with _process(*PENSTOCK, "serve", log=None, **environment):
            await until(lambda: _responds(client), "the gateway responds again", seconds=30)
            done = await client.wait(job.id, timedelta(seconds=20))
        assert done.status is Status.COMPLETED
        assert [attempt.error.category for attempt in done.attempts] == ["worker_lost", "worker_lost"]


class _Provider:
    """An OpenAI-compatible server that responds only when the test lets it."""

    def __init__(self) -> None:
        self.calls = 0
        self.responding = asyncio.Event()

    async def chat(self, _request: web.Request) -> web.Response:
        self.calls += 1
        await self.responding.wait()
        return web.json_response({"model": "small", "choices": [{"message": {"content": "hi"}}], "usage": {}})


@asynccontextmanager
async def _slow_provider() -> AsyncIterator[tuple[_Provider, str]]:
    provider = _Provider()
    async with running(provider.chat) as address:
        try:
            yield provider, f"{address}/v1"
        finally:
            provider.responding.set()


def _is_victim(command: str, victim: str) -> bool:
    return "penstock gateway" in command if victim == "gateway" else "bin/postgres" in command


async def _persistently(client: Client, number: int | str, *, task_type: str = "echo") -> UUID:
    """Repeat a submission, always with the same key, until it is confirmed."""

    async def submit() -> UUID:
        job = await client.submit(
            owner_service="tests",
            task_type=task_type,
            model_profile="small",
            input={"number": number},
            idempotency_key=f"number {number}",
        )
        return job.id

    return await succeeds(submit, unless=PenstockError)


async def test_a_cut_between_commit_and_response_and_a_retry_create_one_job(
    postgres_server: EmbeddedServer, database_url: str
) -> None:
    async with _cutting_proxy(postgres_server) as (port, arm):
        name = database_url.split("@/")[1].split("?", maxsplit=1)[0]
        async with _service(f"postgresql://penstock@127.0.0.1:{port}/{name}?sslmode=disable") as (service, _):
            submission = JobSubmission(
                owner_service="tests", task_type="echo", model_profile="small", idempotency_key="once"
            )
            warm = JobSubmission(owner_service="tests", task_type="echo", model_profile="small", idempotency_key="warm")
            await service.of(DEFAULT_TENANT).submit(warm)
            arm.set()
            with pytest.raises(PenstockError):
                await service.of(DEFAULT_TENANT).submit(submission)
            assert not arm.is_set(), "the connection was cut"
            again = await service.of(DEFAULT_TENANT).submit(submission)
            assert not again.created, "the first one was committed"
    async with _service(database_url) as (direct, _):
        page = await direct.of(DEFAULT_TENANT).list(JobFilter())
        assert [job.idempotency_key for job in page.jobs] == ["once", "warm"]


async def test_an_outage_longer_than_the_lease_costs_no_healthy_worker_its_job(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    server = EmbeddedServer(tmp_path / "data")
    await server.start()
    async with AsyncExitStack() as parts:
        parts.push_async_callback(server.stop)
        await migrate(server.url)
        service, database = await parts.enter_async_context(_service(server.url))
        await parts.enter_async_context(_housekeeper(database))
        release, begun = asyncio.Event(), asyncio.Event()

        async def waiting(_job: object, _context: object) -> object:
            begun.set()
            await release.wait()
            return "done"

        executors = Executors()
        executors.add(waiting, task_types=["echo"], model_profiles=["small"])
        worker = Worker(service, worker_id="healthy", executors=executors, limit=1, lease=timedelta(seconds=1))
        working = asyncio.create_task(worker.run())
        job = (await service.of(DEFAULT_TENANT).submit(JOB)).job
        await asyncio.wait_for(begun.wait(), 10)
        await server.stop()
        stopped_at = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() > stopped_at + 2, "the lease ran out", seconds=5)
        await server.start()
        await until(lambda: _extended(service, job.id), "the worker keeps its lease", seconds=15)
        release.set()
        await until(lambda: _is(service, job.id, Status.COMPLETED), "it completes", seconds=15)
        seen = await service.of(DEFAULT_TENANT).get(job.id)
        assert (seen.attempt, seen.attempts) == (1, [])
        await worker.stop()
        await working


async def test_a_reader_of_events_may_switch_to_another_gateway(database_url: str, tmp_path: Path) -> None:
    """It resumes with the id of the last event it saw, misses nothing, and sees nothing twice."""
    ports = [free_port(), free_port()]
    async with AsyncExitStack() as parts:
        for port in ports:
            await parts.enter_async_context(
                _process(
                    *PENSTOCK, "gateway", HTTP_PORT=str(port), DATABASE_URL=database_url, PENSTOCK_LOG_LEVEL="error"
                )
            )
        first, second = [await parts.enter_async_context(Client(f"http://127.0.0.1:{port}")) for port in ports]
        for client in (first, second):
            await until(lambda client=client: _responds(client), "the gateway responds", seconds=20)  # type: ignore[misc]
        service, _ = await parts.enter_async_context(_service(database_url))
        jobs = [one.job for one in await service.of(DEFAULT_TENANT).submit_many([JOB] * 5)]
        seen = []
        async for event in first.events(jobs[0].id):
            seen.append(event)
            break
        claimed = await service.of(DEFAULT_TENANT).claim(ClaimRequest(worker_id="w", limit=5))
        for job in claimed:
            await service.of(DEFAULT_TENANT).complete(JobCompletion(id=job.id, epoch=job.epoch))
        seen += [event async for event in second.events(jobs[0].id, after=seen[-1].id)]
        assert [event.type for event in seen] == ["job.created", "job.started", "job.completed"]


async def _at_least(service: JobService, count: int) -> bool:
    return await _completed(service) >= count


async def _is(service: JobService, job_id: UUID, status: Status) -> bool:
    try:
        return (await service.of(DEFAULT_TENANT).get(job_id)).status is status
    except PenstockError:
        return False


async def _extended(service: JobService, job_id: UUID) -> bool:
    """Return whether the job still runs under its first lease, which was extended after the outage."""
    try:
        job = await service.of(DEFAULT_TENANT).get(job_id)
        pings = await service.of(DEFAULT_TENANT).stats()
    except PenstockError:
        return False
    assert job.status is Status.RUNNING, f"the rescue took it: {job.attempts}"
    assert pings.totals.running == 1
    return (
        job.lease_expires_at is not None
        and job.started_at is not None
        and (job.lease_expires_at - job.started_at > timedelta(seconds=3))
    )


@asynccontextmanager
async def _cutting_proxy(server: EmbeddedServer) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Run a TCP proxy to the server; once armed, it drops the response to the next COMMIT and the connection."""
    armed = asyncio.Event()
    socket_path = str(socket_folder(server.data_dir) / ".s.PGSQL.5432")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(socket_path)
        swallow = asyncio.Event()

        async def forward() -> None:
            while data := await reader.read(65536):
                if armed.is_set() and b"COMMIT" in data:
                    swallow.set()
                up_writer.write(data)
                await up_writer.drain()

        async def back() -> None:
            while data := await up_reader.read(65536):
                if swallow.is_set():  # committed, and the client does not learn of it
                    armed.clear()
                    return
                writer.write(data)
                await writer.drain()

        ways = [asyncio.create_task(forward()), asyncio.create_task(back())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, up_writer):
            end.close()

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield proxy.sockets[0].getsockname()[1], armed
    finally:
        proxy.close()
        await proxy.wait_closed()
