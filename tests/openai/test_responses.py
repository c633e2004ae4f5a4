"""Responses and streams of OpenAI's protocol, valid and malformed."""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.failures import CallFailed
from penstock.openai.chat import completion
from penstock.openai.embeddings import embeddings
from penstock.openai.errors import message_of
from penstock.openai.listing import model_names
from penstock.openai.streams import ChatStream
from penstock.openai.transcriptions import form_fields, transcription

DEEP = b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


def whole(message: Any, **more: Any) -> bytes:
    return msgspec.json.encode({"choices": [{"message": message}]} | more)


def chunk(**delta: Any) -> bytes:
    return msgspec.json.encode({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


def stream() -> ChatStream:
    return ChatStream(lambda text: text[:20])


# Whole completions


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "Hello"}, "Hello"),
        ({"content": ""}, ""),
        ({"content": [{"type": "text", "text": "Hel"}, {"type": "image"}, {"type": "text", "text": "lo"}]}, "Hello"),
        ({"content": None, "refusal": "I will not."}, "I will not."),
        ({"content": None, "tool_calls": [{"id": "call_1"}]}, None),
    ],
)
def test_a_message_has_a_text_a_refusal_or_tool_calls(message: dict[str, Any], text: str | None) -> None:
    assert completion(whole(message)).choices[0].message.text == text


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "is not JSON"),
        (b"<html>", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (DEEP, "is not (JSON|a chat completion)"),
        (b"null", "is not a chat completion"),
        (b"[]", "is not a chat completion"),
        (b"{}", "is not a chat completion: Object missing required field `choices`"),
        (b'{"choices": []}', "has no choices"),
        (b'{"choices": [{}]}', "missing required field `message`"),
        (b'{"choices": [{"message": {"content": 5}}]}', "is not a chat completion"),
        (b'{"choices": [{"message": {"content": null}}]}', "has no content"),
        (b'{"choices": [{"message": {"content": null, "tool_calls": []}}]}', "has no content"),
        (b'{"choices": [{"message": {"content": "x"}}], "usage": [1]}', "is not a chat completion"),
    ],
)
def test_a_response_that_is_not_a_completion_is_the_providers_fault(body: bytes, error: str) -> None:
    with pytest.raises(CallFailed, match=error) as caught:
        completion(body)
    assert caught.value.category == "provider_error"


@pytest.mark.parametrize("read", [completion, transcription, lambda body: embeddings(body, 1), model_names])
@given(value=JSON)
def test_no_json_raises_anything_but_call_failed(read: Callable[[bytes], object], value: Any) -> None:
    for body in (msgspec.json.encode(value), whole(value), msgspec.json.encode({"data": value, "text": value})):
        with suppress(CallFailed):
            read(body)


# Streams


def test_a_stream_is_put_together() -> None:
    chat = stream()
    assert chat.feed(chunk(role="assistant")) is None
    assert chat.feed(chunk(content="Hel")) == "Hel"
    assert chat.feed(chunk(content="lo")) == "lo"
    assert chat.feed(b'{"model": "m", "choices": [{"delta": {}, "finish_reason": "stop"}]}') is None
    assert chat.feed(b'{"choices": [], "usage": {"prompt_tokens": 3}}') is None
    assert chat.feed(b" [DONE] ") is None
    chat.end()
    assert (chat.content, chat.model, chat.finish_reason, chat.usage) == ("Hello", "m", "stop", {"prompt_tokens": 3})


def test_tool_calls_arrive_in_pieces_by_their_index() -> None:
    chat = stream()
    chat.feed(chunk(tool_calls=[{"index": 1, "id": "b", "function": {"name": "second", "arguments": ""}}]))
    chat.feed(chunk(tool_calls=[{"index": 0, "id": "a", "function": {"name": "first", "arguments": '{"x"'}}]))
    chat.feed(chunk(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}, {"index": 1, "function": {}}]))
    assert chat.tool_calls == [
        {"id": "a", "type": "function", "function": {"name": "first", "arguments": '{"x": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "second", "arguments": ""}},
    ]


@pytest.mark.parametrize("index", [-1, 128, 10**9])
def test_tool_calls_are_bounded_in_number(index: int) -> None:
    with pytest.raises(CallFailed, match="numbers a tool call"):
        stream().feed(chunk(tool_calls=[{"index": index}]))


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{", b'{"choices": 1}', b'{"choices": [null]}', b"\xff", DEEP])
def test_a_chunk_that_cannot_be_read_is_the_providers_fault(data: bytes) -> None:
    with pytest.raises(CallFailed, match="cannot be read") as caught:
        stream().feed(data)
    assert caught.value.category == "provider_error"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"message": "overloaded", "type": "server_error", "param": None, "code": None}, "overloaded"),
        ("out of memory", "out of memory"),
        ({"code": 500}, '{"code":500}'),
        ({"message": "x" * 100}, "x" * 20),
    ],
)
def test_an_error_inside_a_stream_ends_it_with_an_excerpt_of_its_message(error: object, message: str) -> None:
    chat = stream()
    chat.feed(chunk(content="Hel"))
    with pytest.raises(CallFailed) as caught:
        chat.feed(msgspec.json.encode({"error": error}))
    assert caught.value.message == f"the provider failed: {message}"


@pytest.mark.parametrize(("ending", "whole"), [(None, False), ("[DONE]", True), ("finish_reason", True)])
def test_a_stream_ends_by_done_or_by_a_reason(ending: str | None, whole: bool) -> None:
    chat = stream()
    chat.feed(chunk(content="Hel"))
    if ending == "[DONE]":
        chat.feed(b"[DONE]")
    elif ending is not None:
        chat.feed(b'{"choices": [{"delta": {}, "finish_reason": "stop"}]}')
    if whole:
        chat.end()
    else:
        with pytest.raises(CallFailed, match="ended before"):
            chat.end()


@given(value=JSON)
def test_no_chunk_raises_anything_but_call_failed(value: Any) -> None:
    for data in (value, {"choices": value}, {"choices": [{"delta": value}]}, {"choices": [{"delta": {"x": value}}]}):
        chat = stream()
        with suppress(CallFailed):
            chat.feed(msgspec.json.encode(data))


# Embeddings, transcriptions, models, errors


def test_embeddings_are_lists_or_base64_and_come_in_the_order_of_their_inputs() -> None:
    packed = b64encode(struct.pack("<2f", 0.5, -2.0)).decode()
    body = {"data": [{"index": 1, "embedding": [3, 4.5]}, {"index": 0, "embedding": packed}], "model": "e"}
    found = embeddings(msgspec.json.encode(body), 2)
    assert (found.vectors(), found.model) == ([[0.5, -2.0], [3.0, 4.5]], "e")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ([], "returned 0 embeddings for 1 inputs"),
        ([{"index": 0, "embedding": []}, {"index": 1, "embedding": []}], "returned 2 embeddings for 1 inputs"),
        ([{"index": 7, "embedding": [1.0]}], "returned 1 embeddings for 1 inputs"),
        ([{"index": 0, "embedding": "!"}], "is not base64 of float32"),
        ([{"index": 0, "embedding": "AAA="}], "is not base64 of float32"),
        ([{"index": 0, "embedding": {"a": 1}}], "is not a list of embeddings"),
    ],
)
def test_embeddings_that_cannot_be_used_are_refused(data: object, error: str) -> None:
    with pytest.raises(CallFailed, match=error):
        embeddings(msgspec.json.encode({"data": data}), 1).vectors()


def test_a_transcription_may_have_a_text_only() -> None:
    assert transcription(b'{"text": "Hi", "extra": 1}').text == "Hi"
    with pytest.raises(CallFailed, match="not a transcription: Object missing required field `text`"):
        transcription(b'{"segments": []}')


def test_options_are_written_as_fields_of_a_form() -> None:
    options = {"model": "m", "temperature": 0.5, "diarize": True, "prompt": None}
    assert dict(form_fields(options)) == {"model": "m", "temperature": "0.5", "diarize": "true"}


def test_models_are_listed_up_to_a_hundred() -> None:
    listed = {"data": [{"id": f"m{number}", "object": "model"} for number in range(200)]}
    assert model_names(msgspec.json.encode(listed)) == [f"m{number}" for number in range(100)]
    assert model_names(b"<html>") == model_names(DEEP) == []


def test_an_errors_message_is_found_in_each_form() -> None:
    assert [message_of(one) for one in ({"message": "no"}, "no", ["no"], None)] == ["no", "no", '["no"]', "null"]
