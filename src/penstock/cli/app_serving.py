"""``penstock app serve``: run the components of an app on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.app_packaging import AppName

if TYPE_CHECKING:
    from penstock.apps.serving.served import ServedApp
    from penstock.settings import Settings


def serve(
    app: AppName,
    component: Annotated[
        str, typer.Option(metavar="NAME", help="app-api, SERVICE-api, SERVICE-worker, or all of them.")
    ] = "all",
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve an app at the root of APP_API_PORT, and each of its services on the port of the service.

    Without --component all components run here, and without POSTGRES_HOST or DATABASE_URL PostgreSQL, too.

    penstock app serve audiocraft

    penstock app serve audiocraft --component audio-gen-worker
    """
    from penstock.apps.layout import APP_API, EVERY
    from penstock.apps.serving.served import ServedApp
    from penstock.cli.app_folders import folder_of, layout_of
    from penstock.errors import NotFound
    from penstock.processes.binding import bind_to_supervisor
    from penstock.settings.source import environment
    from penstock.suggestions import did_you_mean

    bind_to_supervisor()  # before anything slow
    folder = folder_of(app)
    served = ServedApp.of(layout_of(folder), folder, environment())
    names = [EVERY, *(one.name for one in served.layout.components)]
    if component not in names:
        raise NotFound(
            f"the app {served.layout.name} has no component {component!r}{did_you_mean(component, names)}; "
            f"it has {', '.join(names)}"
        )
    if component in {EVERY, APP_API} and part is None:
        _supervise(served, component)
    else:
        _run_process(served, component, part)


def _supervise(app: ServedApp, component: str) -> None:
    """Run the processes of the component of the app's API, or of all components."""
    import uvloop

    from penstock.apps.layout import APP_API
    from penstock.cli import roles
    from penstock.settings import load_settings
    from penstock.supervisor import app as supervisor
    from penstock.supervisor.serve import gateway_url
    from penstock.telemetry import logs

    settings = load_settings()
    settings = settings.replace(
        http_port=app.ports[APP_API],
        worker_http_port=0,
        **({} if "worker_http_host" in settings.stated else {"worker_http_host": settings.http_host}),
    )
    roles.configure_logs(settings, role="supervisor")
    roles.warn_of_misspelt_settings()
    where = {"url": gateway_url(settings), **{name: str(port) for name, port in app.ports.items()}}

    def ready() -> None:
        logs.get("penstock.app").info("ready", app=app.layout.name, component=component, **where)

    with roles.crashes_logged():
        uvloop.run(supervisor.serve(app, component, settings, on_ready=ready))


def _run_process(app: ServedApp, component: str, part: str | None) -> None:
    """Run the one process of a component, or one part of the app's API."""
    from penstock.cli import roles
    from penstock.supervisor.app import FLOWS

    settings = roles.begin(part or component)
    worker = part == FLOWS or component.endswith("-worker")
    (_run_worker if worker else _run_gateway)(app, component, settings)


def _run_gateway(app: ServedApp, component: str, settings: Settings) -> None:
    from penstock.apps.layout import APP_API
    from penstock.assembly import app as assembly
    from penstock.assembly import gateway
    from penstock.cli import roles

    kind = assembly.AppGatewayAssembly if component == APP_API else assembly.ServiceGatewayAssembly
    parts = kind(settings, app, component)
    parts.check()
    roles.run(settings, lambda: gateway.run(parts))


def _run_worker(app: ServedApp, component: str, settings: Settings) -> None:
    from penstock.apps.layout import APP_API
    from penstock.assembly import app as assembly
    from penstock.assembly import worker
    from penstock.cli import roles

    parts: worker.WorkerAssembly = (
        assembly.FlowWorkerAssembly(settings)
        if component == APP_API
        else assembly.ServiceWorkerAssembly(settings, app, component)
    )
    parts.check()
    roles.run(settings, lambda: worker.run(parts))
