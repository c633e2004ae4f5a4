"""Replay stored runs with the code of this machine: ``penstock flow check`` and ``penstock flow move``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
import typer

from penstock.cli.output import print_json, print_table, wants_json
from penstock.client import Client
from penstock.errors import PenstockError
from penstock.flows.process.errors import NoTurn
from penstock.flows.process.flow_process import FlowProcess
from penstock.flows.program.folders import FlowFolders
from penstock.flows.views import StoredHistory
from penstock.settings import Settings, load_settings
from penstock.telemetry import logs

_history: Final = msgspec.json.Decoder(StoredHistory)


class Checked(msgspec.Struct, kw_only=True):
    """The result of replaying a run. Without a problem, the code repeats the run."""

    run: UUID
    flow: str
    problem: str = ""
    changed_inputs: list[str] = []  # steps whose input has changed; their stored results are used


def folder_of(stated: Path | None) -> Path:
    """Return the folder of the flows."""
    folder = stated or load_settings().penstock_flows_dir
    if folder is None or not folder.is_dir():
        raise typer.BadParameter("name the folder of the flows, or set PENSTOCK_FLOWS_DIR", param_hint="--folder")
    return folder


async def check(client: Client, runs: Sequence[UUID], folder: Path, *, version: str | None) -> list[Checked]:
    """Replay runs with the flows in a folder; with ``version``, with the code of that one."""
    logs.configure(level="error", stream=sys.stderr)
    process = FlowProcess(FlowFolders.of(folder), ours=os.environ, private=frozenset(Settings.descriptions()))
    await process.start()
    try:
        for file, problem in process.problems.items():
            typer.echo(f"penstock: {file}: {problem}", err=True)
        return [await _check(client, run, process, version) for run in runs]
    finally:
        await process.stop()


async def _check(client: Client, run: UUID, process: FlowProcess, version: str | None) -> Checked:
    try:
        stored = _history.decode(await client.run_history(run))
    except PenstockError as error:
        return Checked(run=run, flow="", problem=error.message)
    history = stored.history
    if version is not None:
        history = msgspec.structs.replace(history, version=version)
    flow = f"{history.flow}@{history.version}"
    try:
        replayed = await process.check(history, ended=stored.ended)
    except NoTurn as error:
        return Checked(run=run, flow=flow, problem=error.message)
    problem = "" if replayed.held is None else f"{replayed.held.reason}: {replayed.held.message}"
    return Checked(run=run, flow=flow, problem=problem, changed_inputs=replayed.changed_inputs)


def show(checked: Sequence[Checked], *, as_json: bool) -> None:
    """Print the results."""
    if wants_json(as_json):
        print_json(msgspec.to_builtins(list(checked)))
        return
    print_table(("run", "flow", "result"), ((one.run, one.flow, _result(one)) for one in checked))


def _result(checked: Checked) -> str:
    if checked.problem:
        return checked.problem
    changed = f"; changed inputs: {', '.join(checked.changed_inputs)}" if checked.changed_inputs else ""
    return f"repeats{changed}"
