"""A check of submissions sees every job of a request before anything is written, and may refuse a field."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from penstock.errors import InvalidInput
from penstock.jobs.filters import JobFilter
from penstock.jobs.http.submitting import SubmitRoutes
from penstock.jobs.job import JobSubmission
from penstock.jobs.service import JobService
from penstock.postgres.pool import Database
from penstock.quotas.admission import Quotas
from penstock.quotas.rules import Rules
from penstock.quotas.slices import Slices
from penstock.tenants.principal import DEFAULT_TENANT, OPERATOR, Principal
from penstock.web.body import Body
from penstock.web.request import Request
from penstock.web.response import Response
from tests.support.gateways import SUBMISSION


class Checked:
    """Job handlers whose check refuses inputs without a text."""

    def __init__(self, service: JobService, database: Database) -> None:
        self.service = service
        self.seen: list[str] = []
        self.handlers = SubmitRoutes(service, check=self.check, quotas=Quotas(Rules(), Slices(database)))

    def check(self, submission: JobSubmission, prefix: str, _sender: Principal) -> None:
        self.seen.append(prefix)
        if submission.task_type == "predict" and "text" not in msgspec.json.decode(submission.input):
            raise InvalidInput.of(f"{prefix}input.text", "is required")

    async def count(self) -> int:
        return len((await self.service.of(DEFAULT_TENANT).list(JobFilter())).jobs)


@pytest.fixture
async def checked(database_url: str) -> AsyncIterator[Checked]:
    """Handlers on this test's own database."""
    database = Database(database_url, application_name="penstock-test")
    service = JobService(database)
    await service.start()
    try:
        yield Checked(service, database)
    finally:
        await service.stop()
        await database.close()


def posted(value: Any) -> Request:
    """Return a request with that body, as it is after the access check."""
    request = Request(method="POST", url_path="/api/v1/jobs", headers={}, body=Body.of(msgspec.json.encode(value)))
    request.principal = OPERATOR
    return request


PREDICT = SUBMISSION | {"task_type": "predict"}
GOOD, BAD = PREDICT | {"input": {"text": "hi"}}, PREDICT | {"input": {"txt": "hi"}}


async def test_a_refused_submission_is_not_written(checked: Checked) -> None:
    with pytest.raises(InvalidInput) as caught:
        await checked.handlers.submit(posted(BAD))
    assert [problem.field for problem in caught.value.problems] == ["input.text"]
    assert await checked.count() == 0
    response = await checked.handlers.submit(posted(GOOD))
    assert isinstance(response, Response)
    assert response.status == 201
    assert checked.seen == ["", ""]


async def test_one_refused_job_of_a_batch_refuses_the_whole_batch_and_is_named(checked: Checked) -> None:
    with pytest.raises(InvalidInput) as caught:
        await checked.handlers.submit_batch(posted({"jobs": [GOOD, SUBMISSION, BAD, GOOD]}))
    assert [problem.field for problem in caught.value.problems] == ["jobs[2].input.text"]
    assert await checked.count() == 0
    merged = {"defaults": PREDICT, "jobs": [{"input": {"text": "a"}}, {"input": {"text": "b"}}]}
    assert (await checked.handlers.submit_batch(posted(merged))).status == 201
    assert await checked.count() == 2
    assert checked.seen == ["jobs[0].", "jobs[1].", "jobs[2].", "jobs[0].", "jobs[1]."]
