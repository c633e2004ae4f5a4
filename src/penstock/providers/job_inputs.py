"""Read the ``input`` of jobs for profiles, both for the gateway's check and for the executors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from penstock.checking import converted
from penstock.errors import InvalidInput
from penstock.failures import CallFailed, Category
from penstock.openai.chat import messages_of
from penstock.outbound.policy import check_url
from penstock.providers.inputs import ChatInput, TranscriptionInput
from penstock.providers.profile import Profile, ProviderSpec

CHAT_TASKS: Final = ("llm_chat", "chat_completion", "call_analysis")
TRANSCRIPTION_TASKS: Final = ("transcription", "transcribe")

Input = TypeVar("Input", bound=Struct)

_PASSED_ON: Final = ("max_tokens", "response_format", "temperature", "top_p", "stop", "seed")


def chat(job_input: bytes, profile: Profile) -> tuple[list[dict[str, Any]], dict[str, Any], bool]:
    """Return the messages and options of a job's ``input``, completed by the profile's defaults, and whether it
    requests a stream. Raises CallFailed (bad_input) that names the field."""
    wanted = _merged(job_input, profile.defaults, ChatInput)
    try:
        messages = messages_of(wanted.messages, wanted.system, wanted.user)
    except CallFailed as error:
        raise bad_input(error.message, error.field) from error
    options = {name: value for name in _PASSED_ON if (value := getattr(wanted, name)) is not None}
    others = {name: value for name, value in profile.defaults.items() if name not in ChatInput.__struct_fields__}
    return messages, others | options, wanted.stream


def transcription(job_input: bytes, profile: Profile) -> TranscriptionInput:
    """Return a job's ``input``, completed by the profile's defaults. Raises CallFailed (bad_input) that names the
    field."""
    wanted = _merged(job_input, profile.defaults, TranscriptionInput)
    source = source_of(wanted)
    if source == "audio_url":
        problem = check_url(wanted.audio_url)
        if problem is not None:
            raise bad_input(problem, source)
    if wanted.min_speakers and wanted.max_speakers and wanted.min_speakers > wanted.max_speakers:
        raise bad_input("must not exceed max_speakers", "min_speakers")
    chosen_providers(profile, wanted.providers)
    return wanted


def source_of(wanted: TranscriptionInput) -> str:
    """Return the field that names the recording; raises CallFailed unless exactly one does."""
    stated = [name for name in ("audio_url", "audio", "audio_blob") if getattr(wanted, name) is not None]
    if len(stated) != 1:
        raise bad_input("needs exactly one of audio_url, audio and audio_blob")
    return stated[0]


def chosen_providers(profile: Profile, names: Sequence[str] | None) -> list[ProviderSpec]:
    """Return the profile's providers, or the ones among them that a job names."""
    known = {spec.name: spec for spec in profile.providers}
    if names is None:
        return list(known.values())
    if len(set(names)) != len(names) or not set(names) <= set(known):
        raise bad_input(f"must name each once, of: {', '.join(known)}", "providers")
    return [known[name] for name in names]


def bad_input(message: str, field: str | None = None) -> CallFailed:
    """Return the failure for a mistake in the input, as ``input.max_tokens: …``."""
    return CallFailed(Category.BAD_INPUT, message, field=f"input.{field}" if field else "input")


def _merged(job_input: bytes, defaults: Mapping[str, Any], kind: type[Input]) -> Input:
    """Return a job's ``input`` with ``defaults`` for absent fields. Raises CallFailed (bad_input) that names the
    field."""
    if not defaults:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return msgspec.json.decode(job_input, type=kind)
    try:
        stated = msgspec.json.decode(job_input)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise bad_input("is not readable JSON") from None
    if not isinstance(stated, dict):
        raise bad_input("must be an object")
    try:
        return converted({**defaults, **stated}, kind)
    except InvalidInput as error:
        first, *more = error.problems
        others = "".join(f"; input.{one.field}: {one.detail}" for one in more)
        raise bad_input(first.detail + others, first.field) from None
