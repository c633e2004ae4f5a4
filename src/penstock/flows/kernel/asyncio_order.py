"""Make those parts of asyncio deterministic that the loop does not control."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from penstock.flows.kernel.loop import FlowLoop

_original = asyncio.as_completed


def install() -> None:
    """Replace ``asyncio.as_completed``, which starts coroutines in the order of their addresses. On other loops the
    original runs."""
    asyncio.as_completed = _as_completed


def _as_completed(fs: Iterable[Any], *, timeout: float | None = None) -> Any:
    if isinstance(asyncio.get_running_loop(), FlowLoop) and not asyncio.isfuture(fs) and not asyncio.iscoroutine(fs):
        fs = [asyncio.ensure_future(one) for one in dict.fromkeys(fs)]  # in the order given
    return _original(fs, timeout=timeout)
