"""Virtual environments for the programs to which Penstock is compared."""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

ENVIRONMENTS = Path("~/.cache/penstock-bench").expanduser()


def prepare(name: str, packages: Sequence[str]) -> str | None:
    """Make the environment ``name`` with these pinned packages unless it exists; return why that failed, or None."""
    home = ENVIRONMENTS / name
    done = home / ".installed"
    wanted = "\n".join(packages)
    if done.exists() and done.read_text() == wanted:
        return None
    print(f"  installing {', '.join(packages)} into {home}", flush=True)
    done.unlink(missing_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    try:
        venv.create(home, with_pip=True, clear=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no environment: {error}"[:200]
    command = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    if installed.returncode:
        lines = [line for line in installed.stderr.splitlines() if line.startswith("ERROR")]
        return (lines or ["ERROR: pip failed"])[0][:200]
    done.write_text(wanted)
    return None


def label(package: str) -> str:
    """Return a pinned package as a name with its version: "fastapi==1.0" is "fastapi 1.0"."""
    name, _, version = package.partition("==")
    return f"{name.partition('[')[0]} {version}"
