"""The process of a replica: describes its model, loads it, runs calls until the host sends no more."""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Never

import msgspec

from penstock.failures import CallFailed, Category
from penstock.models.replica import frames, output, runtimes
from penstock.models.replica.asynchronous import AsyncReplica
from penstock.models.replica.blocking import BlockingReplica
from penstock.models.replica.call_files import CallFiles
from penstock.models.replica.errors import failure, traceback_of
from penstock.models.replica.runtime import AsyncRuntime, BlockingRuntime, Runtime, Schema, Spec
from penstock.models.replica.wire import Control

BROKEN_STATUS = 71  # the model could not be described or loaded; the reason was reported to the host


def run(data_fd: int, control_fd: int, arena_fd: int) -> None:
    """Run as a replica until the host has gone or sends no more calls."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on the host's terminal is for the host
    faulthandler.enable()  # a crash in native code logs where it happened
    for descriptor in (data_fd, control_fd, *([arena_fd] if arena_fd >= 0 else [])):
        os.set_inheritable(descriptor, False)  # programs that the model starts must not inherit it
    data, control = socket.socket(fileno=data_fd), Control(socket.socket(fileno=control_fd), _before_calls)
    try:
        setup = msgspec.json.decode(control.first().body, type=frames.Setup)
    except EOFError:
        return
    files = CallFiles(setup.files)
    try:
        runtime = runtimes.find(setup.runtime).create(_spec(setup, files))
        schema = runtime.describe()
    except BaseException as error:  # noqa: BLE001 - foreign code; whatever it raises is reported to the host
        _give_up(control, error)
    control.send(frames.encode(frames.HELLO, 0, None, msgspec.json.encode(schema)))
    if setup.describe_only:
        return
    arena = _arena(arena_fd, setup.arena_bytes)
    match runtime:
        case BlockingRuntime():
            blocking = BlockingReplica(runtime, data, control, threads=setup.concurrency, files=files, arena=arena)
            blocking.run(_give_up)
        case AsyncRuntime():
            AsyncReplica(runtime, data, control, files=files, arena=arena).run(_give_up)
        case _:
            _give_up(control, _no_runtime(runtime))
    output.flush()
    if runtime.leaves_threads:
        os._exit(0)


def _arena(fd: int, size: int) -> memoryview | None:
    """Map the memory of inputs that the host shares; None where it shares none."""
    if not size:
        return None
    memory = memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_READ))
    os.close(fd)
    return memory


def _spec(setup: frames.Setup, files: CallFiles) -> Spec:
    return Spec(
        name=setup.name,
        version=setup.version,
        folder=Path(setup.folder),
        options=setup.options,
        schema=msgspec.convert(setup.schema, Schema),
        device=setup.device,
        concurrency=setup.concurrency,
        timeout=setup.timeout,
        reach=setup.reach,
        files=files,
    )


def _before_calls(_frame: frames.Frame) -> None:
    """Ignore a control frame, because there is no call yet."""


def _no_runtime(runtime: Runtime) -> CallFailed:
    return CallFailed(
        Category.UNAVAILABLE, f"{type(runtime).__name__} is neither a BlockingRuntime nor an AsyncRuntime"
    )


def _give_up(control: Control, error: BaseException) -> Never:
    """Report why the replica cannot start, and exit at once: threads of a half-loaded model may keep running."""
    if not isinstance(error, CallFailed):
        print(*traceback_of(error), sep="\n", file=sys.__stderr__)
    control.send(failure(0, error, kind=frames.BROKEN))
    if sys.__stderr__ is not None:
        sys.__stderr__.flush()
    os._exit(BROKEN_STATUS)
