"""``python -m benchmarks [SCENARIO …] [--json FILE]``: run scenarios (all of them by default) and print a table."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import uvloop

from benchmarks import (
    access,
    apps,
    athena_calls,
    athena_rpc,
    athena_streams,
    burndown,
    callbacks,
    claims,
    collections,
    create,
    events,
    files,
    flow_replay,
    flows,
    footprint,
    latency,
    model_sessions,
    providers,
    slow_clients,
    tenants,
    usage,
)
from benchmarks.figures import Figure, show, write_document
from benchmarks.queues import run as queues
from benchmarks.serving import run as serving
from penstock.postgres.embedded import EmbeddedServer
from penstock.telemetry import logs

SCENARIOS = {
    "create": create.run,
    "burndown": burndown.run,
    "latency": latency.run,
    "events": events.run,
    "claims": claims.run,
    "tenants": tenants.run,
    "access": access.run,
    "footprint": footprint.run,
    "files": files.run,
    "queues": queues.run,
    "serving": serving.run,
    "model_sessions": model_sessions.run,
    "providers": providers.run,
    "slow_clients": slow_clients.run,
    "usage": usage.run,
    "callbacks": callbacks.run,
    "collections": collections.run,
    "flow_replay": flow_replay.run_scenario,
    "flows": flows.run,
    "apps": apps.run,
    "athena_calls": athena_calls.run,
    "athena_rpc": athena_rpc.run,
    "athena_streams": athena_streams.run,
}


async def measure(names: list[str]) -> list[Figure]:
    """Run the scenarios one after the other on one private server."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        Path(folder).chmod(0o711)
        server = EmbeddedServer(Path(folder) / "data")
        await server.start()
        figures = []
        try:
            for name in names:
                print(f"{name} …", flush=True)
                figures += await SCENARIOS[name](server)
        finally:
            await server.stop()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="*", choices=[*SCENARIOS, []], help="default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--document", type=Path, metavar="FILE", help="write the table into this document")
    parser.add_argument("--figures", type=Path, metavar="FILE", help="measure nothing; show what --json wrote")
    arguments = parser.parse_args()
    logs.configure(level="warning", form="console")
    if arguments.figures is not None:
        figures = [Figure(**one) for one in json.loads(arguments.figures.read_text())["figures"]]
    else:
        figures = uvloop.run(measure(arguments.scenario or list(SCENARIOS)))
    show(figures, json_path=arguments.json)
    if arguments.document is not None:
        write_document(figures, arguments.document)


if __name__ == "__main__":
    main()
