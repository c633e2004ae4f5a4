"""Create a small working app as a starting point: ``penstock app new``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from penstock.apps.manifest import FILE_NAME
from penstock.errors import AlreadyExists, InvalidInput
from penstock.models import skeleton as model_skeleton

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,49}")
_FILES: Final[Mapping[str, str]] = {
    FILE_NAME: """\
version = "0.1.0"
title = "{title}"

[limits]
max_input_bytes = 65536
ttl = "1h"              # a request that no worker has begun by then fails

[price]
unit = "word"
units = "/words"        # where the result says how many
""",
    "flow.py": '''\
"""The flow of the app {name}."""

from typing import Annotated

from penstock.flows import flow, run
from pydantic import BaseModel, Field

from .words import count


class Summary(BaseModel):
    summary: str
    words: int


@flow(name="{name}", version="1", examples=[{{"text": "a penstock feeds a turbine"}}])
async def shorten(
    text: Annotated[str, Field(min_length=1, description="what is to be shortened")],
    words: Annotated[int, Field(ge=1, le=30)] = 3,
) -> Summary:
    """Shortens a text to its first words."""
    shortened = await run.call("{model}", {{"text": text, "words": words}})
    return Summary(summary=shortened["summary"], words=count(shortened["summary"]))
''',
    "words.py": '''\
"""What the app needs beside its flow; flows import it relatively."""


def count(text: str) -> int:
    """Return how many words a text has."""
    return len(text.split())
''',
    "test_words.py": '''\
"""The parts of the app that need no Penstock around them."""

from words import count


def test_words_are_counted() -> None:
    assert count("a penstock…") == 2
''',
    "README.md": """\
# {title}

- `penstock app check {name}` reads the manifests, and loads the flow as a worker does.
- `pytest {name}` tries its parts, and `penstock model test {name}/models/{model}` its model.
- `PENSTOCK_APPS_DIR=. penstock serve` serves it, and takes up what you change.
- Then: `penstock app run {name} --user ada --input '{{"text": "a penstock feeds a turbine"}}' --watch`
""",
}


def write(name: str, folder: Path) -> list[Path]:
    """Create ``folder/name`` with an app in it. Return the files, the manifest first.

    Raises InvalidInput, or AlreadyExists where there is such a folder: nothing is ever overwritten.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput.of("NAME", "must begin with a letter and hold letters, digits, - and _ only")
    home, model = folder / name, f"{name}-shortener"
    if home.exists():
        raise AlreadyExists(f"{home} exists already")
    title = " ".join(part.capitalize() for part in re.split(r"[_-]", name) if part)
    written = model_skeleton.write(model, home / "models", "python")
    made = []
    for file, text in _FILES.items():
        made.append(home / file)
        made[-1].write_text(text.format(name=name, title=title, model=model), encoding="utf-8")
    return [*made, *written]
