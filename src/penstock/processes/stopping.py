"""Signals that stop a process."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

USUAL: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_signals(call: Callable[[], None], *more: signal.Signals) -> Iterator[None]:
    """Call ``call`` on the running event loop for SIGTERM, SIGINT and the signals ``more`` while the block runs.

    Outside the main thread this does nothing, because the program itself handles signals there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    numbers = (*USUAL, *more)
    for number in numbers:
        loop.add_signal_handler(number, call)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
