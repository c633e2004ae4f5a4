"""The keys of ``aiges.toml``, the file of Athena's loader, and what becomes of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, Final

from penstock.suggestions import did_you_mean

ANY: Final = "*"  # every key of a section
SERVICE: Final = "SERVICE"  # the section that is named after a service


class Effect(StrEnum):
    """The effect of a key."""

    HONOURED = "honoured"
    NOT_NEEDED = "not needed"  # what it is for happens anyway, or does not arise
    UNSUPPORTED = "unsupported"
    UNKNOWN = "unknown"  # to the original, too


@dataclass(frozen=True, slots=True)
class Key:
    """A key that the original knows."""

    section: str
    name: str
    effect: Effect
    meaning: str  # what it becomes, or why it has no effect
    harmless: Sequence[Any] = ()  # values that request nothing special


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """The effect of a key that a file states."""

    key: str  # with its section: "fc.max"
    effect: Effect
    reason: str
    matters: bool  # its value requests something that does not happen


def _group(section: str, effect: Effect, meaning: str, *names: str, harmless: Sequence[Any] = ()) -> list[Key]:
    return [Key(section, name, effect, meaning, harmless) for name in names]


_ADDRESS: Final = "the gateway has one address for all services: HTTP_HOST, HTTP_PORT, PENSTOCK_ATHENA_GRPC_PORT"
_DISCOVERY: Final = "a gateway serves the models of its own machine and uses no central registry"
_TO_STDOUT: Final = "logs go to standard output"
_COUNTED: Final = "penstock usage and /metrics have the numbers of each service and key"
_HONOURED, _NOT_NEEDED, _UNSUPPORTED = Effect.HONOURED, Effect.NOT_NEEDED, Effect.UNSUPPORTED

KEYS: Final[tuple[Key, ...]] = tuple(
    chain(
        _group(SERVICE, _UNSUPPORTED, _DISCOVERY, "finder"),
        _group(SERVICE, _NOT_NEEDED, _ADDRESS, "host", "port", "netcard", "reuseport"),
        _group(
            SERVICE,
            _NOT_NEEDED,
            "PENSTOCK_ATHENA_GRPC_MESSAGE_BYTES bounds messages of the RPC",
            "maxreceive",
            "maxsend",
            "conn-rbuf",
            "conn-wbuf",
        ),
        _group(SERVICE, _NOT_NEEDED, "the model's timeout is the time limit of calls", "grpctimeout"),
        _group(SERVICE, _UNSUPPORTED, "state a quota instead: penstock quota", "rate", "burst"),
        _group(SERVICE, _UNSUPPORTED, "the load of processors is not reported", "vcpu", "vcpu-g", "vcpu-s"),
        _group(SERVICE, _UNSUPPORTED, "the load of processors is not reported", "vcpu-v", "vcpu-i"),
        _group("aiges", _HONOURED, "the service takes sessions, beside single calls", "sessMode"),
        _group("aiges", _HONOURED, "`callbacks` of a C engine; a Python engine has both ways", "asyncMode"),
        _group("aiges", _HONOURED, "`realtime` of a C engine without callbacks", "realTimeRlt"),
        _group("aiges", _HONOURED, "wrapperInit gets this file, with keys section.key, not [wrapper]", "usrCfg"),
        _group("aiges", _HONOURED, "`header_pass`: fields of a call's header that become parameters", "headerPass"),
        _group("aiges", _HONOURED, "`command` of aiges-plugin, unless it runs wrapper.py", "pythonPluginCmd"),
        _group("aiges", _UNSUPPORTED, "the engine's own schema states `sub`", "sub", harmless=("ase", "common")),
        _group("aiges", _UNSUPPORTED, "engines are not imitated", "gesMock"),
        _group("aiges", _UNSUPPORTED, "processes are not bound to memory nodes; start Penstock by numactl", "numaNode"),
        _group("aiges", _NOT_NEEDED, "a session is removed when it ends", "sessDelGt"),
        _group("aiges", _NOT_NEEDED, "a place is free when the engine has returned", "asyncRelease"),
        _group("aiges", _NOT_NEEDED, "the gateway fetches data for calls by its own rules", "httpRetry"),
        _group("aiges", _UNSUPPORTED, "metrics have the version of a model instead", "gray"),
        _group("aiges", _NOT_NEEDED, "what an engine logs is in its log: penstock model logs", "wrapperTrace"),
        _group(
            "aiges",
            _NOT_NEEDED,
            "a call that exceeds the model's timeout and cannot be stopped ends its replica",
            "wrapperDelayDetectPeriod",
        ),
        _group("aiges", _UNSUPPORTED, "data of calls is not stored; that of jobs is", "storageData"),
        _group("wrapper", _NOT_NEEDED, f"{_ADDRESS}; the engine gets it, too", "http_listen"),
        _group("wrapper", _HONOURED, "what wrapperInit gets", ANY),
        _group("ws", _NOT_NEEDED, "[fc] ttl is the time for which a session may be idle", "readTimeout"),
        _group("ws", _NOT_NEEDED, "the gateway limits how long a session lasts", "sessionTimeout"),
        _group("fc", _HONOURED, "off: the other keys of [fc] have no effect", "able"),
        _group("fc", _HONOURED, "`concurrency`: places of the replica", "max"),
        _group("fc", _HONOURED, "`session_timeout`, here in milliseconds", "ttl"),
        _group("fc", _UNSUPPORTED, "for qpsLimiter state a quota", "router", harmless=("sessionManager",)),
        _group("fc", _NOT_NEEDED, "idle sessions end on time", "roll"),
        _group("fc", _NOT_NEEDED, "calls go to the replica with the most free places", "best"),
        _group("fc", _NOT_NEEDED, "no load balancer needs these reports", "wave", "strategy", "report"),
        _group("fc", _NOT_NEEDED, "no load balancer needs these reports", "filterwin", "tasksize", "taskchsize"),
        _group(
            "downAsync",
            _UNSUPPORTED,
            "results of non-real-time calls go to callbacks",
            "rabHost",
            "rabUser",
            "rabPass",
            "rabQueue",
            "retry",
        ),
        _group("downAsync", _UNSUPPORTED, "tasks are jobs, whose state is in PostgreSQL", "nrtDBUrl"),
        _group("dataProcess", _UNSUPPORTED, "sound is not resampled: engines get the samples of clients", "rsable"),
        _group("auth", _NOT_NEEDED, _COUNTED, ANY),
        _group("sonar", _NOT_NEEDED, _COUNTED, ANY),
        _group("metrics", _NOT_NEEDED, _COUNTED, ANY),
        _group("resource", _UNSUPPORTED, "a manifest names resources: `resources`", ANY),
        _group("log", _UNSUPPORTED, "PENSTOCK_LOG_LEVEL is for all of Penstock", "level"),
        _group("log", _UNSUPPORTED, _TO_STDOUT, ANY),
        _group("elog", _UNSUPPORTED, _TO_STDOUT, ANY),
        _group("lbv2", _UNSUPPORTED, _DISCOVERY, ANY),
        _group("lb", _UNSUPPORTED, _DISCOVERY, ANY),
        _group("trace", _UNSUPPORTED, "spans are not recorded; /metrics has latencies", ANY),
        _group("pprof", _UNSUPPORTED, "the loader's profile is not offered", ANY),
        _group("bvt", _UNSUPPORTED, "penstock model test calls a model instead", ANY),
    )
)
SECTIONS: Final = tuple(dict.fromkeys(one.section for one in KEYS if one.section != SERVICE))

_BY_NAME: Final = {(one.section, one.name): one for one in KEYS}


def notes_on(tables: Mapping[str, Any], services: Mapping[str, Any]) -> list[Note]:
    """Return what becomes of each key of a file: of its known sections, and of those that are named after services.

    The keys of a section that is switched off (``able = 0``) have none.
    """
    found: list[Note] = []
    for section in (name for name in tables if name in SECTIONS):
        found += _of_section(section, section, tables[section])
    for name, table in services.items():
        own = {key: value for key, value in table.items() if key not in SECTIONS}
        found += _of_section(name, SERVICE, own)
        for section in (key for key in table if key in SECTIONS):
            found += _of_section(f"{name}.{section}", section, table[section])
    return found


def _of_section(shown: str, section: str, table: Any) -> Iterator[Note]:
    if not isinstance(table, Mapping) or table.get("able", 1) in (0, False):
        return
    for name, value in table.items():
        key = _BY_NAME.get((section, name)) or _BY_NAME.get((section, ANY))
        written = f"{shown}.{name[:100]}"
        if key is None:
            hint = did_you_mean(name, [one.name for one in KEYS if one.section == section])
            reason = f"is not a key of the original{hint}"
            yield Note(key=written, effect=Effect.UNKNOWN, reason=reason, matters=True)
        else:
            matters = key.effect is Effect.UNSUPPORTED and bool(value) and value not in key.harmless
            yield Note(key=written, effect=key.effect, reason=key.meaning, matters=matters)
