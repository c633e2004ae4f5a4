"""Idempotency keys: one key, one job, however often and from wherever the request comes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from penstock.errors import IdempotencyConflict
from penstock.jobs.job import RunSubmission
from penstock.postgres.pool import Database
from tests.support.databases import execute, query
from tests.support.jobs import JobCaller, submission

OTHERS: list[dict[str, Any]] = [
    {"task_type": "other"},
    {"model_profile": "other"},
    {"owner_ref": "other"},
    {"input": b'{"a": 2}'},
    {"priority": 1},
    {"max_attempts": 9},
    {"timeout_seconds": 5},
    {"tags": ["other"]},
]


async def test_the_same_request_with_the_same_key_returns_the_same_job(caller: JobCaller) -> None:
    wanted = submission(idempotency_key="k", input=b'{"a": 1}')
    first = await caller.service.of(caller.tenant).submit(wanted)
    second = await caller.service.of(caller.tenant).submit(wanted)
    assert (first.created, second.created) == (True, False)
    assert second.job == first.job


async def test_the_same_request_is_recognised_by_the_value_of_its_input_not_its_spelling(caller: JobCaller) -> None:
    first = await caller.submit(idempotency_key="k", input=b'{"a": 1, "b": [2]}')
    second = await caller.submit(idempotency_key="k", input=b' {"b":[2],"a":1} ')
    assert second.id == first.id


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: next(iter(other)))
async def test_a_different_request_with_the_same_key_is_refused(caller: JobCaller, other: dict[str, Any]) -> None:
    base: dict[str, Any] = {"idempotency_key": "k", "input": b'{"a": 1}'}
    await caller.submit(**base)
    with pytest.raises(IdempotencyConflict):
        await caller.submit(**(base | other))


async def test_parts_of_a_run_that_the_server_chooses_are_not_compared(caller: JobCaller) -> None:
    jobs = caller.service.of(caller.tenant)

    def run(profile: str, priority: int, ttl: float | None, chosen: set[str]) -> RunSubmission:
        given = {"model_profile": profile, "priority": priority, "ttl_seconds": ttl}
        fields = {"owner_service": "o", "task_type": "t", "idempotency_key": "k", "chosen": chosen}
        return msgspec.convert(given | fields, RunSubmission)

    first = await jobs.submit(run("a@1", 0, 60, set()), key_id="", counted=False)
    for profile, priority, ttl, chosen in (
        ("a@2", 0, 60, {"version"}),
        ("b@1", 0, 60, {"flow"}),
        ("a@1", 5, 60, {"priority"}),
        ("a@1", 0, None, {"ttl_seconds"}),
    ):
        again = await jobs.submit(run(profile, priority, ttl, chosen), key_id="", counted=False)
        assert (again.job.id, again.created) == (first.job.id, False)
        for other in {"version", "priority", "ttl_seconds"} - chosen - ({"version"} if "flow" in chosen else set()):
            with pytest.raises(IdempotencyConflict):
                await jobs.submit(run(profile, priority, ttl, {other}), key_id="", counted=False)
    with pytest.raises(IdempotencyConflict):
        await jobs.submit(run("b@1", 0, 60, {"version"}), key_id="", counted=False)


async def test_a_key_belongs_to_its_owner_service(caller: JobCaller) -> None:
    first = await caller.submit(owner_service="one", idempotency_key="k")
    second = await caller.submit(owner_service="two", idempotency_key="k")
    assert first.id != second.id


async def test_a_repeated_request_returns_the_job_in_its_present_state(caller: JobCaller) -> None:
    await caller.submit(idempotency_key="k")
    await caller.complete(await caller.claim_one(), b"[42]")
    result = await caller.service.of(caller.tenant).submit(submission(idempotency_key="k"))
    assert not result.created
    assert (result.job.status, bytes(result.job.result or b"")) == ("completed", b"[42]")


async def test_one_key_twice_in_one_batch_makes_one_job(caller: JobCaller) -> None:
    wanted = [submission(idempotency_key="k"), submission(), submission(idempotency_key="k")]
    first, _, third = await caller.service.of(caller.tenant).submit_many(wanted)
    assert (first.created, third.created) == (True, False)
    assert first.job.id == third.job.id


async def test_one_key_for_two_requests_in_one_batch_refuses_the_batch(caller: JobCaller, database: Database) -> None:
    with pytest.raises(IdempotencyConflict):
        await caller.service.of(caller.tenant).submit_many(
            [submission(idempotency_key="k"), submission(idempotency_key="k", priority=1)]
        )
    assert await query(database, "SELECT 1 FROM job WHERE tenant_id = $1", caller.tenant) == []


async def test_a_repeated_batch_returns_the_jobs_of_the_first_and_creates_only_new_ones(caller: JobCaller) -> None:
    wanted = [submission(idempotency_key=f"k{number}") for number in range(20)]
    first = await caller.service.of(caller.tenant).submit_many(wanted)
    second = await caller.service.of(caller.tenant).submit_many([*wanted, submission(idempotency_key="new")])
    assert [result.job.id for result in second[:20]] == [result.job.id for result in first]
    assert [result.created for result in second] == [False] * 20 + [True]


async def test_a_batch_with_a_key_of_a_different_request_creates_nothing(caller: JobCaller, database: Database) -> None:
    await caller.submit(idempotency_key="taken", priority=9)
    wanted = [submission(idempotency_key="free"), submission(), submission(idempotency_key="taken")]
    with pytest.raises(IdempotencyConflict):
        await caller.service.of(caller.tenant).submit_many(wanted)
    assert len(await query(database, "SELECT 1 FROM job WHERE tenant_id = $1", caller.tenant)) == 1
    assert len(await query(database, "SELECT 1 FROM idempotency WHERE tenant_id = $1", caller.tenant)) == 1


async def test_one_key_at_once_from_two_processes_makes_one_job(
    caller: JobCaller, far_caller: JobCaller, database: Database
) -> None:
    for number in range(20):
        key = f"k{number}"
        results = await asyncio.gather(
            *((caller, far_caller)[turn % 2].submit(idempotency_key=key, input=b"[1]") for turn in range(8))
        )
        assert len({job.id for job in results}) == 1
    assert len(await query(database, "SELECT 1 FROM job WHERE tenant_id = $1", caller.tenant)) == 20


async def test_batches_with_the_same_keys_in_opposite_orders_do_not_deadlock(
    caller: JobCaller, far_caller: JobCaller, database: Database
) -> None:
    for round_number in range(5):
        keys = [f"{round_number}/{number}" for number in range(50)]
        forward = [submission(idempotency_key=key) for key in keys]
        both = await asyncio.gather(
            caller.service.of(caller.tenant).submit_many(forward),
            far_caller.service.of(caller.tenant).submit_many(forward[::-1]),
        )
        assert [result.job.id for result in both[0]] == [result.job.id for result in both[1]][::-1]
    assert len(await query(database, "SELECT 1 FROM job WHERE tenant_id = $1", caller.tenant)) == 250


async def test_one_key_at_once_for_two_requests_serves_one_and_refuses_the_other(
    caller: JobCaller, far_caller: JobCaller
) -> None:
    results = await asyncio.gather(
        *(caller.submit(idempotency_key="k", priority=1) for _ in range(3)),
        *(far_caller.submit(idempotency_key="k", priority=2) for _ in range(3)),
        return_exceptions=True,
    )
    refused = [isinstance(result, IdempotencyConflict) for result in results]
    assert refused in ([True] * 3 + [False] * 3, [False] * 3 + [True] * 3)


async def test_the_key_of_a_dropped_job_can_be_used_again(caller: JobCaller, database: Database) -> None:
    first = await caller.submit(idempotency_key="k")
    await execute(database, "DELETE FROM ready WHERE job_id = $1", first.id)
    await execute(database, "DELETE FROM job WHERE id = $1", first.id)
    second = await caller.service.of(caller.tenant).submit(submission(idempotency_key="k", priority=5))
    assert second.created
    assert second.job.id != first.id


async def test_the_key_of_a_dropped_job_can_be_used_again_in_a_batch(caller: JobCaller, database: Database) -> None:
    first = await caller.submit(idempotency_key="k")
    await execute(database, "DELETE FROM ready WHERE job_id = $1", first.id)
    await execute(database, "DELETE FROM job WHERE id = $1", first.id)
    (result,) = await caller.service.of(caller.tenant).submit_many([submission(idempotency_key="k")])
    assert result.created


async def test_inputs_that_cannot_be_compared_count_as_different(caller: JobCaller) -> None:
    """Numbers out of every machine type's range and nesting too deep for a parser are stored, but not compared."""
    for number, value in enumerate((b"1e400", b"[" * 3000 + b"]" * 3000)):
        first = await caller.submit(idempotency_key=f"{number}", input=value)
        assert (await caller.submit(idempotency_key=f"{number}", input=value)).id == first.id
        with pytest.raises(IdempotencyConflict):
            await caller.submit(idempotency_key=f"{number}", input=b" " + value)
