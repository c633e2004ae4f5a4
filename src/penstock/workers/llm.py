"""The built-in executor for chat jobs, against any OpenAI-compatible ``/chat/completions``."""

from __future__ import annotations

import re
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import aiohttp
import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from penstock.jobs.job import ClaimedJob
from penstock.jobs.states import ErrorCategory
from penstock.workers.executors import ExecutionError, JobContext

TASK_TYPES: Final = ("llm_chat", "chat_completion", "call_analysis")

_MASK = "******"
_LARGEST_ANSWER = 16 * 2**20  # bytes of a provider's answer
_LONGEST_DETAIL = 300  # characters of a provider's own words in an error message
_LONGEST_RETRY_AFTER = timedelta(days=7)
_CALLERS_FAULT = frozenset({400, 413, 422})
_TOO_SLOW = frozenset({408, 504})


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


class _Message(Struct):
    content: str | UnsetType | None = UNSET


class _Choice(Struct):
    message: _Message


class _Completion(Struct):
    choices: list[_Choice]
    model: str | None = None
    usage: dict[str, Any] | None = None


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
        known = {self.api_key or "", user, *user.split(":", 1), urlsplit(self.base_url).query}
        spelled = known | {unquote(secret) for secret in known} | {quote(secret, safe="") for secret in known}
        return {secret for secret in spelled if len(secret) > 3}


class ChatExecutor:
    """Runs chat jobs on one endpoint; ``close`` it at the end."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self._endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, job: ClaimedJob, _context: JobContext, /) -> ChatResult:
        request = request_body(bytes(job.input), self._endpoint.model)
        begun = time.monotonic()
        status, headers, body = await self._post(request, key=f"{job.id}-{job.epoch}")
        if status != 200:
            raise self._refused(status, headers, body)
        completion = _parsed(body)
        content = completion.choices[0].message.content if completion.choices else UNSET
        if not isinstance(content, str):
            what = "no content" if completion.choices else "no choices"
            raise ExecutionError(ErrorCategory.PROVIDER_ERROR, f"the provider's answer has {what}")
        return ChatResult(
            content=content,
            model=completion.model or self._endpoint.model,
            usage=completion.usage,
            duration_ms=round((time.monotonic() - begun) * 1000),
        )

    async def close(self) -> None:
        """Close the connections to the provider."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _post(self, body: bytes, *, key: str) -> tuple[int, Mapping[str, str], bytes]:
        session = self._connected()
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Idempotency-Key": key}
        if self._endpoint.authorization:
            headers["Authorization"] = self._endpoint.authorization
        try:
            # A redirect would take the key to another address.
            async with session.post(self._endpoint.url, data=body, headers=headers, allow_redirects=False) as response:
                return response.status, response.headers, await _read(response)
        except TimeoutError as error:
            limit = self._endpoint.timeout.total_seconds()
            raise ExecutionError(ErrorCategory.TIMEOUT, f"the provider did not answer within {limit:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            message = f"the connection to the provider failed ({type(error).__name__}{self._reason(error)})"
            raise ExecutionError(ErrorCategory.PROVIDER_ERROR, message) from None

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            limit = self._endpoint.timeout.total_seconds()
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=limit, sock_connect=min(limit, 30)),
                connector=aiohttp.TCPConnector(limit=0),  # the worker limits how many jobs run
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _reason(self, error: Exception) -> str:
        """The system's own words for a refused connection; other texts may quote the request."""
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        return f": {self._masked(cause.strerror)}" if isinstance(cause, OSError) and cause.strerror else ""

    def _refused(self, status: int, headers: Mapping[str, str], body: bytes) -> ExecutionError:
        detail = self._masked(_detail(body))
        said = f"{status}: {detail}" if detail else f"{status}"
        wait = retry_after(headers.get("Retry-After"), now=datetime.now(UTC))
        if status == 429:
            return ExecutionError(ErrorCategory.RATE_LIMITED, f"the provider limits us ({said})", retry_after=wait)
        if status in _TOO_SLOW:
            return ExecutionError(ErrorCategory.TIMEOUT, f"the provider timed out ({said})", retry_after=wait)
        if status in _CALLERS_FAULT:
            return ExecutionError(ErrorCategory.BAD_INPUT, f"the provider refuses the input ({said})")
        if status in {401, 403}:
            message = f"the provider refuses our credentials: check LLM_API_KEY ({said})"
        elif status == 404:
            message = f"the provider knows no such address or model: check LLM_BASE_URL and LLM_MODEL ({said})"
        elif 300 <= status < 400:
            message = f"the provider redirects, which is not followed: check LLM_BASE_URL ({status})"
        elif status >= 500:
            message = f"the provider failed ({said})"
        else:
            message = f"the provider answered unexpectedly ({said})"
        return ExecutionError(ErrorCategory.PROVIDER_ERROR, message, retry_after=wait)

    def _masked(self, text: str) -> str:
        for secret in sorted(self._endpoint.secrets, key=len, reverse=True):
            text = text.replace(secret, _MASK)
        return text


def request_body(job_input: bytes, model: str) -> bytes:
    """The provider's request for a job's ``input``; raises ExecutionError (bad_input) that names the field."""
    try:
        chat = msgspec.json.decode(job_input, type=ChatInput)
    except msgspec.ValidationError as error:
        raise _bad_input(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad_input("is not readable JSON") from error
    body: dict[str, Any] = {"model": model, "messages": _messages(chat)}
    for name in _PASSED_ON:
        value = getattr(chat, name)
        if value is not None:
            body[name] = value
    return msgspec.json.encode(body)


def retry_after(header: str | None, *, now: datetime) -> timedelta | None:
    """What a Retry-After header asks for, in seconds or as a date; None when it is absent or unreadable."""
    if header is None:
        return None
    text = header.strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        wait = timedelta(seconds=float(text))
    else:
        try:
            when = parsedate_to_datetime(text)
        except ValueError:
            return None
        wait = (when if when.tzinfo is not None else when.replace(tzinfo=UTC)) - now
    return min(max(wait, timedelta(0)), _LONGEST_RETRY_AFTER)


def _messages(chat: ChatInput) -> list[dict[str, Any]]:
    if chat.messages is not None:
        if not chat.messages:
            raise _bad_input("needs at least one message - at `$.messages`")
        for index, message in enumerate(chat.messages):
            if not isinstance(message.get("role"), str) or not message["role"]:
                raise _bad_input(f"needs a role - at `$.messages[{index}].role`")
            if not isinstance(message.get("content"), (str, list)) and "tool_calls" not in message:
                raise _bad_input(f"needs a text or a list of parts - at `$.messages[{index}].content`")
        return chat.messages
    for name, text in (("system", chat.system), ("user", chat.user)):
        if text is not None and not isinstance(text, str):
            raise _bad_input(f"must be a text - at `$.{name}`")
    if not chat.user:
        raise _bad_input("needs messages, or a user text - at `$.user`")
    system = [{"role": "system", "content": chat.system}] if chat.system else []
    return [*system, {"role": "user", "content": chat.user}]


def _bad_input(problem: str) -> ExecutionError:
    """A message such as ``input.max_tokens: Expected `int`, got `str```, from msgspec's way to write it."""
    text, _, path = problem.partition(" - at `$")
    where = path.rstrip("`").replace("[...]", "[]")
    return ExecutionError(ErrorCategory.BAD_INPUT, f"input{where}: {text}")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(2**16):
        body += chunk
        if len(body) > _LARGEST_ANSWER:
            raise ExecutionError(ErrorCategory.PROVIDER_ERROR, f"the provider's answer exceeds {_LARGEST_ANSWER} bytes")
    return bytes(body)


def _parsed(body: bytes) -> _Completion:
    try:
        return msgspec.json.decode(body, type=_Completion)
    except msgspec.ValidationError as error:
        message = f"the provider's answer is no chat completion: {error}"
        raise ExecutionError(ErrorCategory.PROVIDER_ERROR, message) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ExecutionError(ErrorCategory.PROVIDER_ERROR, "the provider's answer is not JSON") from error


def _detail(body: bytes) -> str:
    """The provider's own words about an error, in one line."""
    text = body[:4096].decode("utf-8", "replace")
    try:
        said = msgspec.json.decode(body)
        error = said.get("error", said) if isinstance(said, dict) else said
        message = error.get("message", error.get("detail")) if isinstance(error, dict) else error
        if isinstance(message, str):
            text = message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_DETAIL else line[: _LONGEST_DETAIL - 1] + "…"
