"""Check apps without a gateway: ``penstock app check``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from penstock.apps.catalogue import AppProblem
from penstock.apps.folder import App, AppsFolder
from penstock.apps.manifest import FILE_NAME
from penstock.flows.process.flow_process import FlowProcess
from penstock.flows.program.folders import FlowFolders
from penstock.models.folder import ManifestFiles, ModelsFolder
from penstock.settings import Settings
from penstock.suggestions import did_you_mean


async def check(root: Path, only: str | None = None) -> tuple[list[str], list[AppProblem]]:
    """Load the apps in a folder as a worker does, or ``only`` that of one subfolder. Return their names, and every
    mistake in their files."""
    folder = AppsFolder(root)
    models = ModelsFolder(ManifestFiles.of_apps(root, folder.variables))
    models.scan()
    private = frozenset(Settings.descriptions())
    process = FlowProcess(FlowFolders(apps=root), ours=os.environ, private=private, defaults=folder.variables)
    await process.start()
    try:
        apps = [app for app in folder.apps.values() if only is None or app.folder.name == only]
        found = [problem for app in apps for problem in _of_app(app, process, models)]
    finally:
        await process.stop()
    loaders = {**process.problems, **models.problems}
    files = [AppProblem(file=file, detail=detail) for file, detail in sorted(loaders.items())]
    own = [problem for problem in files if only is None or problem.file.startswith(f"{only}/")]
    return [app.name for app in apps], [*found, *own]


def _of_app(app: App, process: FlowProcess, models: ModelsFolder) -> Iterator[AppProblem]:
    """Yield the mistakes in an app's manifest: its own, and names of flows and models that there are not."""
    file = f"{app.folder.name}/{FILE_NAME}"
    for problem in app.problems:
        yield AppProblem(file=file, key=problem.field, detail=problem.detail)
    if app.problems or app.manifest is None:
        return
    manifest = app.manifest
    flows = [(name, version) for name, version in process.flows if name == manifest.flow_name]
    if not flows or (manifest.flow_version is not None and (manifest.flow_name, manifest.flow_version) not in flows):
        known = [f"{name}@{version}" for name, version in process.flows]
        wanted = manifest.flow or manifest.name
        detail = f"names the flow {wanted}, which no file has{did_you_mean(wanted, known) or _listed(known)}"
        yield AppProblem(file=file, key="flow", detail=detail)
    names = [model.name for model in models.models.values()]
    for index, service in enumerate(manifest.services):
        if service.model not in names:
            detail = f"names the model {service.model}, which no app has{did_you_mean(service.model, names)}"
            yield AppProblem(file=file, key=f"services[{index}].model", detail=detail)


def _listed(known: Sequence[str]) -> str:
    return f"; there are: {', '.join(known[:20])}" if known else ""
