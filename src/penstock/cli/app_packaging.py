"""``penstock app build`` and ``penstock app push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AppName = Annotated[str, typer.Argument(metavar="APP", help="The app's name in PENSTOCK_APPS_DIR, or its folder.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="The folder of the files; by default build/APP.")
]


def build(
    app: AppName,
    output: Output = None,
    registry: Annotated[str | None, typer.Option(help="The registry of the images.")] = None,
    repository: Annotated[str | None, typer.Option(help="The repository of the images.")] = None,
) -> None:
    """Write the files that deploy an app: Dockerfiles, docker-compose.yml, .env and a build script.

    An existing .env or version.json is kept; the command prints where it names other images than this build.

    penstock app build audiocraft --registry 123456789012.dkr.ecr.eu-west-1.amazonaws.com --repository audiocraft
    """
    from penstock.apps.packaging.kept import outdated
    from penstock.apps.packaging.writing import write
    from penstock.cli.app_folders import folder_of, layout_of

    folder = folder_of(app)
    layout = layout_of(folder)
    target = output or Path("build") / layout.name
    for path in write(layout, folder, target, registry=registry, repository=repository):
        typer.echo(f"wrote {path}")
    for message in outdated(target, layout, registry=registry, repository=repository):
        typer.echo(message, err=True)
    typer.echo(f"Next: {target / 'scripts' / 'build_dockerfile.sh'}, then penstock app push {app}")


def push(app: AppName, output: Output = None) -> None:
    """Log in to the registry of an app's images, and push them.

    ECR needs the programs docker and aws; any other registry a docker that is logged in to it.

    penstock app push audiocraft
    """
    from penstock.apps.packaging.pushing import push as push_images
    from penstock.cli.app_folders import folder_of, layout_of
    from penstock.settings.source import environment

    target = output or Path("build") / layout_of(folder_of(app)).name
    for image in push_images(target, environment=environment(), report=typer.echo):
        typer.echo(f"pushed {image}")
