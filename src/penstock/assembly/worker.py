"""The assembly of a worker."""

from __future__ import annotations

from penstock.assembly.shared import Shared
from penstock.settings import Settings
from penstock.workers import process


class WorkerAssembly(Shared):
    """The parts of a worker."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, role="worker")

    @property
    def needs(self) -> process.Needs:
        hosts = self.settings.penstock_models_url is None and self.settings.penstock_models_dir is not None
        return process.Needs(
            database=self.database,
            jobs=self.jobs,
            blobs=self.blobs,
            catalogue=self.catalogue,
            models=self.models if hosts else None,
            load_upload=self.load_upload,
        )


async def run(parts: WorkerAssembly) -> None:
    """The process ``penstock worker``."""
    try:
        await process.run(parts.settings, parts.needs)
    finally:
        await parts.close()
