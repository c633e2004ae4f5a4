"""The built-in executor for chat jobs, against any OpenAI-compatible ``/chat/completions``."""

from __future__ import annotations

import time
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec
from msgspec import Meta, Struct

from penstock.jobs.job import ClaimedJob
from penstock.jobs.states import ErrorCategory
from penstock.models.chat import completion, messages_of
from penstock.models.provider import Provider
from penstock.models.runtimes.base import CallFailed
from penstock.workers.executors import ExecutionError, JobContext

TASK_TYPES: Final = ("llm_chat", "chat_completion", "call_analysis")

_LARGEST_ANSWER = 16 * 2**20  # bytes of a provider's answer
_CATEGORIES: Final = {
    "bad_input": ErrorCategory.BAD_INPUT,
    "rate_limited": ErrorCategory.RATE_LIMITED,
    "timeout": ErrorCategory.TIMEOUT,
}


class ChatInput(Struct, frozen=True, kw_only=True):
    """What the executor reads of a job's ``input``; every other field is the caller's own and is ignored."""

    messages: list[dict[str, Any]] | None = None
    system: Any = None  # read only without messages
    user: Any = None  # read only without messages
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    response_format: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None


_PASSED_ON: Final = ("max_tokens", "response_format", "temperature", "top_p", "stop", "seed")


class ChatResult(Struct, frozen=True, kw_only=True):
    """A job's ``result``."""

    content: str
    model: str
    usage: dict[str, Any] | None
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatEndpoint:
    """Where the provider is. Neither the key nor a user name or password in the URL appears in any message."""

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    timeout: timedelta = timedelta(minutes=5)

    @property
    def url(self) -> str:
        """The address of ``/chat/completions``, without what the base URL holds of a user name or password."""
        parts = urlsplit(self.base_url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path.rstrip("/") + "/chat/completions", parts.query, ""))

    @property
    def authorization(self) -> str | None:
        """The header that proves who we are: the key, or else the URL's user name and password."""
        if self.api_key:
            return f"Bearer {self.api_key}"
        user, at, _ = urlsplit(self.base_url).netloc.rpartition("@")
        if not at:
            return None
        name, _, password = user.partition(":")
        return "Basic " + b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()

    @property
    def secrets(self) -> set[str]:
        """What must be masked wherever a provider echoes it."""
        user, _, _ = urlsplit(self.base_url).netloc.rpartition("@")
        return {self.api_key or "", user, *user.split(":", 1), urlsplit(self.base_url).query}


class ChatExecutor:
    """Runs chat jobs on one endpoint; ``close`` it at the end."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self._endpoint = endpoint
        self._provider = Provider(
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            seconds=endpoint.timeout.total_seconds(),
            secrets=endpoint.secrets,
            largest=_LARGEST_ANSWER,
            hints={"credentials": "LLM_API_KEY", "address": "LLM_BASE_URL and LLM_MODEL"},
            who="provider",
        )

    async def __call__(self, job: ClaimedJob, _context: JobContext, /) -> ChatResult:
        headers = {"Idempotency-Key": f"{job.id}-{job.epoch}"}
        if self._endpoint.authorization:
            headers["Authorization"] = self._endpoint.authorization
        begun = time.monotonic()
        try:
            request = _request(bytes(job.input), self._endpoint.model)
            body, _ = await self._provider.post(self._endpoint.url, headers=headers, data=request)
            answer = completion(body)
        except CallFailed as error:
            raise _as_execution_error(error) from error
        content = answer.choices[0].message.content
        if not isinstance(content, str):
            raise ExecutionError(ErrorCategory.PROVIDER_ERROR, "the provider's answer has no content")
        return ChatResult(
            content=content,
            model=answer.model or self._endpoint.model,
            usage=answer.usage,
            duration_ms=round((time.monotonic() - begun) * 1000),
        )

    async def close(self) -> None:
        """Close the connections to the provider."""
        await self._provider.close()


def request_body(job_input: bytes, model: str) -> bytes:
    """The provider's request for a job's ``input``; raises ExecutionError (bad_input) that names the field."""
    try:
        return _request(job_input, model)
    except CallFailed as error:
        raise _as_execution_error(error) from error


def _request(job_input: bytes, model: str) -> bytes:
    try:
        chat = msgspec.json.decode(job_input, type=ChatInput)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        raise CallFailed(
            "bad_input", text, field=path.rstrip("`").replace("[...]", "[]").lstrip(".") or None
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CallFailed("bad_input", "is not readable JSON") from error
    body: dict[str, Any] = {"model": model, "messages": messages_of(chat.messages, chat.system, chat.user)}
    for name in _PASSED_ON:
        value = getattr(chat, name)
        if value is not None:
            body[name] = value
    return msgspec.json.encode(body)


def _as_execution_error(error: CallFailed) -> ExecutionError:
    """A failed call as the job's error; a mistake in the input is named as ``input.max_tokens: …``."""
    category = _CATEGORIES.get(error.kind, ErrorCategory.PROVIDER_ERROR)
    wait = None if error.retry_after is None else timedelta(seconds=error.retry_after)
    message = error.message
    if category is ErrorCategory.BAD_INPUT:
        where = f"input.{error.field}" if error.field else "input"
        message = f"{where}: {message}"
    return ExecutionError(category, message, retry_after=wait)
