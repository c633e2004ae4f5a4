"""The chat executor against a real HTTP server that speaks the protocol, and one that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from aiohttp import web

from penstock.failures import CallFailed, Category
from penstock.jobs.usage import Usage
from penstock.jobs.work import ClaimedJob
from penstock.outbound.refusals import retry_after
from penstock.providers.endpoint import Endpoint
from penstock.providers.job_inputs import chat as request
from penstock.providers.profile import Mode
from penstock.workers.chat import ChatExecutor, ChatResult
from tests.support.attempts import claimed_job, job_context
from tests.support.http_servers import responding, running, serving, streaming
from tests.support.providers import KEY, open_servers, profile, spec

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
COMPLETION = {
    "model": "served-model",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def replying(status: int, body: object = None, **headers: str) -> Handler:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=content, headers=headers)

    return handler


async def run(base_url: str, claimed: ClaimedJob | None = None, **options: Any) -> ChatResult:
    provider = spec(base_url, **options)
    async with open_servers() as servers:
        return await ChatExecutor(profile(provider), servers)(claimed or claimed_job(user="Hi"), job_context())


async def failure(handler: Handler, **options: Any) -> CallFailed:
    async with running(handler) as url:
        with pytest.raises(CallFailed) as caught:
            await run(url, **options)
    return caught.value


class Seen:
    """A provider that keeps its last request."""

    def __init__(self) -> None:
        self.path = ""
        self.headers: dict[str, str] = {}
        self.body: dict[str, Any] = {}

    async def respond(self, request: web.Request) -> web.Response:
        self.path, self.headers, self.body = request.path, dict(request.headers), await request.json()
        return web.json_response(COMPLETION)


async def test_messages_are_passed_on_and_the_result_is_as_documented() -> None:
    seen = Seen()
    messages = [{"role": "system", "content": "Answer as JSON."}, {"role": "user", "content": "Classify"}]
    claimed = claimed_job(messages=messages, max_tokens=256, response_format={"type": "json_object"}, call_id=17)
    async with running(seen.respond) as url:
        result = await run(url, claimed)
    assert seen.path == "/chat/completions"
    assert seen.headers["Authorization"] == f"Bearer {KEY}"
    assert seen.headers["Idempotency-Key"] == f"{claimed.id}-3-llm"
    assert seen.body == {
        "model": "qwen",
        "messages": messages,
        "max_tokens": 256,
        "response_format": {"type": "json_object"},
    }
    assert (result.content, result.model, result.usage) == ("Hello", "served-model", COMPLETION["usage"])
    assert result.finish_reason == "stop"
    assert result.duration_ms >= 0


async def test_compact_fields_become_messages() -> None:
    seen = Seen()
    async with running(seen.respond) as url:
        await run(url, claimed_job(system="Be brief.", user="Hi", temperature=0, top_p=0.5, stop=["."], seed=4))
    assert seen.body == {
        "model": "qwen",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "temperature": 0.0,
        "top_p": 0.5,
        "stop": ["."],
        "seed": 4,
    }


@pytest.mark.parametrize("suffix", ["/v1", "/v1/", "/openai/deployments/x"])
async def test_the_base_url_is_used_unchanged(suffix: str) -> None:
    seen = Seen()
    async with running(seen.respond) as url:
        await run(url + suffix)
    assert seen.path == suffix.rstrip("/") + "/chat/completions"


async def test_without_a_key_the_urls_user_and_password_are_used() -> None:
    seen = Seen()
    async with running(seen.respond) as url:
        await run(url.replace("http://", "http://user:pass%40word@"), api_key=None)
    assert seen.headers["Authorization"] == "Basic dXNlcjpwYXNzQHdvcmQ="


PROFILE = profile(spec("http://nowhere.example"))


def read_input(fields: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any], bool]:
    """Return the request that a job's input makes."""
    return request(msgspec.json.encode(fields), PROFILE)


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
    with pytest.raises(CallFailed) as caught:
        read_input(fields)
    assert caught.value.category is Category.BAD_INPUT
    assert str(caught.value).startswith(f"{named}:")


@pytest.mark.parametrize("content", [b"[]", b'"text"', b"null", b"7"])
def test_input_that_is_not_an_object_is_bad_input(content: bytes) -> None:
    with pytest.raises(CallFailed) as caught:
        request(content, PROFILE)
    assert caught.value.category is Category.BAD_INPUT


def test_with_messages_the_callers_own_user_field_is_left_alone() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    assert read_input({"messages": messages, "user": {"id": 5}}) == (messages, {}, False)


@pytest.mark.parametrize(
    ("status", "category"),
    [
        (400, Category.BAD_INPUT),
        (413, Category.BAD_INPUT),
        (422, Category.BAD_INPUT),
        (401, Category.PROVIDER_ERROR),
        (403, Category.PROVIDER_ERROR),
        (404, Category.PROVIDER_ERROR),
        (302, Category.PROVIDER_ERROR),
        (204, Category.PROVIDER_ERROR),
        (408, Category.TIMEOUT),
        (504, Category.TIMEOUT),
        (429, Category.RATE_LIMITED),
        (500, Category.PROVIDER_ERROR),
        (503, Category.PROVIDER_ERROR),
    ],
)
async def test_provider_statuses_map_to_categories(status: int, category: Category) -> None:
    error = await failure(replying(status, {"error": {"message": "the reason"}}))
    assert error.category is category
    if status not in {204, 302}:
        assert "the reason" in error.message
    if status == 429:
        assert timedelta(0) < (error.retry_after or timedelta(0)) <= timedelta(seconds=1)
    else:
        assert error.retry_after is None


async def test_retry_after_is_kept() -> None:
    error = await failure(replying(429, **{"Retry-After": "7"}))
    assert error.retry_after == timedelta(seconds=7)


async def test_a_refused_job_waits_for_the_reset_that_the_server_states() -> None:
    """The headers allow a request per second, but the server refuses: nothing is sent before the whole reset."""
    requests = 0

    async def handler(_: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        limits = {"limit-requests": "60", "remaining-requests": "0", "reset-requests": "1m0s"}
        return web.Response(status=429, headers={f"x-ratelimit-{name}": value for name, value in limits.items()})

    async with running(handler) as url, open_servers() as servers:
        executor = ChatExecutor(profile(spec(url)), servers)
        for _ in range(2):
            with pytest.raises(CallFailed) as caught:
                await executor(claimed_job(user="Hi"), job_context())
            assert caught.value.category is Category.RATE_LIMITED
            assert timedelta(seconds=50) < (caught.value.retry_after or timedelta(0)) <= timedelta(seconds=60)
    assert requests == 1


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
async def test_a_response_that_is_not_a_completion_is_the_providers_error(body: object) -> None:
    error = await failure(replying(200, body))
    assert error.category is Category.PROVIDER_ERROR


async def test_an_endless_response_is_cut_off() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 2**20)
        except ConnectionError:
            return response

    error = await failure(endless)
    assert error.category is Category.PROVIDER_ERROR
    assert "exceeds" in error.message


async def test_a_provider_that_does_not_respond_in_time_is_a_timeout() -> None:
    async def silent(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    error = await failure(silent, timeout=timedelta(seconds=0.05))
    assert error.category is Category.TIMEOUT


async def test_a_connection_cut_in_the_middle_is_the_providers_error() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"choices"')
        assert request.transport is not None
        request.transport.abort()
        return response

    error = await failure(cut)
    assert error.category is Category.PROVIDER_ERROR


async def test_a_refused_connection_is_the_providers_error() -> None:
    async with running(replying(200)) as url:
        pass
    with pytest.raises(CallFailed) as caught:
        await run(url)
    assert caught.value.category is Category.PROVIDER_ERROR


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
async def test_secrets_appear_in_no_message_even_when_the_provider_echoes_them(status: int) -> None:
    async def echo(request: web.Request) -> web.Response:
        said = f"invalid {request.headers['Authorization']} hunter22 at {request.url}"
        return web.json_response({"error": {"message": said}}, status=status)

    async with running(echo) as url:
        with pytest.raises(CallFailed) as caught:
            await run(url.replace("http://", "http://admin:hunter22@"))
    assert KEY not in caught.value.message
    assert "hunter22" not in caught.value.message


@pytest.mark.parametrize("length", [250, 270, 285, 290, 295, 3980, 4085])
async def test_no_part_of_a_secret_survives_where_an_error_is_cut(length: int) -> None:
    for space in ("x", " "):
        error = await failure(replying(500, {"error": {"message": space * length + KEY + " and more " * 50}}))
        assert KEY[:6] not in error.message


async def test_an_echo_of_credentials_in_a_response_is_masked() -> None:
    echoing = COMPLETION | {
        "model": f"served for {KEY}",
        "choices": [{"message": {"role": "assistant", "content": f"your key is {KEY}"}}],
    }
    async with running(replying(200, echoing)) as url:
        result = await run(url)
    assert KEY not in repr(result)
    parts = [{"choices": [{"delta": {"content": f"your key is {KEY}"}}], "model": KEY}]
    events = [b"data: " + msgspec.json.encode(part) + b"\n\n" for part in parts] + [b"data: [DONE]\n\n"]
    context = job_context()
    async with serving(streaming(events)) as seen, open_servers() as servers:
        chat = spec(seen.address)
        result = await ChatExecutor(profile(chat), servers)(claimed_job(user="Hi", stream=True), context)
    assert KEY not in repr(result)
    assert KEY.encode() not in b"".join(bytes(chunk) for chunk in context.outbox.parcel().chunks)


async def test_a_key_that_json_escapes_is_masked_there_too() -> None:
    key = 'sk-="quoted"\\42'

    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"error": dict(request.headers)}, status=500)

    async with running(echo) as url:
        with pytest.raises(CallFailed) as caught:
            await run(url, api_key=key)
    assert "quoted" not in caught.value.message


async def test_nul_characters_are_left_out_of_replies() -> None:
    """PostgreSQL stores JSON with U+0000 but cannot extract values from it."""
    odd = said("a\0b\\u0000c") | {"model": "m\0", "usage": {"prompt_tokens": 1, "x\0": ["\0"]}}
    async with running(replying(200, odd)) as url:
        result = await run(url)
    assert (result.content, result.model, result.usage) == ("ab\\u0000c", "m", {"prompt_tokens": 1, "x": [""]})
    async with serving(streaming(stream("a\0", "b"))) as seen, open_servers() as servers:
        chat = spec(seen.address)
        result = await ChatExecutor(profile(chat), servers)(claimed_job(user="Hi", stream=True), job_context())
    assert result.content == "ab"


async def test_credentials_in_other_spellings_are_masked_and_words_are_not() -> None:
    """This holds for replies, their usage, and errors."""

    async def echo(request: web.Request) -> web.Response:
        words = (await request.json())["messages"][0]["content"]
        key = request.headers["Authorization"].removeprefix("Bearer ")
        slashed = key.replace("/", "\\/").replace("c", "\\u0063")
        body = (
            f'{{"choices": [{{"message": {{"content": "{words} {slashed}"}}}}], "usage": {{"{slashed}": "{slashed}"}}}}'
        )
        return web.Response(text=body, content_type="application/json")

    async with running(echo) as url:
        result = await run(url, api_key="canary-KEY/abc+def==")
        assert (result.content, result.usage) == ("Hi ******", {"******": "******"})
        result = await run(url, api_key="anything")
        assert result.content == "Hi anything"

    async def slashed(request: web.Request) -> web.Response:
        key = request.headers["Authorization"].replace("/", "\\/")
        return web.Response(text=f'{{"reason": "{key} is wrong"}}', content_type="application/json", status=500)

    async with running(slashed) as url:
        with pytest.raises(CallFailed) as caught:
            await run(url, api_key="canary-KEY/abc+def==")
    assert "Bearer ****** is wrong" in caught.value.message


async def test_a_streamed_reply_leaks_no_credential_in_pieces() -> None:
    key = "canary-KEY/abc+def=="
    events = [*stream("the key is ", "canary-KE", "Y/abc+d", "ef== indeed"), *stream()[-1:]]
    events[4] = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "x": "canary-KEY/abc+def=="}}\n\n'
    context = job_context()
    async with serving(streaming(events)) as seen, open_servers() as servers:
        chat = spec(seen.address, api_key=key)
        result = await ChatExecutor(profile(chat), servers)(claimed_job(user="Hi", stream=True), context)
    assert result.content == "the key is ****** indeed"
    assert result.usage == {"prompt_tokens": 3, "x": "******"}
    deltas = [msgspec.json.decode(chunk)["delta"] for chunk in context.outbox.parcel().chunks]
    assert "".join(deltas) == result.content


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_events_may_come_in_any_pieces_with_any_line_ends(size: int, end: str) -> None:
    whole = b"\xef\xbb\xbf" + b"".join(stream("Hel", "lo")).replace(b"\n", end.encode())
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    async with serving(streaming(pieces)) as seen, open_servers() as servers:
        result = await ChatExecutor(profile(spec(seen.address)), servers)(
            claimed_job(user="Hi", stream=True), job_context()
        )
    assert result.content == "Hello"


async def test_an_error_loses_its_nul_characters() -> None:
    async with running(replying(500, {"error": {"message": "a\0b"}})) as url:
        with pytest.raises(CallFailed, match="500: ab"):
            await run(url)


async def test_a_response_that_cannot_be_cleaned_is_the_providers_error() -> None:
    async def deep(_: web.Request) -> web.Response:
        body = '{"choices": [{"message": {"content": "\\u0000"}}], "x": ' + "[" * 5000 + "]" * 5000 + "}"
        return web.Response(text=body, content_type="application/json")

    async with running(deep) as url:
        with pytest.raises(CallFailed, match="is not JSON that can be read"):
            await run(url)


async def test_a_reply_is_not_lost_because_the_attempts_repeat_it() -> None:
    async with running(replying(200, said("x" * 5000))) as url, open_servers() as servers:
        chat = spec(url)
        result = await ChatExecutor(profile(chat), servers, max_result_bytes=8000)(
            claimed_job(user="Hi"), job_context()
        )
    assert (len(result.content), result.attempts[0].text) == (5000, None)


async def test_a_refusal_whose_body_does_not_arrive_is_still_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.outbound.peer._ERROR_BODY_SECONDS", 0.05)

    async def dripping(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=429, headers={"Retry-After": "7"})
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    error = await failure(dripping)
    assert (error.category, error.retry_after) == (Category.RATE_LIMITED, timedelta(seconds=7))


@pytest.mark.parametrize("tokens", [True, -1, "3", 10**30, None, [3]])
async def test_an_implausible_count_of_tokens_is_recorded_as_zero(tokens: object) -> None:
    context = job_context()
    async with (
        running(replying(200, COMPLETION | {"usage": {"prompt_tokens": tokens}})) as url,
        open_servers() as servers,
    ):
        chat = spec(url)
        await ChatExecutor(profile(chat), servers)(claimed_job(user="Hi"), context)
    assert [type(one.prompt_tokens) for one in context.usage] == [int]
    assert context.usage[0].prompt_tokens == 0


def test_usage_that_cannot_be_stored_is_refused_at_once() -> None:
    for wrong in (Usage(duration_ms=-1), Usage(provider="p", prompt_tokens=-1), Usage(provider="a\x00")):
        with pytest.raises(ValueError):  # noqa: PT011
            job_context().used(wrong)


async def test_a_delta_of_any_length_reaches_the_output() -> None:
    context = job_context()
    async with serving(streaming(stream("x" * 2_000_000))) as seen, open_servers() as servers:
        chat = spec(seen.address)
        result = await ChatExecutor(profile(chat), servers)(claimed_job(user="Hi", stream=True), context)
    assert len(result.content) == 2_000_000


def test_an_endpoint_does_not_print_its_secrets() -> None:
    endpoint = Endpoint(base_url="http://user:hunter22@x", api_key=KEY)
    assert KEY not in repr(endpoint)
    assert "hunter22" not in repr(endpoint)
    assert {KEY, "user:hunter22", "hunter22"} <= endpoint.secrets


# Streaming


async def test_a_streamed_reply_is_the_jobs_output_while_it_comes() -> None:
    context = job_context()
    async with serving(streaming(stream("Hel", "lo"))) as seen:
        provider = spec(seen.address)
        async with open_servers() as servers:
            result = await ChatExecutor(profile(provider), servers)(claimed_job(user="Hi", stream=True), context)
    assert (result.content, result.model, result.usage) == ("Hello", "served-model", COMPLETION["usage"])
    assert seen.json["stream"] is True
    parcel = context.outbox.parcel()
    assert [msgspec.json.decode(chunk) for chunk in parcel.chunks] == [{"delta": "Hel"}, {"delta": "lo"}]


@pytest.mark.parametrize("cut", [True, False])
async def test_a_stream_that_ends_early_fails_without_fallback(cut: bool) -> None:
    """Otherwise the output so far would precede another provider's reply."""
    async with serving(streaming(stream("Hel", "lo")[:1], cut=cut)) as broken, serving(responding(COMPLETION)) as other:
        specs = [spec(broken.address, name="broken"), spec(other.address, name="other")]
        async with open_servers() as servers:
            with pytest.raises(CallFailed) as caught:
                await ChatExecutor(profile(*specs), servers)(claimed_job(user="Hi", stream=True), job_context())
    assert caught.value.category is Category.PROVIDER_ERROR
    assert other.bodies == []


async def test_a_stream_that_never_began_falls_back() -> None:
    async with serving(responding({"error": "no"}, 500)) as broken, serving(streaming(stream("Hi"))) as other:
        specs = [spec(broken.address, name="broken"), spec(other.address, name="other")]
        async with open_servers() as servers:
            result = await ChatExecutor(profile(*specs), servers)(claimed_job(user="Hi", stream=True), job_context())
    assert (result.content, result.provider) == ("Hi", "other")


# Several providers


async def test_the_next_provider_replaces_one_that_fails_and_both_attempts_are_kept() -> None:
    context = job_context()
    async with serving(responding({"error": "out of memory"}, 500)) as broken, serving(responding(COMPLETION)) as other:
        specs = [spec(broken.address, name="broken", model="big"), spec(other.address, name="other")]
        async with open_servers() as servers:
            result = await ChatExecutor(profile(*specs), servers)(claimed_job(user="Hi"), context)
    assert (result.content, result.provider) == ("Hello", "other")
    first, second = result.attempts
    assert (first.provider, first.model, first.status, first.text) == ("broken", "big", "failed", None)
    assert first.error is not None
    assert "out of memory" in first.error
    assert (second.provider, second.model, second.status, second.text) == (
        "other",
        "served-model",
        "completed",
        "Hello",
    )
    assert (second.usage.prompt_tokens, second.usage.completion_tokens) == (3, 1)
    assert [(one.provider, one.status, one.prompt_tokens) for one in context.usage] == [
        ("broken", "failed", 0),
        ("other", "completed", 3),
    ]


async def test_all_replies_are_compared() -> None:
    first, second = said("one two three four"), said("One, two; three five.")
    async with serving(responding(first)) as left, serving(responding(second)) as right:
        specs = [spec(left.address, name="left"), spec(right.address, name="right")]
        async with open_servers() as servers:
            result = await ChatExecutor(profile(*specs, mode=Mode.ALL), servers)(claimed_job(user="Hi"), job_context())
    assert result.content == "one two three four"
    (agreement,) = result.agreement
    assert (agreement.reference, agreement.hypothesis, agreement.wer, agreement.words) == ("left", "right", 0.25, 4)


async def test_images_pass_through_and_the_jobs_input_overrides_a_profiles_defaults() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
    ]
    seen = Seen()
    async with running(seen.respond) as url:
        vision = spec(url, defaults={"presence_penalty": 1})
        seeing = profile(vision, max_tokens=300, temperature=0.5, chat_template_kwargs={"x": 1})
        async with open_servers() as servers:
            claimed = claimed_job(messages=[{"role": "user", "content": parts}], temperature=0)
            await ChatExecutor(seeing, servers)(claimed, job_context())
    assert seen.body == {
        "model": "qwen",
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": 300,
        "temperature": 0.0,
        "presence_penalty": 1,
        "chat_template_kwargs": {"x": 1},
    }


def said(content: str) -> dict[str, Any]:
    """Return a completion with this content."""
    return COMPLETION | {"choices": [{"message": {"role": "assistant", "content": content}}]}


def stream(*deltas: str) -> list[bytes]:
    """Return the events of a streamed completion."""
    parts: list[dict[str, Any]] = [
        {"model": "served-model", "choices": [{"index": 0, "delta": {"content": delta}}]} for delta in deltas
    ]
    parts.append({"choices": [], "usage": COMPLETION["usage"]})
    return [b"data: " + msgspec.json.encode(part) + b"\n\n" for part in parts] + [b"data: [DONE]\n\n"]
