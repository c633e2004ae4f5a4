"""Receivers that fail: attempts are repeated by the schedule with the same id, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from aiohttp import web

from penstock.callbacks import rules
from penstock.callbacks.endpoint import DeliveryView, Endpoint, EndpointChange, Replay, Rotation
from tests.support.callbacks import Callbacks, Message, Receiver, managing
from tests.support.clocks import Clock
from tests.support.jobs import JobCaller
from tests.support.waiting import until


def statuses(*numbers: int, **headers: str) -> Callable[[Message], web.Response]:
    """Respond with these statuses in turn, and then with the last one."""
    left = list(numbers)

    def respond(_: Message) -> web.Response:
        status = left.pop(0) if len(left) > 1 else left[0]
        return web.Response(status=status, headers={} if status < 300 else headers, text="cannot do that")

    return respond


async def the_delivery(
    callbacks: Callbacks, caller: JobCaller, endpoint: Endpoint, *, attempts: int, status: str = "waiting"
) -> DeliveryView:
    """Wait until the only delivery has had so many attempts."""
    found: list[DeliveryView] = []

    async def tried() -> bool:
        found[:] = await callbacks.deliveries(caller.tenant, endpoint)
        return len(found) == 1 and len(found[0].attempts) >= attempts and found[0].status == status

    await until(tried, f"{attempts} attempts: {found}")
    return found[0]


async def test_an_attempt_is_repeated_with_the_same_id_and_a_new_signature(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver, clock: Clock
) -> None:
    hook.respond = statuses(500, 200)
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    async with callbacks.running():
        await caller.submit()
        waiting = await the_delivery(callbacks, caller, endpoint, attempts=1)
        assert (waiting.attempts[0].status, waiting.attempts[0].response) == (500, "cannot do that")
        assert waiting.next_attempt_at is not None
        await clock.advance(rules.SCHEDULE[0] * 1.2)
        callbacks.poke()
        first, second = await hook.got(2)
        await the_delivery(callbacks, caller, endpoint, attempts=2, status="delivered")
    assert first.id == second.id
    for message in (first, second):
        message.verify(endpoint.secret)
    assert first.body == second.body


async def test_a_delivery_is_dead_after_the_schedule_and_can_be_replayed(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver, clock: Clock
) -> None:
    hook.respond = statuses(400)
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    async with callbacks.running():
        await caller.submit()
        for tries, wait in enumerate(rules.SCHEDULE, start=1):
            delivery = await the_delivery(callbacks, caller, endpoint, attempts=tries)
            assert delivery.next_attempt_at is not None
            planned = delivery.next_attempt_at - delivery.attempts[-1].at - clock.ahead
            assert wait * 0.85 < planned < wait * 1.15 + timedelta(seconds=10)
            await clock.advance(wait * 1.2)
            callbacks.poke()
        dead = await the_delivery(callbacks, caller, endpoint, attempts=len(rules.SCHEDULE) + 1, status="dead")
        assert (await callbacks.endpoint(caller.tenant, endpoint)).dead == 1
        hook.respond = statuses(200)
        assert await callbacks.service.replay(managing(caller.tenant), endpoint.id, Replay(dead=True)) == 1
        delivered = await the_delivery(
            callbacks, caller, endpoint, attempts=len(rules.SCHEDULE) + 2, status="delivered"
        )
    assert delivered.id == dead.id
    assert {message.id for message in hook.messages} == {dead.id}
    state = await callbacks.endpoint(caller.tenant, endpoint)
    assert (state.dead, state.delivered, state.waiting) == (0, 1, 0)


async def test_retry_after_is_honoured(caller: JobCaller, callbacks: Callbacks, hook: Receiver) -> None:
    hook.respond = statuses(429, **{"Retry-After": "1200"})
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    async with callbacks.running():
        await caller.submit()
        delivery = await the_delivery(callbacks, caller, endpoint, attempts=1)

        async def rests() -> bool:
            return (await callbacks.endpoint(caller.tenant, endpoint)).resting_until is not None

        await until(rests, "the endpoint rests")
        state = await callbacks.endpoint(caller.tenant, endpoint)
    assert delivery.next_attempt_at is not None
    assert timedelta(minutes=19) < delivery.next_attempt_at - delivery.attempts[0].at < timedelta(minutes=21)
    assert state.resting_until is not None
    assert timedelta(minutes=19) < state.resting_until - delivery.attempts[0].at < timedelta(minutes=21)


async def test_410_disables_the_endpoint(caller: JobCaller, callbacks: Callbacks, hook: Receiver) -> None:
    hook.respond = statuses(410, 200)
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    async with callbacks.running():
        await caller.submit()
        dead = await the_delivery(callbacks, caller, endpoint, attempts=1, status="dead")

        async def disabled() -> bool:
            return (await callbacks.endpoint(caller.tenant, endpoint)).disabled_at is not None

        await until(disabled, "the endpoint is disabled")
        unheard = await caller.submit()
        await callbacks.caught_up()
        other = await callbacks.add(caller.tenant, hook.url, "job.created")
        heard = await caller.submit()
        await hook.got(2)
        assert [one.id for one in await callbacks.deliveries(caller.tenant, endpoint)] == [dead.id]
        await callbacks.service.change(managing(caller.tenant), endpoint.id, EndpointChange(disabled=False))
        await callbacks.service.replay(managing(caller.tenant), endpoint.id, Replay(ids=[dead.id]))
        await hook.got(3)
    subjects = [message.event["subject"] for message in hook.messages]
    assert str(unheard.id) not in subjects
    assert subjects[1] == str(heard.id)
    assert hook.messages[2].id == dead.id
    assert other.id != endpoint.id


async def test_two_signatures_while_a_secret_rotates(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver, clock: Clock
) -> None:
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    async with callbacks.running():
        rotation = Rotation(overlap_seconds=3600)
        rotated = await callbacks.service.rotate(managing(caller.tenant), endpoint.id, rotation)
        await caller.submit()
        (message,) = await hook.got(1)
        message.verify(endpoint.secret)
        message.verify(rotated.secret)
        assert len(message.headers["webhook-signature"].split()) == 2
        await clock.advance(timedelta(hours=2))
        await caller.submit()
        message = (await hook.got(2))[1]
        message.verify(rotated.secret)
        assert len(message.headers["webhook-signature"].split()) == 1


async def test_a_failing_endpoint_rests_and_loses_nothing(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver, clock: Clock
) -> None:
    hook.respond = statuses(503)
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    async with callbacks.running():
        jobs = await caller.submit_many(40)

        async def rests() -> bool:
            return (await callbacks.endpoint(caller.tenant, endpoint)).resting_until is not None

        await until(rests, "the endpoint rests")
        tried = len(hook.messages)
        assert tried < 20, "most deliveries wait without costing an attempt"
        hook.respond = statuses(200)
        await clock.advance(timedelta(minutes=6))
        callbacks.poke()

        async def delivered() -> bool:
            return (await callbacks.endpoint(caller.tenant, endpoint)).delivered == 40

        await until(delivered, "every delivery")
    assert {message.event["subject"] for message in hook.messages[tried:]} == {str(job.id) for job in jobs}


async def test_the_events_of_a_job_keep_their_order(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver, clock: Clock
) -> None:
    """While the first event of a job cannot be delivered, its later ones wait; those of other jobs do not."""
    endpoint = await callbacks.add(caller.tenant, hook.url, "*")
    first = await caller.submit()

    def refuse_the_first(message: Message) -> web.Response:
        return web.Response(status=400 if message.event["subject"] == str(first.id) else 200)

    hook.respond = refuse_the_first
    async with callbacks.running():
        await hook.got(1)
        for _ in range(2):
            claimed = await caller.claim_one()
            await caller.complete(claimed)
            if claimed.id == first.id:
                await caller.submit()

        async def only_the_first_waits() -> bool:
            state = await callbacks.endpoint(caller.tenant, endpoint)
            return (state.delivered, state.waiting) == (3, 3)

        await until(only_the_first_waits, "the events of the other job are delivered")
        hook.respond = statuses(200)
        await clock.advance(timedelta(seconds=10))
        callbacks.poke()

        async def all_delivered() -> bool:
            return (await callbacks.endpoint(caller.tenant, endpoint)).waiting == 0

        await until(all_delivered, "every event is delivered")
    own = [message.event["type"] for message in hook.messages if message.event["subject"] == str(first.id)]
    assert own == ["job.created", "job.created", "job.started", "job.completed"]
