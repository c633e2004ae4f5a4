"""The stream of events of a run with all that it issues: whole, in order, resumable anywhere, and without a gap."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from penstock.errors import TooLarge
from penstock.events import tail as tail_module
from penstock.events.event import Event
from penstock.events.position import Position
from penstock.events.stream import EventStream, OpenStream
from penstock.events.tail import Reader
from penstock.flows.events import RunEvents, RunHistory
from penstock.flows.service import FlowService
from penstock.jobs.job import JobSubmission
from penstock.jobs.service import JobService
from penstock.masking import Secret
from penstock.postgres.pool import Database
from tests.support.databases import query
from tests.support.event_streams import stream
from tests.support.flow_runners import running
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.jobs import JobCaller
from tests.support.waiting import until, within

FLOWS = """
from penstock.flows import flow, run

@flow(name="outer", version="1")
async def outer() -> list:
    run.publish("outer.began", {"of": "outer"})
    first = await run.call("echo", "first")
    run.progress(0.5)
    return [first, await run.call(inner, {}), await run.call(run.flow("inner", "1"), {})]

@flow(name="inner", version="1")
async def inner() -> list:
    run.publish("inner.began")
    return await run.gather(run.call("echo", 1), run.call(innermost, {}))

@flow(name="innermost", version="1")
async def innermost() -> str:
    run.publish("innermost.began")
    return await run.call("echo", "deep")

@flow(name="steps", version="1")
async def steps() -> None:
    while (signal := await run.wait_signal("next")) != "end":
        await run.call(inner, {})

@flow(name="children", version="1")
async def children() -> None:
    begun = []
    while await run.wait_signal("next") != "end":
        begun.append(run.start(child, {}))
    await run.gather(*begun)

@flow(name="child", version="1")
async def child() -> None:
    await run.wait_signal("next")
    await run.call(inner, {})

@flow(name="mapping", version="1")
async def mapping(items: int) -> int:
    return len(await run.map("echo", range(items), limit=8))

@flow(name="wide", version="1")
async def wide(width: int) -> None:
    await run.wait_signal("next")
    await run.gather(*[run.call("echo", number) for number in range(width)])
"""


@pytest.fixture
async def flows(
    caller: JobCaller, service: JobService, database: Database, tmp_path: Path
) -> AsyncIterator[FlowService]:
    (tmp_path / "flows.py").write_text(FLOWS)
    async with running(service, database, tmp_path, linger=0.1):
        yield FlowService(database, service)


async def begin(caller: JobCaller, flow: str, value: Any = None) -> UUID:
    given = msgspec.Raw(msgspec.json.encode(value or {}))
    submission = JobSubmission(owner_service="tests", task_type="flow", model_profile=f"{flow}@1", input=given)
    return (await caller.service.of(caller.tenant).submit(submission)).job.id


async def ended(caller: JobCaller, run_id: UUID) -> None:
    async def over() -> bool:
        return (await caller.get(run_id)).status.finished

    await until(over, "the run ends")


async def signal(flows: FlowService, caller: JobCaller, run_id: UUID, value: str = "go") -> None:
    await flows.signal(caller.tenant, run_id, "next", msgspec.Raw(msgspec.json.encode(value)), key=None)


async def runs_of_inner(caller: JobCaller, count: int) -> None:
    async def ended_runs() -> bool:
        page = await caller.page(task_type="flow", model_profile="inner@1")
        return [job.status.finished for job in page.jobs] == [True] * count

    await until(ended_runs, f"{count} child runs end")


async def all_events(database: Database, caller: JobCaller, run_id: UUID) -> list[str]:
    """Return the ids of the events of a run and of all that it has issued, found by its jobs among all events."""
    rows = await query(
        database,
        """
        WITH RECURSIVE part AS (
            SELECT id FROM job WHERE tenant_id = $1 AND id = $2
            UNION ALL SELECT j.id FROM part p JOIN job j ON j.tenant_id = $1 AND j.parent_id = p.id AND j.step_no >= 0
        )
        SELECT id::text FROM part
        """,
        caller.tenant,
        run_id,
    )
    subjects = {name for (part,) in rows for name in (part, f"flow/{part}")}
    found: list[str] = []
    async with aclosing(await caller.watch(after="0-0-0")) as events:
        async for event in events:
            if str(event.subject) in subjects:
                found.append(event.id)
            if event.subject == run_id and event.type in {"job.completed", "job.cancelled"}:
                return found
    raise AssertionError("the stream of all events has ended")


async def read(events: OpenStream) -> list[Event]:
    async with aclosing(events):
        return [event async for event in events]


async def watched(flows: FlowService, caller: JobCaller, run_id: UUID, after: str | None = None) -> list[Event]:
    position = None if after is None else Position.parse(after)
    return await within(read(await flows.events(caller.tenant, run_id, position)), 60)


async def test_the_stream_of_a_run_has_all_that_it_issues_and_ends_with_it(
    flows: FlowService, caller: JobCaller, database: Database
) -> None:
    run_id = await begin(caller, "outer")
    live = await watched(flows, caller, run_id)
    assert (live[0].subject, live[0].type) == (run_id, "job.created")
    assert (live[-1].subject, live[-1].type) == (run_id, "job.completed")
    assert [event.id for event in live] == await all_events(database, caller, run_id)
    assert sorted(event.type for event in live if str(event.subject).startswith("flow/")) == [
        "inner.began", "inner.began", "innermost.began", "innermost.began", "outer.began",
    ]  # fmt: skip
    (progress,) = [event for event in live if event.type == "job.progress"]
    assert (progress.subject, bytes(progress.data["progress"])) == (run_id, b'{"fraction":0.5}')
    assert len({event.subject for event in live if event.type == "job.completed"}) == 10  # the run and nine steps

    assert await watched(flows, caller, run_id) == live


async def test_a_reader_resumes_after_any_event(flows: FlowService, caller: JobCaller) -> None:
    run_id = await begin(caller, "outer")
    live = await watched(flows, caller, run_id)
    for place, event in enumerate(live[:-1], 1):
        assert await watched(flows, caller, run_id, event.id) == live[place:]
    assert await flows.events_over(caller.tenant, run_id, live[-1].position)
    assert not await flows.events_over(caller.tenant, run_id, live[-2].position)


class SteppedHistory(RunHistory):
    """Lets things happen before and after a reader learns the jobs of the run, and before it reads stored events."""

    before: Callable[[], Awaitable[None]]
    afterwards: Callable[[], Awaitable[None]]
    reading: Callable[[], Awaitable[None]] | None

    async def grow(self, reader: Reader, after: Position) -> None:
        await self.before()
        await super().grow(reader, after)
        await self.afterwards()

    async def read(self, behind: Position, upto: Position) -> AsyncIterator[Event]:
        reading, self.reading = self.reading, None
        if reading is not None:
            await reading()
        async for event in super().read(behind, upto):
            yield event


class Children:
    """The child runs of a run, which begin and continue by signals."""

    def __init__(self, flows: FlowService, caller: JobCaller, run_id: UUID) -> None:
        self._flows = flows
        self._caller = caller
        self._run_id = run_id
        self.ids: list[UUID] = []

    async def begin(self) -> None:
        await signal(self._flows, self._caller, self._run_id)

        async def waits() -> bool:
            page = await self._caller.page(task_type="flow", model_profile="child@1")
            self.ids = sorted(job.id for job in page.jobs)
            return len(page.jobs) > known and page.jobs[0].status == "waiting"

        known = len(self.ids)
        await until(waits, "a further child run waits")

    async def finish(self, child: UUID) -> None:
        await signal(self._flows, self._caller, child)
        await ended(self._caller, child)


@pytest.mark.parametrize("resumed", [False, True])
async def test_what_happens_while_a_reader_registers_is_not_missed(
    flows: FlowService, caller: JobCaller, database: Database, resumed: bool
) -> None:
    run_id = await begin(caller, "children")
    children = Children(flows, caller, run_id)
    await children.begin()
    tail = caller.service.of(caller.tenant).tail
    history = SteppedHistory(database, caller.tenant, tail, run_id)

    async def reading() -> None:
        await children.begin()
        for child in list(children.ids):
            await children.finish(child)

    history.before = history.afterwards = children.begin
    history.reading = reading
    tree = await flows.tree(caller.tenant, run_id, from_no=0, limit=10)
    after = Position.parse(tree.last_event_id) if resumed else None
    opened = EventStream(tail, history, subject=run_id, is_over=history.is_over, grow=history.grow)
    events = await within(opened.open(after), 60)
    first = await within(anext(events), 60)
    await children.begin()
    await children.finish(children.ids[-1])
    await signal(flows, caller, run_id, "end")
    received = [event.id for event in (first, *await within(read(events), 60))]
    assert len(children.ids) == 5
    expected = await all_events(database, caller, run_id)
    assert received == (expected[-len(received) :] if resumed else expected)
    if resumed:
        missing = [Position.parse(one) for one in expected[: -len(received)]]
        assert all(one <= Position.parse(tree.last_event_id) for one in missing)


async def test_a_reader_that_falls_behind_misses_nothing(
    flows: FlowService, caller: JobCaller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "_READER_BYTES", 1000)
    run_id = await begin(caller, "steps")
    events = await flows.events(caller.tenant, run_id, None)
    first = await within(anext(events))
    for count in (1, 2):
        await signal(flows, caller, run_id)
        await runs_of_inner(caller, count)
    await signal(flows, caller, run_id, "end")
    await ended(caller, run_id)
    received = [first, *await within(read(events), 60)]
    assert [event.id for event in received] == await all_events(database, caller, run_id)


async def test_a_map_is_one_job_whose_progress_counts_its_items(flows: FlowService, caller: JobCaller) -> None:
    run_id = await begin(caller, "mapping", {"items": 100})
    events = await watched(flows, caller, run_id)
    assert len({event.subject for event in events}) == 2  # the run and its map
    counts = [msgspec.json.decode(event.data["progress"]) for event in events if event.type == "job.progress"]
    assert counts[-1] == {"items": 100, "waiting": 0, "running": 0, "completed": 100, "failed": 0}
    assert len(events) < 60
    assert events[-1].subject == run_id


async def test_a_run_with_too_many_jobs_at_a_time_is_refused(
    flows: FlowService, caller: JobCaller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "_READER_SUBJECTS", 8)
    run_id = await begin(caller, "wide", {"width": 20})
    events = await flows.events(caller.tenant, run_id, None)
    await signal(flows, caller, run_id)
    received = await within(read(events), 60)  # it ends without the event with which the run ends
    assert not [event for event in received if event.subject == run_id and event.type == "job.completed"]
    await ended(caller, run_id)
    with pytest.raises(TooLarge, match="too many jobs for one stream"):
        await flows.events(caller.tenant, run_id, None)
    assert not caller.service.of(caller.tenant).tail.readers


async def test_ended_jobs_do_not_count(
    flows: FlowService, caller: JobCaller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "_READER_SUBJECTS", 16)
    run_id = await begin(caller, "steps")
    events = await flows.events(caller.tenant, run_id, None)
    received: list[Event] = []
    for count in range(1, 6):  # with seven subjects each
        await signal(flows, caller, run_id)
        while sum(map(_ends_inner, received)) < count:
            received.append(await within(anext(events)))
    await signal(flows, caller, run_id, "end")
    received += await within(read(events), 60)
    assert [event.id for event in received] == await all_events(database, caller, run_id)


async def test_streams_of_runs_leave_nothing_behind(flows: FlowService, caller: JobCaller, database: Database) -> None:
    tail = caller.service.of(caller.tenant).tail
    run_id = await begin(caller, "steps")
    events = await RunEvents(database, caller.tenant, tail).of_run(run_id, None)
    await signal(flows, caller, run_id)
    await runs_of_inner(caller, 1)
    assert tail.followed > 1
    await events.aclose()
    assert (tail.readers, tail.followed) == (0, 0)


async def test_over_http(flows: FlowService, database: Database, module_database_url: str, tmp_path: Path) -> None:
    async with running_gateway(module_database_url) as gateway:
        await until(lambda: published(gateway), "the flows are published")
        run = (await gateway.post("/flows/outer", {"input": {}})).json
        path = f"/flows/runs/{run['id']}/events"
        async with stream(gateway, path) as events:
            received = await events.rest()
        assert received[-1].type == "job.completed"
        assert received[-1].cloud["subject"] == run["id"]
        async with stream(gateway, path, **{"Last-Event-ID": received[2].id}) as events:
            assert await events.rest() == received[3:]
        assert (await gateway.get(f"{path}?after={received[-1].id}")).status == 204
        tree = (await gateway.get(f"/flows/runs/{run['id']}")).json
        assert (await gateway.get(f"{path}?after={tree['last_event_id']}")).status == 204
        assert (await gateway.get(f"{path}?after=nonsense")).fields == ["after"]
        job = await gateway.submit(task_type="ordinary")
        assert (await gateway.get(f"/flows/runs/{job['id']}/events")).status == 404


async def test_a_key_gets_the_events_of_its_queues(flows: FlowService, module_database_url: str) -> None:
    async with running_gateway(module_database_url, ai_service_token=Secret("t" * 32)) as gateway:
        await until(lambda: published(gateway), "the flows are published")
        run = (await gateway.post("/flows/outer", {"input": {}}, Prefer="wait=30")).json
        path = f"/flows/runs/{run['id']}/events"
        for queues, types in ((["flow/outer@1"], {"flow"}), (["flow/outer@1", "predict/echo"], {"flow", "predict"})):
            fields = {"name": "few", "scopes": ["jobs:read"], "queues": queues}
            key = (await gateway.post("/keys", fields)).json["key"]
            async with stream(gateway, path, Authorization=f"Bearer {key}") as events:
                received = [event.cloud for event in await events.rest()]
            assert {cloud["data"]["task_type"] for cloud in received if "task_type" in cloud["data"]} == types
            assert {cloud["subject"] for cloud in received if cloud["subject"].startswith("flow/")} == {
                f"flow/{run['id']}"
            }
            assert received[-1]["subject"] == run["id"]
        other = (await gateway.post("/keys", {"name": "no", "scopes": ["jobs:read"], "queues": ["a/b"]})).json["key"]
        assert (await gateway.get(path, Authorization=f"Bearer {other}")).status == 404


def _ends_inner(event: Event) -> bool:
    return event.type == "job.completed" and event.data["model_profile"] == "inner@1"


async def published(gateway: HttpCaller) -> bool:
    return any(flow["alive"] for flow in (await gateway.get("/flows")).json["flows"])
