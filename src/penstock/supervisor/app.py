"""``penstock app serve``: the components of an app on one machine, each process under one supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from penstock.apps.layout import APP_API, EVERY
from penstock.apps.serving.served import ServedApp
from penstock.settings import Settings
from penstock.supervisor.child import Child
from penstock.supervisor.ports import Listening
from penstock.supervisor.serve import COMMAND, Supervisor, gateway_url, handing_on, shared_variables, supervise

# The parts of the component app-api, beside a housekeeper.
GATEWAY: Final = "gateway"
FLOWS: Final = "flows"


async def serve(app: ServedApp, component: str, settings: Settings, *, on_ready: Callable[[], None]) -> None:
    """Run the component of the app's API, or all components, until SIGTERM, SIGINT or SIGHUP."""

    def family(settings: Settings, url: str, database_ready: asyncio.Event) -> list[Child]:
        return children(app, component, settings, url, database_ready=database_ready)

    await supervise(Supervisor(settings, family=family, ports=ports(app, component, settings), on_ready=on_ready))


def ports(app: ServedApp, component: str, settings: Settings) -> list[Listening]:
    """Return the addresses that the processes of a component listen on."""
    return [
        Listening(variable=one.port_variable, host=settings.http_host, port=app.ports[one.name])
        for one in app.layout.components
        if one.port_variable is not None and component in {EVERY, one.name}
    ]


def children(
    app: ServedApp, component: str, settings: Settings, url: str, *, database_ready: asyncio.Event
) -> list[Child]:
    """Return the processes of a component, or of all, on the database at ``url``."""
    shared = shared_variables(settings, url)
    if "penstock_url" not in settings.stated:  # files in results are read there
        shared["PENSTOCK_URL"] = gateway_url(settings)
    command = [*COMMAND, "app", "serve", app.layout.name, "--component"]

    def worker(name: str, arguments: Sequence[str]) -> Child:
        worker_id = f"{settings.worker_id}-{name}"
        own = {"WORKER_ID": worker_id, "WORKER_HTTP_HOST": settings.worker_http_host, "WORKER_HTTP_PORT": "0"}
        hand_on = handing_on(settings, url, worker_id)
        return Child(name, [*command, *arguments], shared | own, needs=database_ready, before_release=hand_on)

    found = [
        Child(APP_API, [*command, APP_API, "--part", GATEWAY], shared, needs=database_ready),
        Child("housekeeper", [*COMMAND, "housekeeper"], shared, needs=database_ready),
        worker(FLOWS, [APP_API, "--part", FLOWS]),
    ]
    if component == EVERY:
        for one in app.layout.components:
            if one.is_worker:
                found.append(worker(one.name, [one.name]))
            elif not one.is_app:
                found.append(Child(one.name, [*command, one.name], shared, needs=database_ready))
    return found
