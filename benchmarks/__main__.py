"""``python -m benchmarks [SCENARIO …] [--json FILE]``: run scenarios (all of them by default) and print a table."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import uvloop

from benchmarks import burndown, claims, create, footprint, latency
from benchmarks.figures import Figure, show
from penstock.postgres.embedded import EmbeddedServer
from penstock.telemetry import logs

SCENARIOS = {
    "create": create.run,
    "burndown": burndown.run,
    "latency": latency.run,
    "claims": claims.run,
    "footprint": footprint.run,
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
    arguments = parser.parse_args()
    logs.configure(level="warning", form="console")
    figures = uvloop.run(measure(arguments.scenario or list(SCENARIOS)))
    show(figures, json_path=arguments.json)


if __name__ == "__main__":
    main()
