"""The chat executor against a real HTTP server that speaks the protocol, and one that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from aiohttp import web
from msgspec import Raw

from penstock.jobs.job import ClaimedJob
from penstock.jobs.states import ErrorCategory
from penstock.models.provider import retry_after
from penstock.workers.executors import ExecutionError, JobContext
from penstock.workers.llm import ChatEndpoint, ChatExecutor, ChatResult, request_body

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEY = "sk-very-secret-key"
ANSWER = {
    "model": "served-model",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def provider(handler: Handler) -> AsyncIterator[str]:
    """A provider with one handler for every path; yields its address."""
    application = web.Application(client_max_size=2**24)
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def executor(base_url: str, **options: Any) -> AsyncIterator[ChatExecutor]:
    chat = ChatExecutor(ChatEndpoint(**({"base_url": base_url, "model": "qwen", "api_key": KEY} | options)))
    try:
        yield chat
    finally:
        await chat.close()


def job(**fields: object) -> ClaimedJob:
    return ClaimedJob(
        id=UUID(int=7),
        epoch=3,
        owner_service="tests",
        owner_ref="",
        task_type="llm_chat",
        model_profile="qwen",
        priority=0,
        attempt=1,
        max_attempts=3,
        timeout_seconds=None,
        lease_expires_at=_NOW,
        created_at=_NOW,
        tags=[],
        input=Raw(msgspec.json.encode(fields)),
    )


def answering(status: int, body: object = None, **headers: str) -> Handler:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=content, headers=headers)

    return handler


async def run(base_url: str, claimed: ClaimedJob | None = None, **options: Any) -> ChatResult:
    async with executor(base_url, **options) as chat:
        return await chat(claimed or job(user="Hi"), JobContext(lambda: None))


async def failure(handler: Handler, **options: Any) -> ExecutionError:
    async with provider(handler) as url:
        with pytest.raises(ExecutionError) as caught:
            await run(url, **options)
    return caught.value


class Seen:
    """A provider that remembers what it was asked."""

    def __init__(self) -> None:
        self.path = ""
        self.headers: dict[str, str] = {}
        self.body: dict[str, Any] = {}

    async def answer(self, request: web.Request) -> web.Response:
        self.path, self.headers, self.body = request.path, dict(request.headers), await request.json()
        return web.json_response(ANSWER)


async def test_messages_are_passed_on_and_the_answer_is_the_documented_result() -> None:
    seen = Seen()
    messages = [{"role": "system", "content": "Answer as JSON."}, {"role": "user", "content": "Classify"}]
    claimed = job(messages=messages, max_tokens=256, response_format={"type": "json_object"}, call_id=17)
    async with provider(seen.answer) as url:
        result = await run(url, claimed)
    assert seen.path == "/chat/completions"
    assert seen.headers["Authorization"] == f"Bearer {KEY}"
    assert seen.headers["Idempotency-Key"] == f"{claimed.id}-3"
    assert seen.body == {
        "model": "qwen",
        "messages": messages,
        "max_tokens": 256,
        "response_format": {"type": "json_object"},
    }
    assert (result.content, result.model, result.usage) == ("Hello", "served-model", ANSWER["usage"])
    assert result.duration_ms >= 0


async def test_compact_fields_become_messages() -> None:
    seen = Seen()
    async with provider(seen.answer) as url:
        await run(url, job(system="Be brief.", user="Hi", temperature=0, top_p=0.5, stop=["."], seed=4))
    assert seen.body == {
        "model": "qwen",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "temperature": 0.0,
        "top_p": 0.5,
        "stop": ["."],
        "seed": 4,
    }


@pytest.mark.parametrize("suffix", ["/v1", "/v1/", "/openai/deployments/x"])
async def test_the_base_url_is_taken_as_it_stands(suffix: str) -> None:
    seen = Seen()
    async with provider(seen.answer) as url:
        await run(url + suffix)
    assert seen.path == suffix.rstrip("/") + "/chat/completions"


async def test_without_a_key_the_urls_user_and_password_are_used() -> None:
    seen = Seen()
    async with provider(seen.answer) as url:
        await run(url.replace("http://", "http://user:pass%40word@"), api_key=None)
    assert seen.headers["Authorization"] == "Basic dXNlcjpwYXNzQHdvcmQ="


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "input.user"),
        ({"system": "only"}, "input.user"),
        ({"user": 5}, "input.user"),
        ({"user": "x", "system": []}, "input.system"),
        ({"messages": []}, "input.messages"),
        ({"messages": "x"}, "input.messages"),
        ({"messages": [{"content": "x"}]}, "input.messages[0].role"),
        ({"messages": [{"role": "user"}]}, "input.messages[0].content"),
        ({"user": "x", "max_tokens": 0}, "input.max_tokens"),
        ({"user": "x", "max_tokens": "many"}, "input.max_tokens"),
        ({"user": "x", "response_format": "json"}, "input.response_format"),
        ({"user": "x", "stop": 1}, "input.stop"),
    ],
)
def test_bad_input_names_the_field(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ExecutionError) as caught:
        request_body(msgspec.json.encode(fields), "qwen")
    assert caught.value.category is ErrorCategory.BAD_INPUT
    assert caught.value.message.startswith(f"{named}:")


@pytest.mark.parametrize("content", [b"[]", b'"text"', b"null", b"7"])
def test_input_that_is_no_object_is_bad_input(content: bytes) -> None:
    with pytest.raises(ExecutionError) as caught:
        request_body(content, "qwen")
    assert caught.value.category is ErrorCategory.BAD_INPUT


def test_with_messages_the_callers_own_user_field_is_left_alone() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    body = msgspec.json.decode(request_body(msgspec.json.encode({"messages": messages, "user": {"id": 5}}), "qwen"))
    assert body == {"model": "qwen", "messages": messages}


@pytest.mark.parametrize(
    ("status", "category"),
    [
        (400, ErrorCategory.BAD_INPUT),
        (413, ErrorCategory.BAD_INPUT),
        (422, ErrorCategory.BAD_INPUT),
        (401, ErrorCategory.PROVIDER_ERROR),
        (403, ErrorCategory.PROVIDER_ERROR),
        (404, ErrorCategory.PROVIDER_ERROR),
        (302, ErrorCategory.PROVIDER_ERROR),
        (204, ErrorCategory.PROVIDER_ERROR),
        (408, ErrorCategory.TIMEOUT),
        (504, ErrorCategory.TIMEOUT),
        (429, ErrorCategory.RATE_LIMITED),
        (500, ErrorCategory.PROVIDER_ERROR),
        (503, ErrorCategory.PROVIDER_ERROR),
    ],
)
async def test_provider_statuses_map_to_categories(status: int, category: ErrorCategory) -> None:
    error = await failure(answering(status, {"error": {"message": "the reason"}}))
    assert error.category is category
    if status not in {204, 302}:
        assert "the reason" in error.message
    assert error.retry_after is None


async def test_retry_after_is_kept() -> None:
    error = await failure(answering(429, **{"Retry-After": "7"}))
    assert error.retry_after == timedelta(seconds=7)


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        (None, None),
        ("12", timedelta(seconds=12)),
        ("0.5", timedelta(seconds=0.5)),
        ("Thu, 01 Jan 2026 00:01:00 GMT", timedelta(minutes=1)),
        ("Wed, 31 Dec 2025 00:00:00 GMT", timedelta(0)),
        ("Thu, 01 Jan 2099 00:00:00 GMT", timedelta(days=7)),
        ("soon", None),
        ("-1", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, wait: timedelta | None) -> None:
    assert retry_after(header, now=_NOW) == wait


@pytest.mark.parametrize(
    "body",
    [
        b"<html>busy</html>",
        b"",
        b"\xff\xfe",
        b"[" * 200_000,
        {},
        {"choices": []},
        {"choices": [{"message": {}}]},
        {"choices": [{"message": {"content": None}}]},
        {"choices": [{}]},
        {"choices": "none"},
    ],
)
async def test_an_answer_that_is_no_completion_is_the_providers_error(body: object) -> None:
    error = await failure(answering(200, body))
    assert error.category is ErrorCategory.PROVIDER_ERROR


async def test_an_answer_without_end_is_cut_off() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 2**20)
        except ConnectionError:
            return response

    error = await failure(endless)
    assert error.category is ErrorCategory.PROVIDER_ERROR
    assert "exceeds" in error.message


async def test_a_provider_that_does_not_answer_in_time_is_a_timeout() -> None:
    async def silent(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    error = await failure(silent, timeout=timedelta(seconds=0.05))
    assert error.category is ErrorCategory.TIMEOUT


async def test_a_connection_cut_in_the_middle_is_the_providers_error() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"choices"')
        assert request.transport is not None
        request.transport.abort()
        return response

    error = await failure(cut)
    assert error.category is ErrorCategory.PROVIDER_ERROR


async def test_a_refused_connection_is_the_providers_error() -> None:
    async with provider(answering(200)) as url:
        pass
    with pytest.raises(ExecutionError) as caught:
        await run(url)
    assert caught.value.category is ErrorCategory.PROVIDER_ERROR


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
async def test_secrets_appear_in_no_message_even_when_the_provider_echoes_them(status: int) -> None:
    async def echo(request: web.Request) -> web.Response:
        said = f"invalid {request.headers['Authorization']} hunter22 at {request.url}"
        return web.json_response({"error": {"message": said}}, status=status)

    async with provider(echo) as url:
        with pytest.raises(ExecutionError) as caught:
            await run(url.replace("http://", "http://admin:hunter22@"))
    assert KEY not in caught.value.message
    assert "hunter22" not in caught.value.message


def test_the_endpoint_does_not_print_its_key() -> None:
    assert KEY not in repr(ChatEndpoint(base_url="http://x", model="m", api_key=KEY))
