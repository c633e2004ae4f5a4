"""The result of one provider for a request, and the outcome that a job's result holds."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from penstock.failures import Category
from penstock.jobs.usage import Outcome


class Used(Struct, frozen=True, kw_only=True):
    """The resources that one call used."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    audio_seconds: float = 0.0


class Reply(Struct, frozen=True, kw_only=True):
    """The result of one provider. ``usage`` holds what it counted, if anything. ``finish_reason`` is why a chat model
    stopped, in the provider's words. Only transcripts have segments and a language."""

    text: str
    model: str
    used: Used
    segments: list[dict[str, Any]] | None = None
    language: str | None = None
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None


class ProviderAttempt(Struct, frozen=True, kw_only=True):
    """The outcome of one provider, as a job's result holds it.

    ``status``: completed, failed, skipped (not called: its gate was closed) or cancelled (another provider was quicker,
    or the job ended).
    """

    provider: str
    model: str
    status: Outcome
    text: str | None = None
    segments: list[dict[str, Any]] | None = None
    duration_ms: int = 0
    usage: Used = Used()
    error: str | None = None
    error_category: Category | None = None
