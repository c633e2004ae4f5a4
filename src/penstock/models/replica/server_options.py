"""Options of models that a server elsewhere runs: its address, headers, secrets and time limit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from penstock import durations
from penstock.failures import CallFailed, Category
from penstock.masking import is_distinctive
from penstock.models.replica.runtime import unknown_options
from penstock.models.replica.secrets import secrets_in_url
from penstock.outbound.policy import Policy, check_url, networks_of

_SECRET_HEADER: Final = re.compile(r"auth|key|token|secret|cookie|password", re.IGNORECASE)
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE: Final = re.compile(r"[ -~]*")
_MAX_REQUESTS_PER_MINUTE: Final = 100_000
_FIXED: Final = frozenset({"content-type", "content-length", "host", "transfer-encoding", "connection"})


def server_url(options: Mapping[str, Any]) -> str:
    """Return the URL that requests are sent to."""
    url = str(options["url"])
    return url if "path" not in options else url.rstrip("/") + str(options["path"])


def stated_headers(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the manifest's headers, ``env:NAME`` replaced. Raises CallFailed (``unavailable``) if NAME is not set."""
    found: dict[str, str] = {}
    for name, stated in options.get("headers", {}).items():
        found[name] = from_environment(stated, f"headers.{name}")
    return found


def secrets_in(headers: Mapping[str, str], options: Mapping[str, Any], url: str = "") -> list[str]:
    """Return the parts of the headers and the URL that must be masked: values from the environment, and those under the
    name of a secret, with and without a word such as Bearer before them."""
    stated = options.get("headers", {})
    secret = [
        value
        for name, value in headers.items()
        if str(stated.get(name, "env:")).startswith("env:") or _SECRET_HEADER.search(name)
    ]
    return [*(part for value in secret for part in (value, value.rpartition(" ")[2])), *secrets_in_url(url)]


def credentials_in(secrets: Iterable[str]) -> list[str]:
    """Return the secrets that are also masked in the server's responses: those that cannot occur in a text by chance.

    A key such as ``EMPTY`` or ``anything`` would garble the words of a language model.
    """
    return [secret for secret in secrets if is_distinctive(secret)]


def from_environment(stated: str, option: str) -> str:
    """Return the value itself or, for ``env:NAME``, the variable's value. Raises CallFailed (``unavailable``)."""
    if not stated.startswith("env:"):
        return stated
    value = os.environ.get(stated[4:], "").strip()
    if not value or not _HEADER_VALUE.fullmatch(value):
        raise CallFailed(
            Category.UNAVAILABLE, f"{option}: the variable {stated[4:]} is not set in the model's environment"
        )
    return value


def seconds_of(options: Mapping[str, Any], default: float) -> float:
    """Return the limit of one request, in seconds."""
    stated = options.get("timeout", default)
    return durations.parse(stated).total_seconds() if isinstance(stated, str) else float(stated)


def policy_of(options: Mapping[str, Any], reach: Sequence[str] | None = None) -> Policy:
    """Return which addresses may be connected to, within ``reach`` (see ``Spec``)."""
    stated = tuple(networks_of(options.get("networks", [])))
    return Policy(public=reach is not None, also=networks_of(list(reach or ())), networks=stated)


def check_server(
    runtime: str, options: Mapping[str, Any], address: str, allowed: Sequence[str]
) -> list[tuple[str, str]]:
    """Return the mistakes in the options that both runtimes have."""
    problems: list[tuple[str, str]] = []
    policy = None
    try:
        policy = policy_of(options)
    except ValueError as error:
        problems.append(("networks", str(error)))
    problem = check_url(options.get(address), policy)
    if problem is not None:
        problems.append((address, problem))
    try:
        if not 0 < seconds_of(options, 1.0) <= 24 * 3600:
            raise ValueError("must be more than 0 and at most 24 hours")
    except (ValueError, TypeError) as error:
        problems.append(("timeout", str(error)))
    problems += _check_headers(options.get("headers", {}))
    rate = options.get("requests_per_minute", 1)
    if not isinstance(rate, int) or isinstance(rate, bool) or not 1 <= rate <= _MAX_REQUESTS_PER_MINUTE:
        problems.append(("requests_per_minute", f"must be a whole number from 1 to {_MAX_REQUESTS_PER_MINUTE}"))
    return problems + unknown_options(runtime, options, allowed)


def _check_headers(headers: Any) -> list[tuple[str, str]]:
    if not isinstance(headers, Mapping):
        return [("headers", "must be a table of header names and values")]
    problems: list[tuple[str, str]] = []
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or name.lower() in _FIXED:
            problems.append((f"headers.{name[:50]}", "is not a header that may be set"))
        elif not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            problems.append((f"headers.{name}", "must be a text of visible ASCII characters"))
    return problems
