"""``penstock serve``, and its roles as processes of their own: gateway, worker, housekeeper."""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from penstock.settings import Settings

_DATABASE_TIMEOUT: Final = timedelta(seconds=60)


def serve(
    dev: Annotated[bool, typer.Option("--dev", help="Reload models when their code changes.")] = False,
) -> None:
    """Run everything here: gateway, workers, housekeeper and, without DATABASE_URL, PostgreSQL itself."""
    import os

    import uvloop

    from penstock.settings import load_settings
    from penstock.settings.gateway import is_loopback
    from penstock.supervisor import serve as supervisor
    from penstock.supervisor.ports import settled
    from penstock.telemetry import logs

    if dev:
        os.environ.setdefault("PENSTOCK_MODELS_WATCH", "true")  # for the processes that are started
    settings = settled(load_settings())
    _check_profiles(settings)
    configure_logs(settings, role="supervisor")
    warn_of_misspelt_settings()
    url = supervisor.gateway_url(settings)
    where = {
        "url": url,
        "docs": f"{url}/docs",
        "access": "open, this machine only" if is_loopback(settings.http_host) and not settings.ai_service_token
        else "with AI_SERVICE_TOKEN",
        "database": str(settings.penstock_data_dir) if settings.database_url is None else "DATABASE_URL",
    }  # fmt: skip

    def ready() -> None:
        if _on_terminal(settings):
            lines = "".join(f"    {name:9} {value}\n" for name, value in where.items())
            print(f"\n  Penstock is ready.\n\n{lines}\n  Ctrl-C stops it.\n", flush=True)  # noqa: T201
        else:
            logs.get("penstock.serve").info("ready", **where)

    with crashes_logged():
        uvloop.run(supervisor.serve(settings, on_ready=ready))


def gateway() -> None:
    """Run one HTTP gateway."""
    settings = begin("gateway")
    from penstock.assembly import gateway as role

    parts = role.GatewayAssembly(settings)
    parts.check()
    run(settings, lambda: role.run(parts))


def worker() -> None:
    """Run one worker for the built-in executors."""
    settings = begin("worker")
    from penstock.assembly import worker as role

    parts = role.WorkerAssembly(settings)
    parts.check()
    run(settings, lambda: role.run(parts))


def housekeeper() -> None:
    """Run one housekeeper: rescue, promotion, roll-up, retention."""
    settings = begin("housekeeper")
    from penstock.assembly import housekeeper as role

    run(settings, lambda: role.run(role.HousekeeperAssembly(settings)))


def _check_profiles(settings: Settings) -> None:
    """Report mistakes in profiles.toml at once, without waiting for the database."""
    from penstock.providers.catalogue import load
    from penstock.settings import environment

    load(settings, environment())


def begin(role: str) -> Settings:
    """Prepare the process of any role: bind it to its supervisor, read the settings, set up the logs."""
    from penstock.processes.binding import bind_to_supervisor

    supervised = bind_to_supervisor()  # before anything slow
    for number in (signal.SIGTERM, signal.SIGINT):
        # For signals before there is anything to drain; the role's own handlers replace these.
        signal.signal(number, lambda *_: sys.exit(0))
    from penstock.processes import files
    from penstock.settings import load_settings
    from penstock.telemetry import logs

    settings = load_settings()
    configure_logs(settings, role=role)
    logs.get("penstock.process").info("open_files_limit", limit=files.raise_limit())
    if not supervised:
        warn_of_misspelt_settings()
    return settings


def run(settings: Settings, work: Callable[[], Awaitable[None]]) -> None:
    import uvloop

    from penstock.processes.binding import wait_for_supervisor

    wait_for_supervisor()
    with crashes_logged():
        uvloop.run(_prepared(settings, work))


@contextmanager
def crashes_logged() -> Iterator[None]:
    """Log an unexpected exception as every other event, with secrets masked, and end the process."""
    from penstock.errors import PenstockError
    from penstock.telemetry import logs

    try:
        yield
    except PenstockError:
        raise  # its message is for the user who started the process
    except Exception:  # noqa: BLE001  (the process's outermost edge)
        logs.get(__name__).exception("crashed")
        sys.exit(1)


async def _prepared(settings: Settings, work: Callable[[], Awaitable[None]]) -> None:
    from penstock.postgres.address import database_url
    from penstock.postgres.migrate import migrate

    if settings.migrate_on_start:
        await migrate(database_url(settings), timeout=_DATABASE_TIMEOUT)
    await work()


def configure_logs(settings: Settings, *, role: str) -> None:
    from penstock.telemetry import logs

    logs.configure(
        level=settings.penstock_log_level, form=settings.penstock_log_format, secrets=settings.secret_values()
    )
    logs.bind(role=role)


def warn_of_misspelt_settings() -> None:
    from penstock.settings import misspelt
    from penstock.telemetry import logs

    for name, meant in misspelt().items():
        logs.get(__name__).warning("setting_not_known", name=name, meant=meant)


def _on_terminal(settings: Settings) -> bool:
    return settings.penstock_log_format == "console" or (settings.penstock_log_format == "auto" and sys.stdout.isatty())
