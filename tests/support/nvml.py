"""A fake NVIDIA management library."""

from __future__ import annotations

import subprocess
from pathlib import Path


def build_nvml(folder: Path) -> Path:
    """Compile the fake library; the folder is for LD_LIBRARY_PATH."""
    source = Path(__file__).with_name("nvml.c")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(folder / "libnvidia-ml.so.1"), str(source)], check=True
    )
    return folder
