"""Find an app by the name or path that a command states."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import NotFound

if TYPE_CHECKING:
    from penstock.apps.layout import Layout


def folder_of(stated: str) -> Path:
    """Return the folder of an app: a path, or a name in PENSTOCK_APPS_DIR. Raises NotFound and BrokenApp.

    A path also becomes the folder of apps of this process and of those that it starts.
    """
    from penstock.apps.folder import AppsFolder
    from penstock.apps.manifest import FILE_NAME
    from penstock.settings import load_settings
    from penstock.suggestions import did_you_mean

    path = Path(stated)
    if (path / FILE_NAME).is_file() and ("/" in stated or stated in {".", ".."}):
        os.environ["PENSTOCK_APPS_DIR"] = str(path.resolve().parent)
        return path.resolve()
    root = load_settings().penstock_apps_dir
    if root is None:
        raise NotFound(f"there is no app in {path / FILE_NAME}; name its folder, or set PENSTOCK_APPS_DIR")
    folder = AppsFolder(root)
    folder.scan()
    if stated not in folder.apps:
        raise NotFound(f"there is no app {stated!r} in {root}{did_you_mean(stated, folder.apps)}")
    return folder.apps[stated].folder


def layout_of(folder: Path) -> Layout:
    """Return the layout of the app in a folder. Raises BrokenApp with every mistake."""
    from penstock.apps import manifest
    from penstock.apps.layout import Layout

    return Layout.of(manifest.read(folder / manifest.FILE_NAME), folder)
