"""Values that break careless services are stored unchanged, or refused as the caller's mistake."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from penstock.errors import InvalidInput
from penstock.failures import Category
from penstock.jobs.job import JobSubmission
from penstock.jobs.work import Failure
from tests.support.hostile_json import KEPT, REFUSED
from tests.support.jobs import JobCaller, take
from tests.support.waiting import within

NAMES = ["'; DROP TABLE job; --", "日本語", "🦀" * 50, "a\\b\"c'd", "%s $1 :name", " ", "x" * 200, "\u202e\u0301"]


@pytest.mark.parametrize("name", KEPT)
async def test_strange_but_valid_json_is_kept_byte_for_byte(caller: JobCaller, name: str) -> None:
    made = await caller.submit(input=KEPT[name])
    job = await caller.claim_one()
    assert bytes(job.input) == KEPT[name]
    await caller.complete(job, KEPT[name])
    read = await caller.get(made.id)
    assert bytes(read.input) == KEPT[name]
    assert bytes(read.result or b"") == KEPT[name]


@pytest.mark.parametrize("name", REFUSED)
async def test_invalid_json_is_the_callers_mistake_and_its_neighbours_are_stored(caller: JobCaller, name: str) -> None:
    bad, good = await asyncio.gather(caller.submit(input=REFUSED[name]), caller.submit(), return_exceptions=True)
    assert isinstance(bad, InvalidInput)
    assert not isinstance(good, BaseException)


@pytest.mark.parametrize("name", REFUSED)
async def test_a_result_that_is_not_json_leaves_the_job_running(caller: JobCaller, name: str) -> None:
    job = await caller.submit_and_claim()
    with pytest.raises(Exception, match=r".") as caught:
        await caller.complete(job, REFUSED[name])
    assert isinstance(caught.value, InvalidInput)
    assert await caller.status(job.id) == "running"
    await caller.complete(job)


@pytest.mark.parametrize("name", KEPT)
async def test_strange_progress_reaches_readers_of_the_job_and_of_its_events(caller: JobCaller, name: str) -> None:
    job = await caller.submit_and_claim()
    await caller.beat(job, progress=KEPT[name])
    assert bytes((await caller.get(job.id)).progress or b"") == KEPT[name]
    stream = caller.events(job.id)
    events = await take(stream, 3)
    assert [event.type for event in events] == ["job.created", "job.started", "job.progress"]
    await caller.complete(job)
    assert (await within(anext(stream))).type == "job.completed"


@pytest.mark.parametrize("name", NAMES)
async def test_any_plain_text_is_a_name(caller: JobCaller, name: str) -> None:
    made = await caller.submit(
        owner_service=name, task_type=name, model_profile=name, owner_ref=name, tags=[name], idempotency_key=name
    )
    job = await caller.claim_one(task_types=[name], model_profiles=[name], worker_id=name)
    assert job.id == made.id
    await caller.fail(job, Category.BAD_INPUT, message=name)
    page = await caller.page(
        owner_service=name, task_type=name, model_profile=name, owner_ref=name, tags=[name], worker_id=name
    )
    (found,) = page.jobs
    assert found.error is not None
    assert (found.id, found.error.message) == (made.id, name)


@pytest.mark.parametrize("bad", ["\x00", "a\x00b", "line\nbreak", "\x7f", "", "x" * 201])
def test_control_characters_and_wrong_lengths_are_refused_on_decoding(bad: str) -> None:
    body = msgspec.json.encode({"owner_service": bad, "task_type": "t", "model_profile": "m"})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=JobSubmission)


def test_a_nul_in_a_message_is_refused_on_decoding() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"epoch": 1, "message": "a\\u0000"}', type=Failure)


def test_half_a_surrogate_pair_in_a_name_is_refused_on_decoding() -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(b'{"owner_service": "\\ud83d", "task_type": "t", "model_profile": "m"}', type=JobSubmission)
