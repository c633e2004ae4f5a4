"""Non-real-time calls: what makes a task, where its data comes from, and how its result is written."""

from __future__ import annotations

import contextlib
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.athena.protocol.addressing import for_service
from penstock.athena.protocol.data import DataType
from penstock.athena.protocol.engine_calls import engine_input
from penstock.athena.protocol.requests import RequestMessage, decode_request
from penstock.athena.protocol.tasks import (
    HttpSource,
    S3Source,
    TaskResult,
    TaskState,
    decode_result,
    encode_result,
    is_task,
    job_input,
    state_of,
    state_response,
    taken_sources,
    task_id_of,
)
from penstock.errors import CallerError, InvalidInput
from penstock.jobs.states import Status as JobStatus
from tests.athena.strategies import NAMES, scalars

_S3 = {"dataSrc": "s3", "access": "AK", "secret": "SK", "endpoint": "http://s3", "bucket": "b", "key": "k"}


def _message(**objects: object) -> RequestMessage:
    return decode_request(msgspec.json.encode({"payload": objects}), types={"a": DataType.AUDIO})


def test_a_request_says_whether_it_is_waited_for() -> None:
    """By its header, with an id of the client's own."""
    assert not is_task(RequestMessage())
    message = RequestMessage(header={"downMethod": "async", "task_id": 7})
    assert is_task(message)
    assert task_id_of(message) == "7"
    with pytest.raises(InvalidInput, match=r"header\.downMethod"):
        is_task(RequestMessage(header={"downMethod": "later"}))
    for wrong in ("x" * 201, "a\n"):
        with pytest.raises(InvalidInput, match=r"header\.task_id"):
            task_id_of(RequestMessage(header={"task_id": wrong}))


def test_sources_are_taken_out_of_the_message() -> None:
    """So that no engine, job or log sees their credentials."""
    message = _message(
        a={"dataSrc": "http", "url": "https://host/x.wav", "encoding": "wav"},
        b=_S3,
        c={"dataSrc": "client", "text": "eA=="},
        d={"text": "eA=="},
    )
    assert message.payload["a"].type is DataType.AUDIO
    found = taken_sources(message)
    assert found == {
        "a": HttpSource(url="https://host/x.wav"),
        "b": S3Source(access="AK", secret="SK", endpoint="http://s3", bucket="b", key="k"),
    }
    assert "SK" not in repr(found)
    assert [one.attributes for one in message.payload.values()] == [{"encoding": "wav"}, {}, {}, {}]


@pytest.mark.parametrize(
    ("stated", "field"),
    [
        ({"dataSrc": "ftp", "text": ""}, "payload.a.dataSrc"),
        ({"dataSrc": "http"}, "payload.a.url"),
        ({"dataSrc": "http", "url": "file:///etc/passwd"}, "payload.a.url"),
        ({"dataSrc": "http", "url": "http://[x"}, "payload.a.url"),
        ({"dataSrc": "http", "url": "http://h/\n"}, "payload.a.url"),
        ({"dataSrc": "http", "url": "http://h", "text": "eA=="}, "payload.a"),
        ({**_S3, "key": ""}, "payload.a.key"),
        ({**_S3, "secret": 5}, "payload.a.secret"),
    ],
)
def test_a_source_that_cannot_be_used_is_named(stated: dict[str, object], field: str) -> None:
    """Before anything is fetched."""
    with pytest.raises(InvalidInput) as raised:
        taken_sources(_message(a=stated))
    assert [one.field for one in raised.value.problems] == [field]


def test_the_input_of_a_job_refers_to_uploads() -> None:
    """In the places of media."""
    message = _message(img={"image": "eA=="}, t={"text": "eA=="})
    given_to = engine_input(for_service(message, "ocr"))
    value = msgspec.json.decode(job_input(given_to, ["blob:1"]))
    assert value["payload"]["img"]["image"] == "blob:1"
    assert value["payload"]["t"]["text"] == "x"


@pytest.mark.parametrize("status", JobStatus)
def test_every_status_of_a_job_is_a_state(status: JobStatus) -> None:
    """Cancelled tasks have failed."""
    assert (state_of(status) in {TaskState.SUCCEEDED, TaskState.FAILED}) == status.finished


def test_the_state_of_a_task_is_written_as_the_original_reads_it() -> None:
    """From its service for states."""
    body = state_response("t", service="ocr", state=TaskState.ACTIVE, params={"rate": 16000}, sid="s")
    assert msgspec.json.decode(body) == {
        "code": 0,
        "message": "success",
        "sid": "s",
        "data": [{"task_id": "t", "task_type": "ocr", "task_status": "2", "req_param": '{"rate":"16000"}'}],
    }


results = st.builds(
    TaskResult,
    params=st.dictionaries(NAMES, st.text(st.characters(codec="utf-8"))),
    data=st.binary(),
    sid=NAMES,
    code=st.integers(-(2**31), 2**31),
    message=NAMES,
    span=NAMES,
)


@given(results)
def test_clients_read_the_result_that_is_pushed(result: TaskResult) -> None:
    """It is the original's JSON."""
    body = encode_result(result)
    assert list(msgspec.json.decode(body)) == ["reqParam", "data", "spanMeta", "sid", "ret", "errDesc"]
    assert decode_result(body) == result


@given(st.binary() | st.dictionaries(NAMES, scalars).map(msgspec.json.encode))
def test_any_bytes_are_a_result_or_refused(body: bytes) -> None:
    """Without an error of its own."""
    with contextlib.suppress(CallerError):
        decode_result(body)


@given(
    st.dictionaries(
        NAMES,
        st.dictionaries(
            st.sampled_from(["dataSrc", "url", "text", "status", *_S3]),
            st.sampled_from(["http", "s3", "client", "x", "", "http://h", 5, True]),
        ),
    )
)
def test_any_sources_are_taken_or_refused(objects: dict[str, object]) -> None:
    """Whatever the attributes hold."""
    with contextlib.suppress(InvalidInput):
        found = taken_sources(_message(**objects))
        assert all(isinstance(one, get_args(HttpSource | S3Source)) for one in found.values())
