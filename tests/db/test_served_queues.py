"""The record of queues that workers serve: an aid that no claim depends on."""

from __future__ import annotations

import asyncio
import gc

from penstock.postgres.pool import Database
from tests.support.databases import execute, query
from tests.support.jobs import JobCaller
from tests.support.waiting import until, within


async def test_a_record_that_the_database_refuses_is_logged_and_disturbs_no_claim(
    alone: JobCaller, fresh: Database
) -> None:
    await execute(fresh, "CREATE SEQUENCE refusals")
    await execute(
        fresh,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM nextval('refusals'); RAISE EXCEPTION 'refused'; END $$",
    )
    await execute(fresh, "CREATE TRIGGER refuse BEFORE INSERT ON queue_seen FOR EACH ROW EXECUTE FUNCTION refuse()")
    lost: list[str] = []
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: lost.append(context["message"]))
    try:
        await alone.submit()
        await within(alone.claim_one())
        await until(lambda: _was_refused(fresh), "the record is refused")
        await until(lambda: _writers() == 0, "the write has ended")
        gc.collect()
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(handler)
    assert lost == []


async def _was_refused(database: Database) -> bool:
    return await query(database, "SELECT is_called FROM refusals") == [(True,)]


def _writers() -> int:
    return sum("ServedQueues" in repr(task.get_coro()) for task in asyncio.all_tasks())
