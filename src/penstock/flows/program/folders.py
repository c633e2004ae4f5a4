"""The folders that hold flow code: one of files, and one of apps, each with files of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

APP_FILE: Final = "app.toml"  # a folder with this file is an app
MODELS: Final = "models"  # the folder of an app's models, which holds no flow code
_CODE: Final = frozenset({".py", ".so"})
_MAX_FILES: Final = 1000  # of each folder


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowFolders:
    """``flows`` holds files of flows; each folder in ``apps`` that has an ``app.toml`` does so, too."""

    flows: Path | None = None
    apps: Path | None = None

    @classmethod
    def of(cls, folder: Path) -> FlowFolders:
        """Return a folder of flows without apps."""
        return cls(flows=folder.absolute())

    def arguments(self) -> tuple[str, str]:
        """Return the folders as arguments of a command; an empty one stands for none."""
        return str(self.flows or ""), str(self.apps or "")

    @property
    def roots(self) -> list[Path]:
        return [folder for folder in (self.flows, self.apps) if folder is not None]

    def app_folders(self) -> list[Path]:
        """Return the folders of apps, in order."""
        if self.apps is None or not self.apps.is_dir():
            return []
        return sorted(path.parent for path in self.apps.glob(f"*/{APP_FILE}") if path.parent.name[0] not in "._")

    def files(self) -> Iterator[Path]:
        """Yield the files that are loaded: modules and packages that others do not only import."""
        if self.flows is not None:
            yield from _files(self.flows)
        for app in self.app_folders():
            yield from (
                path for path in _files(app) if path.parent not in {app / MODELS, app} or path.stem != "__init__"
            )

    def label(self, path: Path) -> str:
        """Return the name of a file in messages: its path below ``flows`` or ``apps``."""
        root = next((root for root in self.roots if path.is_relative_to(root)), None)
        return str(path if root is None else path.relative_to(root))

    def home(self, path: Path) -> Path | None:
        """Return the folder that a file is loaded from: that of the flows, or that of an app."""
        if self.apps is not None and path.is_relative_to(self.apps) and path != self.apps:
            return self.apps / path.relative_to(self.apps).parts[0]
        return self.flows if self.flows is not None and path.is_relative_to(self.flows) else None

    def unit(self, path: Path) -> Path:
        """Return the module or package of a folder that a file is a part of."""
        home = self.home(path)
        return path if home is None or path == home else home / path.relative_to(home).parts[0]

    def concern(self, changed: Path) -> bool:
        """Return whether a change of this file may change the flows."""
        home = self.home(changed)
        if home is None or "__pycache__" in changed.parts:
            return False
        if home == self.flows:
            return changed.suffix in _CODE
        return changed == home / APP_FILE or (changed.suffix in _CODE and not changed.is_relative_to(home / MODELS))


def module_name(path: Path) -> str:
    """Return the name under which a module or package is imported."""
    return path.parent.name if path.name == "__init__.py" else path.stem


def _files(folder: Path) -> list[Path]:
    found = [*folder.glob("*.py"), *folder.glob("*/__init__.py")] if folder.is_dir() else []
    return sorted(path for path in found if not module_name(path).startswith(("_", ".", "test_")))[:_MAX_FILES]
