"""Create a small working flow as a starting point: ``penstock flow new``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from penstock.errors import AlreadyExists, InvalidInput

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")
_FLOW: Final = '''\
"""The flow {name}."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from penstock.flows import flow, run


@flow(name="{name}", version="1", examples=[{{"name": "Ada"}}])
async def {function}(name: Annotated[str, Field(min_length=1)]) -> dict[str, str]:
    """Greets someone, after a short sleep that survives restarts."""
    await run.sleep(timedelta(seconds=1))
    greeted_at = run.now()
    # A child job is one line: await run.call("a-model", {{"text": name}})
    return {{"greeting": f"Hello, {{name}}!", "at": greeted_at.isoformat()}}
'''


def write(name: str, folder: Path) -> Path:
    """Write the file of a flow and return its path. Raises InvalidInput and AlreadyExists."""
    if not _NAME.fullmatch(name):
        raise InvalidInput.of("name", "must begin with a letter and have only letters, digits, - and _")
    function = name.replace("-", "_").lower()
    path = folder / f"{function}.py"
    if path.exists():
        raise AlreadyExists(f"{path} exists")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(_FLOW.format(name=name, function=function), encoding="utf-8")
    return path
