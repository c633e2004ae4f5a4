"""The providers and model profiles of a process, from the environment and from the file ``profiles.toml``.

A provider is a server or a registered model. A profile is a name that jobs use as their ``model_profile``; it stands
for one or several providers and states how they are called. The environment defines the providers ``llm``,
``whisperx``, ``qwen2-audio`` and ``voxtral-small``, and profiles for them; the file adds others, or replaces these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from penstock import durations
from penstock.checking import converted
from penstock.errors import InvalidInput
from penstock.openai.chat import RESERVED
from penstock.outbound.policy import check_url
from penstock.providers import documented, profiles_file
from penstock.providers.endpoint import Endpoint
from penstock.providers.inputs import ChatInput, TranscriptionInput
from penstock.providers.profile import Catalogue, Kind, Mode, Profile, ProviderSpec
from penstock.providers.profiles_file import ProfilesFile
from penstock.settings import Settings
from penstock.suggestions import did_you_mean
from penstock.toml_file import Problems

DEFAULT_FILE: Final = Path("profiles.toml")
_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MIN_TIMEOUT: Final = timedelta(milliseconds=1)
_MIN_PIECE: Final = timedelta(seconds=5)  # of a recording
_MAX_DURATION: Final = timedelta(days=1)
_KINDS_OF: Final[Mapping[str, frozenset[Kind]]] = {  # fields that are allowed for some kinds only
    "url": frozenset({Kind.CHAT, Kind.WHISPERX, Kind.AUDIO_CHAT}),
    "api_key": frozenset({Kind.CHAT, Kind.WHISPERX, Kind.AUDIO_CHAT}),
    "interface": frozenset({Kind.WHISPERX}),
    "prompt": frozenset({Kind.AUDIO_CHAT}),
    "max_tokens": frozenset({Kind.AUDIO_CHAT}),
    "max_duration": frozenset({Kind.WHISPERX, Kind.AUDIO_CHAT, Kind.AUDIO_MODEL}),
}


def load(settings: Settings, environment: Mapping[str, str]) -> Catalogue:
    """Return the catalogue of settings and file; ``environment`` holds the variables that ``${NAME}`` refers to.

    Raises SettingsError, which lists all mistakes of the file at once.
    """
    providers = {provider.name: provider for provider in documented.providers(settings)}
    path = settings.penstock_profiles
    if path is None and not DEFAULT_FILE.is_file():
        return Catalogue(providers, {one.name: one for one in documented.profiles(settings, providers)})
    problems = Problems(path or DEFAULT_FILE)
    file = profiles_file.read(problems)
    providers |= dict(_providers(file, settings, environment, problems))
    profiles = {one.name: one for one in documented.profiles(settings, providers)}
    profiles |= dict(_profiles(file, providers, problems))
    problems.raise_any()
    return Catalogue(providers, profiles)


# Providers


def _providers(
    file: ProfilesFile, settings: Settings, environment: Mapping[str, str], problems: Problems
) -> Iterator[tuple[str, ProviderSpec]]:
    """Yield the file's valid providers; add the mistakes of the others."""
    for name, table in file.providers.items():
        known = len(problems.found)
        durations_of = {}
        for field, least in (("timeout", _MIN_TIMEOUT), ("max_duration", _MIN_PIECE)):
            try:
                durations_of[field] = _duration(table.get(field, ""), least=least)
            except ValueError as error:
                problems.add(f"providers.{name}.{field}", str(error))
        for field, detail in _provider_problems(name, table, environment):
            problems.add(f"providers.{name}.{field}", detail)
        if len(problems.found) == known and "kind" in table:
            yield name, _spec(name, table, settings, environment, **durations_of)


def _spec(
    name: str,
    table: Mapping[str, Any],
    settings: Settings,
    environment: Mapping[str, str],
    *,
    timeout: timedelta | None,
    max_duration: timedelta | None,
) -> ProviderSpec:
    kind = Kind(table["kind"])
    endpoint = None
    if not kind.registered:
        url = _filled(table.get("url", ""), environment).rstrip("/")
        endpoint = Endpoint(base_url=url, api_key=_filled(table.get("api_key", ""), environment) or None)
    usual_timeout = settings.transcription_timeout if kind.transcribes else settings.llm_timeout
    return ProviderSpec(
        name=name,
        kind=kind,
        endpoint=endpoint,
        model=table.get("model", ""),
        timeout=timeout or usual_timeout,
        concurrency=table.get("concurrency") or settings.penstock_provider_concurrency,
        requests_per_minute=table.get("requests_per_minute"),
        interface=table.get("interface") or "transcribe",
        prompt=table.get("prompt", settings.audio_llm_prompt),
        max_tokens=table.get("max_tokens") or settings.audio_llm_max_tokens,
        max_duration=max_duration,
        defaults=table.get("defaults", {}),
        hints={"credentials": f"api_key of provider {name}", "address": f"url and model of provider {name}"},
    )


def _provider_problems(
    name: str, table: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield each field that is wrong, and what is allowed there."""
    kind = Kind(table["kind"]) if "kind" in table else None
    for field, check in (("url", _url_problem), ("api_key", _key_problem)):
        text = table.get(field, "")
        problem = _reference_problem(text, environment) or check(_filled(text, environment))
        if text and problem is not None:
            yield field, problem
    transcribes = documented.transcribes(name)
    if kind is not None and transcribes is not None and kind.transcribes != transcribes:
        allowed = "whisperx, audio-chat or audio-model" if transcribes else "chat or model"
        yield "kind", f"must be {allowed}: the variables of {name} make profiles of it"
    if kind is not None:
        yield from _kind_problems(kind, table)


def _kind_problems(kind: Kind, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not kind.registered and "url" not in table:
        yield "url", "is required: where the server is, such as http://127.0.0.1:8000/v1"
    if kind is not Kind.WHISPERX and not table.get("model"):
        yield (
            "model",
            "is required: the name of a registered model"
            if kind.registered
            else "is required: the name that the server knows the model by",
        )
    own = sorted(RESERVED & set(table.get("defaults", {})))
    if kind is not Kind.WHISPERX and own:
        yield "defaults", f"must not hold {', '.join(own)}"
    for field, kinds in _KINDS_OF.items():
        if kind not in kinds and table.get(field):
            allowed = ", ".join(f'"{one.value}"' for one in Kind if one in kinds)
            yield field, f"is allowed for {'the kinds' if len(kinds) > 1 else 'kind ='} {allowed} only"


def _url_problem(url: str) -> str | None:
    try:
        return check_url(Endpoint(base_url=url).url())  # without its credentials, which are sent as a header
    except ValueError:
        return "must be a URL such as http://127.0.0.1:8000"


def _key_problem(key: str) -> str | None:
    return None if re.fullmatch(r"[!-~]*", key) else "must be visible ASCII characters without spaces"


def _reference_problem(text: str, environment: Mapping[str, str]) -> str | None:
    """Return what is wrong with the references ``${NAME}`` in a text."""
    missing = [name for name in _REFERENCE.findall(text) if not environment.get(name)]
    if missing:
        meant = did_you_mean(missing[0], sorted(environment)) if len(missing) == 1 else ""
        return f"names variables that are not set: {', '.join(missing)}{meant}"
    return "holds ${ without a name and }" if "${" in _REFERENCE.sub("", text) else None


def _filled(text: str, environment: Mapping[str, str]) -> str:
    return _REFERENCE.sub(lambda match: environment.get(match[1], ""), text)


def _duration(text: str, *, least: timedelta) -> timedelta | None:
    """Parse a duration in the file; return None if there is none. Raises ValueError if it is not allowed."""
    if not text:
        return None
    found = durations.parse(text)
    if not least <= found <= _MAX_DURATION:
        raise ValueError(f"must be {durations.text(least)} to 24h")
    return found


# Profiles


def _profiles(
    file: ProfilesFile, providers: Mapping[str, ProviderSpec], problems: Problems
) -> Iterator[tuple[str, Profile]]:
    """Yield the file's profiles whose providers are all valid; add the mistakes of the others."""
    kinds = {name: provider.kind for name, provider in providers.items()}
    kinds |= {name: Kind(table["kind"]) for name, table in file.providers.items() if "kind" in table}
    names = {*providers, *file.providers}
    for name, table in file.profiles.items():
        members = table.get("providers", [])
        for field, detail in _profile_problems(table, kinds, names):
            problems.add(f"profiles.{name}.{field}", detail)
        if members and all(member in providers for member in members):
            specs = tuple(providers[member] for member in members)
            mode = table.get("mode", Mode.FIRST)
            yield name, Profile(name=name, providers=specs, mode=mode, defaults=table.get("defaults", {}))


def _profile_problems(
    table: Mapping[str, Any], kinds: Mapping[str, Kind], names: set[str]
) -> Iterator[tuple[str, str]]:
    members = table.get("providers", [])
    if len(set(members)) != len(members):
        yield "providers", "must name each provider only once"
    missing = [member for member in members if member not in names]
    if missing:
        yield "providers", _missing(missing, names)
    tasks = {kinds[member].transcribes for member in members if member in kinds}
    if len(tasks) > 1:
        yield "providers", "must be all for chat or all for transcription"
    elif tasks:
        for problem in _default_problems(table.get("defaults", {}), transcribes=tasks.pop()):
            yield "defaults", problem


def _missing(missing: list[str], names: set[str]) -> str:
    variables = {member: documented.VARIABLES[member] for member in missing if member in documented.VARIABLES}
    unset = [f"{member} ({variable} is not set)" for member, variable in variables.items()]
    hint = f"; of the environment: {', '.join(unset)}" if unset else ""
    meant = "".join(did_you_mean(member, sorted(names)) for member in missing[:1])
    return f"there is no provider {', '.join(missing)}{meant}; there are: {', '.join(sorted(names)) or 'none'}{hint}"


def _default_problems(defaults: Mapping[str, Any], *, transcribes: bool) -> Iterator[str]:
    """Yield the mistakes in a profile's defaults: every job of the profile would be refused for them."""
    try:
        converted(defaults, TranscriptionInput if transcribes else ChatInput)
    except InvalidInput as error:
        for problem in error.problems:
            yield f"{problem.field}: {problem.detail}"
