"""Which providers and model profiles there are: from the environment, and from the file ``profiles.toml``.

A provider is a server; a profile is a name that jobs use as their ``model_profile``: one or several providers, and how
they are asked. The environment makes the providers ``llm``, ``whisperx``, ``qwen2-audio`` and ``voxtral-small``, and
profiles for them; the file adds others, or replaces these.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from penstock import durations
from penstock.checking import converted
from penstock.errors import FieldProblem, InvalidInput, SettingsError
from penstock.masking import Secret
from penstock.providers.dispatch import Mode
from penstock.providers.endpoint import Endpoint
from penstock.providers.inputs import ChatInput, TranscriptionInput
from penstock.settings import Settings

DEFAULT_FILE: Final = Path("profiles.toml")
_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FAMILIES: Final = {
    "llm": False,
    "whisperx": True,
    "qwen2-audio": True,
    "voxtral-small": True,
}  # whether it transcribes
_SHORTEST_TIMEOUT: Final = timedelta(milliseconds=1)
_SHORTEST_PIECE: Final = timedelta(seconds=5)  # of a recording
_LONGEST: Final = timedelta(days=1)
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


class Kind(StrEnum):
    """What a provider speaks, and so what it can be asked."""

    CHAT = "chat"  # OpenAI's /chat/completions
    WHISPERX = "whisperx"  # transcription as a form with a file
    AUDIO_CHAT = "audio-chat"  # transcription by a chat model that takes input_audio

    @property
    def transcribes(self) -> bool:
        return self is not Kind.CHAT


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSpec:
    """One provider: where it is, what it runs, and how much of it we may use."""

    name: str
    kind: Kind
    endpoint: Endpoint
    model: str  # "" for the server's own choice
    timeout: timedelta = timedelta(minutes=5)
    concurrency: int = 8  # calls of one process at a time
    requests_per_minute: int | None = None  # of one process; None: learned from its answers
    interface: str = "transcribe"  # of whisperx: transcribe, asr or openai
    prompt: str = ""  # of audio-chat: the instruction
    max_tokens: int = 4096  # of audio-chat
    max_duration: timedelta | None = None  # of a recording heard at once; longer ones are cut. None: any
    defaults: Mapping[str, Any] = field(default_factory=dict)  # sent with every request
    hints: Mapping[str, str] = field(default_factory=dict)  # what to check when it refuses us


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A name for jobs: providers of one family, in order, and how they are asked."""

    name: str
    providers: tuple[ProviderSpec, ...]
    mode: Mode
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of a job's input

    @property
    def transcribes(self) -> bool:
        return self.providers[0].kind.transcribes

    @property
    def concurrency(self) -> int:
        """How many jobs keep its providers busy: those of the first, or of the narrowest where all are asked."""
        every = [provider.concurrency for provider in self.providers]
        return every[0] if self.mode is Mode.FIRST else min(every)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All providers and profiles, by name."""

    providers: Mapping[str, ProviderSpec]
    profiles: Mapping[str, Profile]

    @property
    def secrets(self) -> set[str]:
        """Every secret of every provider."""
        return {secret for provider in self.providers.values() for secret in provider.endpoint.secrets}


_MADE_BY: Final = {
    "llm": "LLM_BASE_URL",
    "whisperx": "WHISPERX_URL",
    "qwen2-audio": "QWEN_AUDIO_BASE_URL",
    "voxtral-small": "VOXTRAL_BASE_URL",
}
Name = Annotated[str, Meta(min_length=1, max_length=200)]


Stated = TypeVar("Stated")


class _StatedProvider(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Literal["chat", "whisperx", "audio-chat"]
    url: Annotated[str, Meta(min_length=1)]
    model: str = ""
    api_key: str = ""
    timeout: str = ""
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    requests_per_minute: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    interface: Literal["transcribe", "asr", "openai"] | None = None
    prompt: str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_duration: str = ""
    defaults: dict[str, Any] = {}


class _StatedProfile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    providers: Annotated[list[Name], Meta(min_length=1, max_length=20)]
    mode: Mode = Mode.FIRST
    defaults: dict[str, Any] = {}


@dataclass(slots=True)
class _File:
    """What a file states, as far as it can be read, and what is wrong with the rest."""

    providers: dict[str, _StatedProvider] = field(default_factory=dict)
    profiles: dict[str, _StatedProfile] = field(default_factory=dict)
    problems: list[FieldProblem] = field(default_factory=list)


def load(settings: Settings, environment: Mapping[str, str]) -> Catalogue:
    """The catalogue by settings and file; ``environment`` holds what ``${NAME}`` in the file refers to.

    Raises SettingsError, which lists all mistakes of the file at once.
    """
    providers = {provider.name: provider for provider in _from_settings(settings)}
    path = settings.penstock_profiles
    if path is None and not DEFAULT_FILE.is_file():
        return Catalogue(providers, dict(_default_profiles(settings, providers)))
    path = path or DEFAULT_FILE
    stated = _read(path)
    problems = stated.problems
    for name, provider in stated.providers.items():
        made = _provider(name, provider, settings, environment)
        if isinstance(made, ProviderSpec):
            providers[name] = made
        else:
            problems += [FieldProblem(field=f"{path}: providers.{name}.{part}", detail=what) for part, what in made]
    profiles = dict(_default_profiles(settings, providers))
    for name, profile in stated.profiles.items():
        wrong = list(_profile_problems(name, profile, providers, stated.providers))
        problems += [FieldProblem(field=f"{path}: profiles.{name}.{part}", detail=what) for part, what in wrong]
        if not problems:
            members = tuple(providers[member] for member in profile.providers)
            profiles[name] = Profile(name=name, providers=members, mode=profile.mode, defaults=profile.defaults)
    if problems:
        raise SettingsError(problems)
    return Catalogue(providers, profiles)


def _from_settings(settings: Settings) -> Iterator[ProviderSpec]:
    """The providers of the documented variables, those that have a URL."""

    def endpoint(url: str, key: Secret | None) -> Endpoint:
        return Endpoint(base_url=url, api_key=key.reveal() if key is not None else None)

    concurrency = settings.penstock_provider_concurrency
    if settings.llm_base_url is not None:
        yield ProviderSpec(
            name="llm",
            kind=Kind.CHAT,
            endpoint=endpoint(settings.llm_base_url, settings.llm_api_key),
            model=settings.llm_model,
            timeout=settings.llm_timeout,
            concurrency=concurrency,
            hints={"credentials": "LLM_API_KEY", "address": "LLM_BASE_URL and LLM_MODEL"},
        )
    if settings.whisperx_url is not None:
        yield ProviderSpec(
            name="whisperx",
            kind=Kind.WHISPERX,
            endpoint=endpoint(settings.whisperx_url, settings.whisperx_api_key),
            model=settings.whisperx_model or "",
            timeout=settings.transcription_timeout,
            concurrency=concurrency,
            interface=settings.whisperx_interface,
            hints={"credentials": "WHISPERX_API_KEY", "address": "WHISPERX_URL and WHISPERX_INTERFACE"},
        )
    for name, url, key, model, longest, prefix in (
        (
            "qwen2-audio",
            settings.qwen_audio_base_url,
            settings.qwen_audio_key,
            settings.qwen_audio_model,
            settings.qwen_audio_max_duration,
            "QWEN_AUDIO",
        ),
        (
            "voxtral-small",
            settings.voxtral_base_url,
            settings.voxtral_key,
            settings.voxtral_model,
            settings.voxtral_max_duration,
            "VOXTRAL",
        ),
    ):
        if url is not None:
            yield ProviderSpec(
                name=name,
                kind=Kind.AUDIO_CHAT,
                endpoint=endpoint(url, key),
                model=model,
                timeout=settings.transcription_timeout,
                concurrency=concurrency,
                prompt=settings.audio_llm_prompt,
                max_tokens=settings.audio_llm_max_tokens,
                max_duration=longest,
                hints={"credentials": f"{prefix}_API_KEY", "address": f"{prefix}_BASE_URL and {prefix}_MODEL"},
            )


def _default_profiles(settings: Settings, providers: Mapping[str, ProviderSpec]) -> Iterator[tuple[str, Profile]]:
    """The profiles of the documented variables.

    ``whisperx`` is the profile that callers name for transcription: all of TRANSCRIPTION_PROVIDERS, in order. The audio
    models have a profile each as well, and LLM_MODEL is one.
    """
    if "llm" in providers:
        name = settings.llm_model
        yield name, Profile(name=name, providers=(providers["llm"],), mode=Mode.FIRST)
    for name in ("qwen2-audio", "voxtral-small"):
        if name in providers:
            yield name, Profile(name=name, providers=(providers[name],), mode=Mode.FIRST)
    listed = tuple(providers[name] for name in settings.transcription_providers if name in providers)
    if listed:
        yield "whisperx", Profile(name="whisperx", providers=listed, mode=Mode(settings.transcription_mode))


def _read(path: Path) -> _File:
    """The file's parts, each checked by itself; raises SettingsError when it is no TOML at all."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([FieldProblem(field="PENSTOCK_PROFILES", detail=f"{path}: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise SettingsError([FieldProblem(field=str(path), detail="is not UTF-8")]) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([FieldProblem(field=str(path), detail=f"is not TOML: {error}")]) from None
    except RecursionError:
        raise SettingsError([FieldProblem(field=str(path), detail="is nested too deeply")]) from None
    file = _File()
    for name in found.keys() - {"providers", "profiles"}:
        file.problems.append(
            FieldProblem(field=f"{path}: {name}", detail="is not known; there are providers and profiles")
        )
    _read_table(found.get("providers", {}), f"{path}: providers", _StatedProvider, file.providers, file.problems)
    _read_table(found.get("profiles", {}), f"{path}: profiles", _StatedProfile, file.profiles, file.problems)
    return file


def _read_table(
    table: Any, where: str, kind: type[Stated], into: dict[str, Stated], problems: list[FieldProblem]
) -> None:
    if not isinstance(table, dict):
        problems.append(FieldProblem(field=where, detail="must be a table"))
        return
    for name, stated in table.items():
        try:
            msgspec.json.encode(stated)  # what cannot be sent to a provider, for its depth or for being a date
            into[name] = converted(stated, kind)
        except InvalidInput as error:
            for one in error.problems:
                below = "" if one.field == "body" else f".{one.field}"
                problems.append(FieldProblem(field=f"{where}.{name}{below}", detail=one.detail))
        except RecursionError:
            problems.append(FieldProblem(field=f"{where}.{name}", detail="is nested too deeply"))


def _provider(
    name: str, stated: _StatedProvider, settings: Settings, environment: Mapping[str, str]
) -> ProviderSpec | list[tuple[str, str]]:
    """A provider of the file, or what is wrong with it by field."""
    problems = list(_provider_problems(name, stated, environment))
    timeout = settings.llm_timeout if stated.kind == "chat" else settings.transcription_timeout
    max_duration: timedelta | None = None
    try:
        timeout = _duration(stated.timeout, least=_SHORTEST_TIMEOUT) or timeout
    except ValueError as error:
        problems.append(("timeout", str(error)))
    try:
        max_duration = _duration(stated.max_duration, least=_SHORTEST_PIECE)
    except ValueError as error:
        problems.append(("max_duration", str(error)))
    if problems:
        return problems
    return ProviderSpec(
        name=name,
        kind=Kind(stated.kind),
        endpoint=Endpoint(
            base_url=_filled(stated.url, environment).rstrip("/"), api_key=_filled(stated.api_key, environment) or None
        ),
        model=stated.model,
        timeout=timeout,
        concurrency=stated.concurrency or settings.penstock_provider_concurrency,
        requests_per_minute=stated.requests_per_minute,
        interface=stated.interface or "transcribe",
        prompt=stated.prompt if stated.prompt is not None else settings.audio_llm_prompt,
        max_tokens=stated.max_tokens or settings.audio_llm_max_tokens,
        max_duration=max_duration,
        defaults=stated.defaults,
        hints={"credentials": f"api_key of provider {name}", "address": f"url and model of provider {name}"},
    )


def _duration(text: str, *, least: timedelta) -> timedelta | None:
    """A duration of the file, None where none is stated; raises ValueError for one that is not allowed."""
    if not text:
        return None
    found = durations.parse(text)
    if not least <= found <= _LONGEST:
        raise ValueError(f"must be {durations.text(least)} to 24h")
    return found


def _provider_problems(name: str, stated: _StatedProvider, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(name):
        yield "name", "must hold no control characters"
    for part in ("url", "api_key"):
        missing = [found for found in _REFERENCE.findall(getattr(stated, part)) if not environment.get(found)]
        if missing:
            yield part, f"names variables that are not set: {', '.join(missing)}"
        elif "${" in _REFERENCE.sub("", getattr(stated, part)):
            yield part, "holds ${ without a name and }"
    if not _is_url(_filled(stated.url, environment)):
        yield "url", "must be a URL that begins with http:// or https://"
    if not re.fullmatch(r"[!-~]*", _filled(stated.api_key, environment)):
        yield "api_key", "must be visible ASCII characters without spaces"
    if stated.kind != "whisperx" and not stated.model:
        yield "model", "is required: the name that the server knows the model by"
    family = _FAMILIES.get(name)
    if family is not None and Kind(stated.kind).transcribes != family:
        yield (
            "kind",
            f"must be {'whisperx or audio-chat' if family else 'chat'}: the variables of {name} make profiles of it",
        )
    own = sorted({"model", "messages", "stream", "stream_options"} & set(stated.defaults))
    if stated.kind != "whisperx" and own:
        yield "defaults", f"must not hold {', '.join(own)}"
    for part, kind in (("interface", "whisperx"), ("prompt", "audio-chat"), ("max_tokens", "audio-chat")):
        if getattr(stated, part) is not None and stated.kind != kind:
            yield part, f'goes with kind = "{kind}" only'
    if stated.max_duration and not Kind(stated.kind).transcribes:
        yield "max_duration", "goes with providers that transcribe only"


def _profile_problems(
    name: str, stated: _StatedProfile, providers: Mapping[str, ProviderSpec], in_file: Iterable[str]
) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(name):
        yield "name", "must hold no control characters"
    if len(set(stated.providers)) != len(stated.providers):
        yield "providers", "must name each provider only once"
    missing = [member for member in stated.providers if member not in providers and member not in in_file]
    if missing:
        known = ", ".join(sorted({*providers, *in_file})) or "none"
        unset = [f"{member} ({_MADE_BY[member]} is not set)" for member in missing if member in _MADE_BY]
        hint = f"; of the environment: {', '.join(unset)}" if unset else ""
        yield "providers", f"there is no provider {', '.join(missing)}; there are: {known}{hint}"
    families = {providers[member].kind.transcribes for member in stated.providers if member in providers}
    if len(families) > 1:
        yield "providers", "must be all for chat or all for transcription"
    elif families:
        for problem in _default_problems(stated.defaults, transcribes=families.pop()):
            yield "defaults", problem


def _default_problems(defaults: Mapping[str, Any], *, transcribes: bool) -> Iterator[str]:
    """What is wrong with a profile's defaults; jobs would be refused for it, by names that they do not hold."""
    try:
        converted(defaults, TranscriptionInput if transcribes else ChatInput)
    except InvalidInput as error:
        for problem in error.problems:
            yield f"{problem.field}: {problem.detail}"


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and " " not in text
    except ValueError:
        return False


def _filled(text: str, environment: Mapping[str, str]) -> str:
    return _REFERENCE.sub(lambda match: environment.get(match[1], ""), text)
