"""The built-in executor for chat jobs: one profile and its providers."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from penstock.jobs.work import ClaimedJob
from penstock.providers import dispatch, job_inputs
from penstock.providers.agreement import Agreement
from penstock.providers.dispatch import Candidate
from penstock.providers.metered import MeteredGate
from penstock.providers.profile import Mode, Profile, ProviderSpec
from penstock.providers.reply import ProviderAttempt, Reply
from penstock.providers.servers import Servers
from penstock.work.context import JobContext
from penstock.workers import provider_jobs

_MAX_DELTA: Final = 100_000  # characters of one chunk of the job's output


class ChatResult(Struct, frozen=True, kw_only=True):
    """A job's ``result``: the chosen reply, and the attempts of all providers."""

    content: str
    model: str
    usage: dict[str, Any] | None
    finish_reason: str | None  # why the model stopped, as the provider reports it: "stop", "length" (it was cut off), …
    duration_ms: int
    provider: str
    attempts: list[ProviderAttempt]
    agreement: list[Agreement] = []  # of every pair of replies, with the mode "all"


class ChatExecutor:
    """Runs the chat jobs of one profile."""

    def __init__(self, profile: Profile, servers: Servers, *, max_result_bytes: int | None = None) -> None:
        self._profile = profile
        self._servers = servers
        self._max_result_bytes = max_result_bytes

    async def __call__(self, job: ClaimedJob, context: JobContext, /) -> ChatResult:
        begun = time.monotonic()
        messages, options, streams = job_inputs.chat(bytes(job.input), self._profile)
        talk = _Talk(context) if streams and self._profile.mode is Mode.FIRST else None
        dispatched = await dispatch.dispatch(
            [self._candidate(one, job, messages, options, talk) for one in self._profile.providers],
            self._profile.mode,
            max_wait_seconds=provider_jobs.max_wait_seconds(job),
            on_attempt=provider_jobs.attempt_recorder(context),
            stop=lambda: talk is not None and talk.begun,
        )
        result = ChatResult(
            content=dispatched.reply.text,
            model=dispatched.reply.model,
            usage=dispatched.reply.usage,
            finish_reason=dispatched.reply.finish_reason,
            duration_ms=round(1000 * (time.monotonic() - begun)),
            provider=dispatched.provider,
            attempts=dispatched.attempts,
            agreement=await provider_jobs.agreement(self._profile.mode, dispatched.attempts),
        )
        return result if self._max_result_bytes is None else fitted(result, self._max_result_bytes)

    def _candidate(
        self,
        spec: ProviderSpec,
        job: ClaimedJob,
        messages: list[dict[str, Any]],
        options: dict[str, Any],
        talk: _Talk | None,
    ) -> Candidate:
        server = self._servers.chat(spec)
        on_delta = None if talk is None else talk.say

        async def call(gate: MeteredGate) -> Reply:
            async with gate.slot():
                return await server.complete(messages, options, key=provider_jobs.key(job, spec), on_delta=on_delta)

        return Candidate(name=spec.name, model=spec.model, gate=self._servers.gate(spec), call=call)


def fitted(result: ChatResult, max_bytes: int) -> ChatResult:
    """Return a result small enough to store. The attempts repeat the chosen reply; if both do not
    fit, the reply is kept, because it was paid for.

    A character takes up to six bytes as JSON, so the size of short texts need not be computed.
    """
    characters = sum(len(attempt.text or "") for attempt in result.attempts)
    if 24 * characters < max_bytes or len(msgspec.json.encode(result)) <= max_bytes:
        return result
    return replace(result, attempts=[replace(attempt, text=None) for attempt in result.attempts])


class _Talk:
    """Streams a reply as the job's output. Once that has begun, no other provider can take over."""

    def __init__(self, context: JobContext) -> None:
        self.begun = False
        self._context = context

    async def say(self, delta: str) -> None:
        self.begun = True
        for start in range(0, len(delta), _MAX_DELTA):
            self._context.chunk({"delta": delta[start : start + _MAX_DELTA]})
            await self._context.room()
