"""Events reach endpoints: signed, in order, and once in effect."""

from __future__ import annotations

from msgspec import Raw

from penstock.callbacks.callback import Callback
from penstock.events import store as event_log
from penstock.postgres.pool import Database
from tests.support.callbacks import Callbacks, Receiver
from tests.support.jobs import JobCaller
from tests.support.waiting import until


async def test_an_endpoint_gets_the_events_that_it_wants(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created", "job.completed")
    async with callbacks.running():
        job = await caller.submit_and_claim(owner_ref="order 7", tags=["red"])
        await caller.complete(job, b'{"answer": 42}')
        created, completed = await hook.got(2)
    for message in (created, completed):
        message.verify(endpoint.secret)
        assert message.headers["content-type"] == "application/cloudevents+json"
        assert message.event["specversion"] == "1.0"
        assert message.id == f"msg_{caller.tenant}_{message.event['id']}"
        assert message.event["subject"] == str(job.id)
        assert message.event["source"] == "/api/v1/jobs"
    assert created.event["type"] == "job.created"
    assert completed.event["type"] == "job.completed"
    assert completed.event["data"]["owner_ref"] == "order 7"
    assert completed.event["data"]["tags"] == ["red"]
    assert completed.event["data"]["result"] == {"answer": 42}
    assert completed.event["data"]["attempt"] == 1


async def test_an_endpoint_gets_what_flows_publish(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver, database: Database
) -> None:
    await callbacks.add(caller.tenant, hook.url, "review.*", "job.failed")
    async with callbacks.running():
        await caller.submit()
        async with database.acquire() as connection:
            for kind in ("reviewed.too", "review.written"):
                await event_log.record(connection, caller.tenant, "flow/1", kind=kind, data=Raw(b'{"by": "Ada"}'))
        (message,) = await hook.got(1)
    assert (message.event["type"], message.event["subject"]) == ("review.written", "flow/1")
    assert message.event["data"] == {"by": "Ada"}


async def test_a_job_names_its_own_callback(caller: JobCaller, callbacks: Callbacks, hook: Receiver) -> None:
    secret = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    async with callbacks.running():
        other = await caller.submit_and_claim()
        job = await caller.submit_and_claim(callback=Callback(url=f"{hook.url}/mine", secret=secret))
        await caller.complete(other)
        await caller.complete(job)
        (message,) = await hook.got(1)
    message.verify(secret)
    assert message.path == "/mine"
    assert (message.event["type"], message.event["subject"]) == ("job.completed", str(job.id))


async def test_deliveries_are_kept_with_their_attempts(caller: JobCaller, callbacks: Callbacks, hook: Receiver) -> None:
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    async with callbacks.running():
        job = await caller.submit()
        (message,) = await hook.got(1)

        async def delivered() -> bool:
            return (await callbacks.endpoint(caller.tenant, endpoint)).delivered == 1

        await until(delivered, "the delivery is recorded")
    (delivery,) = await callbacks.deliveries(caller.tenant, endpoint)
    assert (delivery.id, delivery.status, delivery.subject) == (message.id, "delivered", str(job.id))
    (attempt,) = delivery.attempts
    assert (attempt.status, attempt.error) == (200, "")
