"""Every environment variable, documented here and checked together at start.

A process builds one frozen ``Settings`` at its entry with ``load_settings`` and hands parts of it down. Nothing
reads the environment at import. The name of a variable is the upper-case name of its field; an empty value
means "not set". Variables may also stand in a file ``.env`` in the working directory; the environment wins.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import unquote, urlsplit

import platformdirs
from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableSource

from penstock import durations
from penstock.errors import FieldProblem, SettingsError
from penstock.masking import MASK

MEBIBYTE: Final = 2**20

Transcriber = Literal["whisperx", "qwen2-audio", "voxtral-small"]


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL that begins with http:// or https://")
    return value.rstrip("/")


def _database_url(value: SecretStr) -> SecretStr:
    if not re.match(r"postgres(ql)?://", value.get_secret_value()):
        raise ValueError("must be a URL of the form postgresql://user:password@host:5432/database")
    return value


def _header_value(value: SecretStr) -> SecretStr:
    """A secret that travels in an HTTP header: visible ASCII only; space around it is a slip of the hand."""
    stripped = value.get_secret_value().strip()
    if not re.fullmatch(r"[!-~]+", stripped):
        raise ValueError("must be visible ASCII characters without spaces")
    return SecretStr(stripped)


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError("must be a network such as 10.2.0.0/16 or fd00::/8") from None


Duration = Annotated[timedelta, BeforeValidator(lambda v: durations.parse(v) if isinstance(v, str) else v)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Network = Annotated[str, AfterValidator(_network)]
Key = Annotated[SecretStr, AfterValidator(_header_value)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
Port = Annotated[int, Field(ge=0, le=65_535)]
Count = Annotated[int, Field(ge=1, le=100)]
Bytes = Annotated[int, Field(ge=1024, le=2**30)]

_MILLISECOND = timedelta(milliseconds=1)
_NO_SETTINGS = frozenset({"PENSTOCK_SUPERVISOR_PID", "PENSTOCK_MODEL", "PENSTOCK_MODEL_VERSION"})  # told to children
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_PIECE = timedelta(seconds=5)  # of a recording


class Settings(BaseSettings):
    """The effective settings of one process."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, validate_default=True, hide_input_in_errors=True
    )

    ai_service_token: Key | None = Field(None, description="bearer token that every /api/v1 call must bring")
    http_host: Text = Field(
        # Without a token the API is open to whoever can connect, so then it is this machine only.
        default_factory=lambda known: "0.0.0.0" if known.get("ai_service_token") else "127.0.0.1",  # noqa: S104
        description="address of the gateway; without AI_SERVICE_TOKEN only a loopback address",
    )
    http_port: Port = Field(8080, description="port of the gateway; 0 takes a free one")
    database_url: Annotated[SecretStr, AfterValidator(_database_url)] | None = Field(
        None, description="PostgreSQL 15 or later; unset: an embedded one in PENSTOCK_DATA_DIR"
    )
    migrate_on_start: bool = Field(True, description="bring the database schema up to date at start")

    llm_base_url: HttpUrl | None = Field(None, description="primary OpenAI-compatible endpoint")
    llm_api_key: Key | None = Field(None, description="key of the primary LLM")
    llm_model: Text = Field("qwen2.5-14b", description="model_profile that the built-in LLM worker takes")
    llm_timeout: Duration = Field(timedelta(minutes=5), ge=_SECOND, le=_DAY, description="limit of one LLM call")
    transcription_providers: Annotated[tuple[Transcriber, ...], NoDecode, BeforeValidator(_split)] = Field(
        ("whisperx",), description="ordered, comma-separated: whisperx, qwen2-audio, voxtral-small"
    )
    transcription_mode: Literal["first", "all", "race"] = Field(
        "all", description="all: ask every provider and compare; first: until one succeeds; race: the fastest wins"
    )
    transcription_timeout: Duration = Field(
        timedelta(minutes=30), ge=_SECOND, le=_DAY, description="limit of one provider's transcription"
    )
    whisperx_url: HttpUrl | None = Field(None, description="WhisperX endpoint for transcription jobs")
    whisperx_interface: Literal["transcribe", "asr", "openai"] = Field(
        "transcribe", description="what WHISPERX_URL speaks: POST /transcribe, POST /asr, or /v1/audio/transcriptions"
    )
    whisperx_model: Text | None = Field(None, description="model name sent to it; unset: the server's own choice")
    whisperx_api_key: Key | None = Field(None, description="bearer token of WhisperX")
    qwen_audio_base_url: HttpUrl | None = Field(None, description="OpenAI-compatible endpoint for Qwen2-Audio")
    qwen_audio_model: Text = Field("Qwen/Qwen2-Audio-7B-Instruct", description="model name sent to it")
    qwen_audio_api_key: Key | None = Field(None, description="falls back to AUDIO_LLM_API_KEY, then LLM_API_KEY")
    qwen_audio_max_duration: Duration = Field(
        timedelta(seconds=30), ge=_PIECE, le=_DAY, description="it hears no more at once: longer recordings are cut"
    )
    voxtral_base_url: HttpUrl | None = Field(None, description="OpenAI-compatible endpoint for Voxtral")
    voxtral_model: Text = Field("mistralai/Voxtral-Small-24B-2507", description="model name sent to it")
    voxtral_api_key: Key | None = Field(None, description="falls back to AUDIO_LLM_API_KEY, then LLM_API_KEY")
    voxtral_max_duration: Duration = Field(
        timedelta(minutes=10), ge=_PIECE, le=_DAY, description="longer recordings are sent to it in pieces"
    )
    audio_llm_api_key: Key | None = Field(None, description="key shared by the audio LLM providers")
    audio_llm_prompt: Text = Field(
        "Transcribe this recording word for word in the language spoken. Answer with the transcript only.",
        description="transcription instruction for audio LLM providers",
    )
    audio_llm_max_tokens: int = Field(4096, ge=1, description="longest answer of an audio LLM, in tokens")

    worker_id: Text = Field(default_factory=socket.gethostname, max_length=200, description="name of this worker")
    worker_http_host: Text = Field(
        "0.0.0.0",  # noqa: S104
        description="address of a worker's health endpoints; under serve the gateway's unless set",
    )
    worker_http_port: Port = Field(8081, description="their port; 0 takes a free one; under serve, the first worker's")
    worker_poll_interval: Duration = Field(
        timedelta(seconds=2),
        ge=10 * _MILLISECOND,
        le=timedelta(hours=1),
        description="look for jobs at least this often",
    )
    worker_claim_limit: int = Field(4, ge=1, le=10_000, description="jobs that one worker runs at a time")
    worker_lease_timeout: Duration = Field(
        timedelta(minutes=15), ge=_SECOND, le=_DAY, description="a silent worker loses its jobs after this time"
    )

    penstock_data_dir: Folder = Field(
        default_factory=lambda: platformdirs.user_data_path("penstock"), description="folder of the embedded PostgreSQL"
    )
    penstock_retention_days: int = Field(30, ge=1, le=3650, description="finished jobs are dropped after this time")
    penstock_max_input_bytes: Bytes = Field(MEBIBYTE, description="largest input of one job")
    penstock_max_result_bytes: Bytes = Field(16 * MEBIBYTE, description="largest result of one job")
    penstock_max_batch_bytes: Bytes = Field(64 * MEBIBYTE, description="largest body of a batch request")
    penstock_max_attempts: Count = Field(3, description="attempts of a job that names no max_attempts")
    penstock_max_lost_leases: Count = Field(5, description="a job whose workers keep dying fails after so many")
    penstock_retry_base: Duration = Field(
        timedelta(seconds=2), ge=_MILLISECOND, le=_DAY, description="wait before the first retry; doubles each time"
    )
    penstock_retry_cap: Duration = Field(
        timedelta(minutes=5), ge=_MILLISECOND, le=_DAY, description="longest wait before a retry"
    )
    penstock_cancel_grace: Duration = Field(
        timedelta(seconds=30), le=_DAY, description="a cancelled job that does not stop loses its lease after this time"
    )
    penstock_shutdown_grace: Duration = Field(
        timedelta(seconds=30), le=timedelta(hours=1), description="on SIGTERM, time to finish or hand back what runs"
    )
    penstock_models_dir: Folder | None = Field(
        None, description="folder of model manifests: NAME.toml or NAME/model.toml; watched for changes"
    )
    penstock_models_url: HttpUrl | None = Field(
        None, description="gateway that runs a worker's predict jobs; unset: the worker runs PENSTOCK_MODELS_DIR itself"
    )
    penstock_max_call_bytes: Bytes = Field(64 * MEBIBYTE, description="largest body of a live call to a model")
    penstock_profiles: Folder | None = Field(
        None, description="file of providers and model profiles; unset: profiles.toml in the working directory, if any"
    )
    penstock_provider_concurrency: int = Field(
        8, ge=1, le=10_000, description="calls of one worker to one provider at a time, unless its profile says more"
    )
    penstock_fetch_networks: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="private networks that URLs in jobs may lead to, such as 10.2.0.0/16; public addresses always"
    )
    penstock_max_blob_bytes: Annotated[int, Field(ge=1024, le=2**32)] = Field(
        256 * MEBIBYTE, description="largest uploaded file, and largest recording fetched from a URL"
    )
    infra_sidecar_urls: Annotated[tuple[HttpUrl, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="comma-separated addresses of sidecars, shown by /api/v1/infra/status"
    )
    infra_sidecar_token: Key | None = Field(None, description="token of the sidecars; a sidecar itself requires it")
    sidecar_http_host: Text = Field("0.0.0.0", description="address of a sidecar")  # noqa: S104
    sidecar_http_port: Port = Field(8090, description="its port; 0 takes a free one")
    sidecar_docker_socket: Folder = Field(Path("/var/run/docker.sock"), description="where its containers are listed")
    sidecar_vllm_urls: Annotated[tuple[HttpUrl, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="comma-separated vLLM servers beside it, whose metrics it reads"
    )
    sidecar_whisperx_urls: Annotated[tuple[HttpUrl, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="comma-separated WhisperX servers beside it, whose health it reads"
    )
    sidecar_interval: Duration = Field(
        timedelta(seconds=2), ge=100 * _MILLISECOND, le=timedelta(minutes=1), description="it measures this often"
    )
    penstock_workers: int = Field(1, ge=0, le=256, description="worker processes that penstock serve starts")
    penstock_log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")
    penstock_log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: console on a terminal, json otherwise"
    )
    penstock_url: HttpUrl = Field(
        default_factory=lambda known: f"http://127.0.0.1:{known.get('http_port') or 8080}",
        description="the gateway that penstock job and penstock stats talk to",
    )

    @field_validator("penstock_log_level", "penstock_log_format", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("transcription_providers")
    @classmethod
    def _each_once(cls, value: tuple[Transcriber, ...]) -> tuple[Transcriber, ...]:
        if len(set(value)) != len(value) or not value:
            raise ValueError("must name at least one provider, and each only once")
        return value

    @field_validator("http_host")
    @classmethod
    def _open_only_to_this_machine(cls, value: str, info: ValidationInfo) -> str:
        # A token that is itself wrong is reported as such, not a second time here.
        if "ai_service_token" in info.data and not info.data["ai_service_token"] and not is_loopback(value):
            raise ValueError(
                "without AI_SERVICE_TOKEN the API is open to everyone who can reach this address: "
                "set AI_SERVICE_TOKEN, or listen on 127.0.0.1"
            )
        return value

    @field_validator("worker_http_port")
    @classmethod
    def _own_port(cls, value: int, info: ValidationInfo) -> int:
        if value and value == info.data.get("http_port"):
            raise ValueError("must differ from HTTP_PORT")
        return value

    @field_validator("penstock_retry_cap")
    @classmethod
    def _cap_above_base(cls, value: timedelta, info: ValidationInfo) -> timedelta:
        base = info.data.get("penstock_retry_base")
        if base is not None and value < base:
            raise ValueError("must not be less than PENSTOCK_RETRY_BASE")
        return value

    @field_validator("penstock_max_batch_bytes")
    @classmethod
    def _batch_holds_one(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("penstock_max_input_bytes", 0):
            raise ValueError("must not be less than PENSTOCK_MAX_INPUT_BYTES")
        return value

    @field_validator("penstock_workers")
    @classmethod
    def _ports_for_all(cls, value: int, info: ValidationInfo) -> int:
        first, gateway = info.data.get("worker_http_port"), info.data.get("http_port")
        if first and (first + value - 1 > 65_535 or (gateway and first < gateway < first + value)):
            raise ValueError(
                "each worker takes the next port from WORKER_HTTP_PORT on: there must be enough, without HTTP_PORT"
            )
        return value

    @property
    def qwen_audio_key(self) -> SecretStr | None:
        """The key for Qwen2-Audio after the documented fallbacks."""
        return self.qwen_audio_api_key or self.audio_llm_api_key or self.llm_api_key

    @property
    def voxtral_key(self) -> SecretStr | None:
        """The key for Voxtral after the documented fallbacks."""
        return self.voxtral_api_key or self.audio_llm_api_key or self.llm_api_key

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """What each variable means, by its name."""
        return {name.upper(): field.description or "" for name, field in cls.model_fields.items()}

    def masked(self) -> dict[str, str | int | bool | None]:
        """Each variable's effective value as it may be printed: secrets and passwords in URLs are masked."""
        return {name.upper(): _printable(name, getattr(self, name)) for name in type(self).model_fields}

    def secret_values(self) -> frozenset[str]:
        """Everything that must appear in no log: the secrets themselves, and the passwords inside URLs."""
        return frozenset(_secrets_in(getattr(self, name) for name in type(self).model_fields))

    def replace(self, **changes: object) -> Self:
        """These settings with some fields changed; the changes are checked like the rest."""
        known = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate(known | changes)


def load_settings(env_file: Path | None = Path(".env")) -> Settings:
    """The settings of this process, from its environment and ``env_file``; a file that is not there is fine.

    Raises SettingsError, which lists all mistakes at once by the variables' names and echoes no values.
    """
    source: dict[str, Any] = {"_env_file": env_file}
    try:
        return Settings(**source)
    except ValidationError as error:
        # A default that is derived from a field that is wrong is no mistake of its own.
        details = [d for d in error.errors(include_input=False) if d["type"] != "default_factory_not_called"]
        raise SettingsError([_problem(detail) for detail in details]) from None
    except (UnreadableSource, OSError, UnicodeDecodeError):
        raise SettingsError([FieldProblem(field=str(env_file), detail="cannot be read as KEY=value lines")]) from None


def environment(env_file: Path | None = Path(".env")) -> dict[str, str]:
    """All variables as ``load_settings`` sees them, for files that refer to them as ``${NAME}``."""
    stated = dotenv_values(env_file) if env_file is not None and env_file.is_file() else {}
    return {name: value for name, value in stated.items() if value is not None} | dict(os.environ)


def misspelt(env_file: Path | None = Path(".env")) -> dict[str, str]:
    """Names that are set and known to nobody, and what may be meant: a misspelt token leaves the door open."""
    known = set(Settings.descriptions())
    stated = dotenv_values(env_file) if env_file is not None and env_file.is_file() else {}
    ours = [name for name in os.environ if name.startswith("PENSTOCK_") and name not in _NO_SETTINGS]
    found: dict[str, str] = {}
    for name in {*ours, *(one.upper() for one in stated)} - known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if close:
            found[name] = close[0]
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a server that listens on ``host``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _problem(detail: Mapping[str, Any]) -> FieldProblem:
    message = str(detail["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    return FieldProblem(field=str(detail["loc"][0]).upper() if detail["loc"] else "environment", detail=message)


_PASSWORD_PARAMETER = re.compile(r"(?i)([?&](?:[\w-]*(?:password|passwd|token|secret|key))=)([^&#]*)")


def mask_url(url: str) -> str:
    """``url`` without its password; a URL over HTTP loses its user name too, which is often a key."""
    masked = _PASSWORD_PARAMETER.sub(rf"\1{MASK}", url)
    scheme, separator, rest = masked.partition("://")
    user, at, host = rest.rpartition("@")  # the last one: a password may hold an unescaped @
    if not at:
        return masked
    name, colon, _ = user.partition(":")
    shown = f"{name}{colon}{MASK if colon else ''}" if scheme.startswith("postgres") else MASK
    return f"{scheme}{separator}{shown}@{host}"


def _printable(name: str, value: object) -> str | int | bool | None:
    match value:
        case SecretStr():
            return mask_url(value.get_secret_value()) if name == "database_url" else MASK
        case timedelta():
            return durations.text(value)
        case tuple():
            return ",".join(mask_url(one) for one in value)
        case bool() | int() | None:
            return value
        case _:
            return mask_url(str(value)) if "://" in str(value) else str(value)


def _secrets_in(values: Iterator[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, tuple):
            yield from _secrets_in(iter(value))
            continue
        secret = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not isinstance(secret, str):
            continue
        if "://" in secret:
            user, at, _ = secret.partition("://")[2].rpartition("@")
            password = user.partition(":")[2] if at else ""
            yield from {part for part in (password, unquote(password)) if part}
            yield from (found for _, found in _PASSWORD_PARAMETER.findall(secret) if found)
        elif isinstance(value, SecretStr):
            yield secret
