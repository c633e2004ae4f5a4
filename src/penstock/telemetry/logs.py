"""Structured logs: constant event names with fields; pretty on a terminal, JSON lines otherwise.

A module takes its logger with ``logs.get(__name__)``; a process calls ``configure`` once at its entry.
Records of libraries that use the standard ``logging`` come out in the same form.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from penstock.masking import MASK, Masker

Format = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error"]

_SECRET_KEYS: Final = (
    "authorization",
    "cookie",
    "passwd",
    "password",
    "secret",
    "token",
    "api_key",
    "apikey",
    "credential",
    "private_key",
)
_COUNTS: Final = ("tokens", "max_tokens", "_tokens")  # counts of an LLM's tokens, which are not secrets


class RedactSecrets:
    """A processor that masks fields whose names suggest a secret, and known secret values everywhere."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = Masker(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Mask these values as well."""
        self._secrets.add(secrets)

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {key: self._field(str(key), value) for key, value in event.items()}

    def _field(self, key: str, value: object) -> object:
        name = key.lower().replace("-", "_")
        if value is not None and any(s in name for s in _SECRET_KEYS) and not name.endswith(_COUNTS):
            return MASK
        return self._value(value)

    def _value(self, value: object) -> object:
        match value:
            case str():
                return self._secrets.text(value)
            case bytes():
                return self._secrets.text(value.decode("utf-8", "replace"))
            case Mapping():
                return {key: self._field(str(key), item) for key, item in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self._value(item) for item in value]
            case bool() | int() | float() | None:
                return value
            case _:
                return self._secrets.text(str(value))


def configure(
    *, level: Level = "info", form: Format = "auto", secrets: Iterable[str] = (), stream: TextIO | None = None
) -> None:
    """Set up logging for this process; a later call replaces an earlier one.

    ``stream`` is standard output by default; commands whose output is data log to standard error.
    ``auto`` is ``console`` when the stream is a terminal and ``json`` otherwise.
    """
    out = stream if stream is not None else sys.stdout
    pretty = form == "console" or (form == "auto" and out.isatty())
    shared: Sequence[Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if pretty else "iso", utc=not pretty),
    )
    # Exceptions become text before redaction, so that a secret in a traceback is masked too.
    ending: Sequence[Processor] = (
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        _redactor(secrets),
        *_renderer(pretty=pretty, colors=out.isatty()),
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=ending))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a later `configure` must reach loggers that were used before it
    )


def mask(secrets: Iterable[str]) -> None:
    """Mask these values in every line from now on, for secrets that become known after ``configure``."""
    for redactor in _redactors:
        redactor.add(secrets)


_redactors: list[RedactSecrets] = []


def _redactor(secrets: Iterable[str]) -> RedactSecrets:
    """Create the processor that masks from now on."""
    _redactors[:] = [RedactSecrets(secrets)]
    return _redactors[0]


def get(name: str) -> FilteringBoundLogger:
    """Return the logger of a module. The last ``configure`` determines its level and format."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


def bind(**fields: object) -> None:
    """Add fields such as role, worker_id or request id to every later line of this task and of tasks that it starts."""
    structlog.contextvars.bind_contextvars(**fields)


def _renderer(*, pretty: bool, colors: bool) -> Sequence[Processor]:
    if pretty:
        return (structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=28),)
    return (_important_first, structlog.processors.JSONRenderer(serializer=_json))


def _important_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = {key: event[key] for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}


def _json(value: object, **_: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":"))
