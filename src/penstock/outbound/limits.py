"""Learn a server's rate limit from its responses. Pure; the caller passes the time in seconds."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from penstock.outbound.refusals import stated_wait

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MINUTE: Final = 60.0
_REMAINING: Final = (  # a response without any of these headers states no limit
    "x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens", "x-ratelimit-remaining", "ratelimit-remaining",
)  # fmt: skip
_EPOCH: Final = 1e8  # seconds; a larger "reset" is a point in time, not a wait
_FIRST_PAUSE: Final = 1.0  # after a refusal that names no wait; doubles with each one that follows
_MAX_PAUSE: Final = 60.0
MAX_STATED: Final = 3600.0  # seconds; after that, one call tries whether the limit still holds
_MIN_STATED: Final = 1.0  # a shorter wait, or a past time, counts as no wait: servers round, and clocks differ


class RateLimit:
    """The known part of a server's rate limit.

    It is learned from responses: ``x-ratelimit-remaining-requests`` with its limit and reset, which show how fast
    requests are given back; the same for tokens; ``x-ratelimit-remaining`` or ``ratelimit-remaining`` with a reset,
    at which a window ends; and refusals (429), with or without ``Retry-After``. ``per_minute`` is known beforehand: at
    most that many calls begin within any minute.
    """

    def __init__(self, per_minute: int | None = None) -> None:
        self._begun: deque[float] | None = None if per_minute is None else deque(maxlen=per_minute)
        self.remaining: int | None = None  # requests that may begin before ``renewed_at``; None: not known
        self.renewed_at = 0.0
        self._interval: float | None = None  # seconds until one request is given back, if known
        self.paused_until = 0.0
        self._refusals = 0  # consecutive refusals without a stated wait

    def wait(self, now: float) -> float:
        """Return the seconds until the next call may begin."""
        wait = self.paused_until - now
        if self.remaining is not None and self.remaining <= 0:
            wait = max(wait, self.renewed_at - now)
        if self._begun is not None and len(self._begun) == self._begun.maxlen:
            wait = max(wait, self._begun[0] + _MINUTE - now)
        return max(wait, 0.0)

    def begin(self, now: float) -> None:
        """Count a call that begins."""
        if self._begun is not None:
            self._begun.append(now)
        if self.remaining is None:
            return
        if now < self.renewed_at:
            self.remaining -= 1
        elif self._interval:
            self.remaining, self.renewed_at = 0, now + self._interval  # this call uses the request that was given back
        else:
            self.remaining = None

    def observe(self, status: int, headers: Mapping[str, str], now: float) -> None:
        """Update the limits from the head of a response."""
        if status != 429:
            self._refusals = 0
        refused = status in {429, 503}
        if not refused and not any(name in headers for name in _REMAINING):
            self._interval = None  # most responses have no such headers
            return
        waits = [self._requests(headers, now), _tokens(headers)]
        if refused:
            stated = stated_wait(headers, now=datetime.now(UTC))
            if stated is not None:
                waits.append(self._refused(max(*waits, stated.total_seconds())))
            elif status == 429:
                waits.append(self._refused(max(*waits, _reset_of_refusal(headers))))
        self.paused_until = max(self.paused_until, now + min(max(waits), MAX_STATED))

    def _requests(self, headers: Mapping[str, str], now: float) -> float:
        """Note how many requests remain; return the seconds to wait for that reason."""
        remaining = _number(headers.get("x-ratelimit-remaining-requests"))
        if remaining is not None:
            limit = _number(headers.get("x-ratelimit-limit-requests"))
            reset = _seconds(headers.get("x-ratelimit-reset-requests"))
            # The reset states when the limit is full again. It fills evenly, so the next request may begin sooner.
            wait = reset / max(limit - remaining, 1) if limit else reset
            self._interval = wait if limit else None
        else:
            name = "x-ratelimit-" if "x-ratelimit-remaining" in headers else "ratelimit-"
            remaining = _number(headers.get(f"{name}remaining"))
            wait = _seconds(headers.get(f"{name}reset"))
            self._interval = None
        if remaining is None:
            return 0.0
        self.remaining = int(remaining)
        self.renewed_at = now + min(wait, MAX_STATED)
        return wait if remaining <= 0 else 0.0

    def _refused(self, stated: float) -> float:
        """Return the seconds to wait after a refusal whose headers state ``stated`` seconds."""
        if stated >= _MIN_STATED:
            return stated
        self._refusals += 1
        return min(_FIRST_PAUSE * 2.0 ** min(self._refusals - 1, 16), _MAX_PAUSE)


def _tokens(headers: Mapping[str, str]) -> float:
    """Return the seconds to wait because the token limit is used up."""
    remaining = _number(headers.get("x-ratelimit-remaining-tokens"))
    if remaining is None or remaining > 0:
        return 0.0
    return _seconds(headers.get("x-ratelimit-reset-tokens"))


def _reset_of_refusal(headers: Mapping[str, str]) -> float:
    """Return the seconds until the limit behind a refusal without Retry-After is renewed; 0 if it is not stated.

    The limit of requests caused the refusal if none remains or none is counted; if requests remain, too few tokens did.
    A limit that fills evenly may allow a call sooner, but a server that refused evidently counts differently, so the
    caller waits for the whole reset.
    """
    requests, tokens = (_number(headers.get(f"x-ratelimit-remaining-{kind}")) for kind in ("requests", "tokens"))
    waits = [0.0]
    if not requests:
        plain = "x-ratelimit-reset" if "x-ratelimit-reset" in headers else "ratelimit-reset"
        waits += [_seconds(headers.get("x-ratelimit-reset-requests")), _seconds(headers.get(plain))]
    if requests or not tokens:
        waits.append(_seconds(headers.get("x-ratelimit-reset-tokens")))
    return max(waits)


def _number(text: str | None) -> float | None:
    """Return a count in a header; None when it is absent or unreadable."""
    return float(text) if text is not None and re.fullmatch(r"\s*\d{1,15}\s*", text) else None


def _seconds(text: str | None) -> float:
    """Return a wait in a header, in seconds: it may be ``12.5``, ``6m0s``, ``12ms``, or a time in seconds since 1970; 0
    when it is unreadable."""
    if text is None:
        return 0.0
    text = text.strip()
    if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", text):
        value = float(text)
        return max(value - datetime.now(UTC).timestamp(), 0.0) if value > _EPOCH else value
    if re.fullmatch(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ms|h|m|s)){1,4}", text):
        return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))
    return 0.0
