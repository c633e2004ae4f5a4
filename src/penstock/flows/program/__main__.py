"""Run flow code: ``python -m penstock.flows.program SOCKET_FD STACK_FD UNSENT_FD VARIABLES_FD FLOWS APPS [SKIPPED…]``.

FLOWS and APPS are folders, empty if there is none, and SKIPPED are files in them that are not loaded. VARIABLES_FD is a
file with the variables of apps, as JSON.

One thread executes the requests that come over the socket, in order. SIGUSR1 writes its stack to STACK_FD, at any
time. UNSENT_FD is memory for a turn that is not sent yet. The program ends when the socket is closed.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from penstock.flows.kernel import asyncio_order
from penstock.flows.program import frames, hooks, loading
from penstock.flows.program.effects_thread import EffectsThread
from penstock.flows.program.folders import FlowFolders
from penstock.flows.program.runs import Runs
from penstock.flows.program.unsent import Unsent
from penstock.processes.garbage import collect_rarely

_READ_BYTES: Final = 2**18
_NEW_CONTAINERS: Final = 100_000  # before a collection of garbage: ``Runs`` makes others, by the number of runs


def main(folders: FlowFolders, socket_fd: int, stack_fd: int, unsent_fd: int, variables_fd: int, *skipped: str) -> None:
    """Load the folders and execute requests until the socket is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on the service's terminal is for the service
    for descriptor in (socket_fd, stack_fd):
        os.set_inheritable(descriptor, False)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, file=stack_fd, all_threads=False)
    connection = socket.socket(fileno=socket_fd)
    unsent = Unsent(unsent_fd)
    kept = b""

    def send(report: frames.Report | bytes) -> None:
        # Without delay: the service assumes that the oldest request without a report is on the CPU.
        nonlocal kept
        connection.sendall(report if isinstance(report, bytes) else frames.encode(report))
        if kept:
            kept = b""
            unsent.clear()

    def keep(report: frames.Report) -> bytes:
        nonlocal kept
        frame = frames.encode(report)
        if unsent.put(frame[frames.LENGTH_BYTES :]):
            kept = frame
        return kept

    asyncio_order.install()
    hooks.install()
    with open(variables_fd, "rb") as file:  # closes the descriptor
        variables = msgspec.json.decode(file.read(), type=dict[str, dict[str, str]])
    loaded = loading.load(
        folders, skipped=skipped, loading=lambda file: send(frames.Loading(file)), variables=variables
    )
    described = [flow.context.copy().run(flow.describe) for flow in loaded.flows.values()]
    send(frames.Ready(described, loaded.problems))
    collect_rarely(_NEW_CONTAINERS)
    effects = EffectsThread()
    _serve(connection, Runs(loaded.flows, effects, send, keep), effects)


def _serve(connection: socket.socket, runs: Runs, effects: EffectsThread) -> None:
    decoder: frames.Decoder[frames.Request] = frames.Decoder(frames.Request)  # type: ignore[arg-type]  # a union
    poller = select.poll()
    for readable in (connection, effects.woken):
        poller.register(readable, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        if effects.woken.fileno() in ready:
            for request, outcomes in effects.taken():
                runs.finish(request, outcomes)
        if connection.fileno() in ready:
            data = connection.recv(_READ_BYTES)
            if not data:
                return
            for payload in decoder.payloads(data):
                try:
                    frame = decoder.decode(payload)
                except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                    if (refused := frames.unreadable(payload, error)) is None:
                        raise
                    runs.send(refused)
                    continue
                runs.execute(frame)


if __name__ == "__main__":
    with suppress(BrokenPipeError, ConnectionResetError):  # the service has gone
        flows, apps = (Path(path) if path else None for path in sys.argv[5:7])
        descriptors = map(int, sys.argv[1:5])
        main(FlowFolders(flows=flows, apps=apps), *descriptors, *sys.argv[7:])  # type: ignore[arg-type]
    sys.stdout.flush()
    os._exit(0)  # threads of side effects may still run
