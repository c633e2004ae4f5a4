"""Settings of workers, and of the processes that ``penstock serve`` starts."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from penstock.settings.kinds import DAY, MILLISECOND, SECOND, duration, integer, port, short_text, text
from penstock.settings.variable import Known, Relation, setting

_HOUR: Final = timedelta(hours=1)


def _host_name(_known: Known) -> str:
    """the host's name"""
    return socket.gethostname()


@dataclass(frozen=True, kw_only=True, repr=False)
class WorkerSettings:
    """Workers."""

    worker_id: str = setting(
        short_text(200),
        derived=_host_name,
        meaning="name of this worker; under serve, several workers get -1, -2, … appended",
    )
    worker_http_host: str = setting(
        text,
        "0.0.0.0",  # noqa: S104
        "address of a worker's health endpoints; under serve, by default the gateway's",
    )
    worker_http_port: int = setting(
        port, 8081, "port of a worker's health endpoints; 0 chooses a free one; under serve, the first worker's"
    )
    worker_poll_interval: timedelta = setting(
        duration(10 * MILLISECOND, _HOUR), timedelta(seconds=2), "longest interval between polls for jobs"
    )
    worker_claim_limit: int = setting(integer(1, 10_000), 4, "jobs that one worker runs at a time, over all its queues")
    worker_lease_timeout: timedelta = setting(
        duration(SECOND, DAY), timedelta(minutes=15), "a worker that sends no heartbeats loses its jobs after this time"
    )
    penstock_shutdown_grace: timedelta = setting(
        duration(timedelta(0), _HOUR), timedelta(seconds=30), "on SIGTERM, time to finish or hand back running jobs"
    )
    penstock_workers: int = setting(integer(0, 256), 1, "worker processes that penstock serve starts")


def _ports_for_all(workers: int, first: int, gateway: int) -> str | None:
    if first and (first + workers - 1 > 65_535 or (gateway and first < gateway < first + workers)):
        return "each worker takes the next port, beginning here: there must be enough, and none may be HTTP_PORT"
    return None


RELATIONS: Final = (
    Relation(
        blames="worker_http_port",
        over=("worker_http_port", "http_port"),
        problem=lambda worker, gateway: "must differ from HTTP_PORT" if worker and worker == gateway else None,
    ),
    Relation(
        blames="penstock_workers", over=("penstock_workers", "worker_http_port", "http_port"), problem=_ports_for_all
    ),
)
