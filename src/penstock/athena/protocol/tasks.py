"""Non-real-time calls: a request with ``downMethod: async`` becomes a job, whose result is fetched or sent later.

Its data may be elsewhere: a data object with ``dataSrc`` names its source. A source is taken out of the message before
anything else sees it, because it may hold a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from penstock.athena.protocol import packing
from penstock.athena.protocol.data import DataObject, Scalar, text_of
from penstock.athena.protocol.engine_calls import CallInput
from penstock.athena.protocol.mistakes import Mistakes
from penstock.athena.protocol.requests import RequestMessage
from penstock.errors import InvalidInput
from penstock.models.replica.data_urls import put
from penstock.web.reading import decode

METHOD: Final = "downMethod"  # of the header
TASK_ID: Final = "task_id"  # of the header
SOURCE: Final = "dataSrc"  # of a data object

_S3_FIELDS: Final = ("access", "secret", "endpoint", "bucket", "key")
_MAX_URL: Final = 8_000  # characters
_MAX_ID: Final = 200  # characters


class TaskState(StrEnum):
    """The state of a task, as clients of the original read it."""

    CREATED = "1"
    ACTIVE = "2"
    SUCCEEDED = "3"
    FAILED = "4"


_STATES: Final = {
    "pending": TaskState.CREATED,
    "running": TaskState.ACTIVE,
    "waiting": TaskState.ACTIVE,
    "completed": TaskState.SUCCEEDED,
    "failed": TaskState.FAILED,
    "cancelled": TaskState.FAILED,
}


def state_of(job_status: str) -> TaskState:
    """Return the state of the task whose job has that status."""
    return _STATES[job_status]


def is_task(message: RequestMessage) -> bool:
    """Return whether a request is not waited for. Raises InvalidInput for a method that is not known."""
    stated = message.header.get(METHOD, "")
    if stated not in ("", "sync", "async"):
        raise InvalidInput.of(f"header.{METHOD}", "must be async, or left out")
    return stated == "async"


def task_id_of(message: RequestMessage) -> str:
    """Return the id that the client gives its task; empty where it gives none. Raises InvalidInput."""
    stated = message.text(TASK_ID)
    if len(stated) > _MAX_ID or not stated.isprintable():
        raise InvalidInput.of(f"header.{TASK_ID}", f"must be at most {_MAX_ID} printable characters")
    return stated


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSource:
    """Data that is fetched from a URL."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Source:
    """Data that is an object in a bucket. ``access`` and ``secret`` are the credentials for it."""

    access: str
    secret: str
    endpoint: str
    bucket: str
    key: str

    def __repr__(self) -> str:
        return f"S3Source(endpoint={self.endpoint!r}, bucket={self.bucket!r}, key={self.key!r})"  # no credentials


Source = HttpSource | S3Source


def taken_sources(message: RequestMessage) -> dict[str, Source]:
    """Take the sources of data out of a message and return them by the names of the objects that lack their data.

    Raises InvalidInput that names each mistake.
    """
    mistakes = Mistakes()
    found: dict[str, Source] = {}
    for name, one in message.payload.items():
        kind = one.attributes.pop(SOURCE, None)
        source: Source | None
        if kind == "http":
            source = _http(name, one, mistakes)
        elif kind == "s3":
            source = _s3(name, one, mistakes)
        else:
            if kind not in (None, "client"):
                mistakes.add(("payload", name, SOURCE), "must be http, s3 or client")
            continue
        if one.data:
            mistakes.add(("payload", name), f"must hold no data beside {SOURCE} {kind}")
        elif source is not None:
            found[name] = source
    mistakes.check()
    return found


def _http(name: str, one: DataObject, mistakes: Mistakes) -> HttpSource | None:
    url = one.attributes.pop("url", None)
    if not isinstance(url, str) or len(url) > _MAX_URL or not _is_url(url):
        mistakes.add(("payload", name, "url"), f"must be an http or https URL of at most {_MAX_URL} characters")
        return None
    return HttpSource(url=url)


def _s3(name: str, one: DataObject, mistakes: Mistakes) -> S3Source | None:
    stated = {field: one.attributes.pop(field, None) for field in _S3_FIELDS}
    texts = {field: value for field, value in stated.items() if isinstance(value, str) and 0 < len(value) <= _MAX_URL}
    for field in stated.keys() - texts.keys():
        mistakes.add(("payload", name, field), f"must be a text: dataSrc s3 needs {', '.join(_S3_FIELDS)}")
    return S3Source(**texts) if len(texts) == len(_S3_FIELDS) else None


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and text.isprintable() and " " not in text
    except ValueError:
        return False


def job_input(given: CallInput, references: Sequence[str]) -> bytes:
    """Return the input of a job: that of a call, with references to uploads (``blob:ID``) in place of its segments."""
    value: Any = msgspec.json.decode(given.json)
    for segment, reference in zip(given.segments, references, strict=True):
        value = put(value, segment.path, reference)
    return msgspec.json.encode(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The result of a task, as it is pushed to the client's queue or callback."""

    params: Mapping[str, Scalar]  # parameters of the request
    data: bytes  # the response in the loader's form (LoaderOutput)
    sid: str
    code: int = 0
    message: str = ""
    span: str = ""  # of a trace


def encode_result(result: TaskResult) -> bytes:
    """Return the result of a task as the original pushes it."""
    return msgspec.json.encode(
        {
            "reqParam": {name: text_of(value) for name, value in result.params.items()},
            "data": result.data,  # bytes are encoded as base64
            "spanMeta": result.span,
            "sid": result.sid,
            "ret": result.code,
            "errDesc": result.message,
        }
    )


class _Result(msgspec.Struct):
    reqParam: dict[str, str] | None = None  # noqa: N815 - named as in the original
    data: str | None = None
    spanMeta: str = ""  # noqa: N815
    sid: str = ""
    ret: int = 0
    errDesc: str = ""  # noqa: N815


_result_decoder: Final = msgspec.json.Decoder(_Result)


def decode_result(body: bytes) -> TaskResult:
    """Return the result of a task as its client reads it. Raises MalformedBody and InvalidInput."""
    found = decode(body, _result_decoder)
    try:
        data = packing.from_base64(found.data or "")
    except packing.Undecodable as error:
        raise InvalidInput.of("data", str(error)) from None
    return TaskResult(
        params=found.reqParam or {},
        data=data,
        sid=found.sid,
        code=found.ret,
        message=found.errDesc,
        span=found.spanMeta,
    )


def state_response(task_id: str, *, service: str, state: TaskState, params: Mapping[str, Scalar], sid: str) -> bytes:
    """Return the response to a query for the state of a task."""
    task = {
        "task_id": task_id,
        "task_type": service,
        "task_status": state.value,
        "req_param": msgspec.json.encode({name: text_of(value) for name, value in params.items()}).decode(),
    }
    return msgspec.json.encode({"code": 0, "message": "success", "sid": sid, "data": [task]})
