"""Create a small working model as a starting point: ``penstock model new``."""

from __future__ import annotations

import re
from pathlib import Path

from penstock.errors import AlreadyExists, InvalidInput

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")

_README = """\
# {name}

- `penstock model test {name}` loads the model and calls it with the examples of its manifest.
- `pytest {name}` runs its test (`pip install pytest` first, if needed).
- A gateway serves it when PENSTOCK_MODELS_DIR is the folder above this one;
  `penstock serve --dev` loads it again whenever you edit it.
- Then: `penstock model predict {name} text="a penstock feeds a turbine" words=2`
"""
_PYTHON = {
    "model.toml": """\
runtime = "python"
examples = [{{ text = "a penstock feeds a turbine", words = 2 }}]

[python]
class = "{module}:{Class}"
""",
    "{module}.py": '''\
"""The model {name}."""

from typing import Annotated

from pydantic import Field

from penstock import BadInput


class {Class}:
    """Shortens a text to its first words."""

    def load(self) -> None:
        """Called once, before the first call: load weights here."""
        self.end = "…"

    def predict(
        self,
        text: Annotated[str, Field(min_length=1, description="what is to be shortened")],
        words: Annotated[int, Field(ge=1, le=30)] = 3,
    ) -> dict[str, str]:
        if not text.split():
            raise BadInput("must hold at least one word", field="text")
        return {{"summary": " ".join(text.split()[:words]) + self.end}}
''',
    "test_{module}.py": '''\
"""The model {name}, tried without Penstock around it."""

import pytest
from {module} import {Class}

from penstock import BadInput


@pytest.fixture
def model() -> {Class}:
    model = {Class}()
    model.load()
    return model


def test_it_keeps_the_first_words(model: {Class}) -> None:
    assert model.predict("a penstock feeds a turbine", words=2) == {{"summary": "a penstock…"}}


def test_it_refuses_a_text_without_words(model: {Class}) -> None:
    with pytest.raises(BadInput):
        model.predict("   ")
''',
    "README.md": _README,
}
_SUBPROCESS = {
    "model.toml": """\
runtime = "subprocess"
description = "Shortens a text to its first words."
examples = [{{ text = "a penstock feeds a turbine", words = 2 }}]

[subprocess]
command = ["python3", "{module}.py"]

[schema.input]
type = "object"
required = ["text"]
additionalProperties = false

[schema.input.properties]
text = {{ type = "string", minLength = 1 }}
words = {{ type = "integer", minimum = 1, maximum = 30 }}

[schema.output]
type = "object"
required = ["summary"]
""",
    "{module}.py": '''\
"""The model {name}: one JSON line in, one JSON line out. What is written to standard error is its log."""

import json
import sys


def answer(given: dict) -> dict:
    """Return the answer to one call."""
    return {{"summary": " ".join(given["text"].split()[: given.get("words", 3)]) + "…"}}


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
''',
    "test_{module}.py": '''\
"""The model {name}, tried without Penstock around it."""

import json
import subprocess
import sys
from pathlib import Path


def test_a_line_in_is_a_line_out() -> None:
    program = Path(__file__).with_name("{module}.py")
    given = json.dumps({{"text": "a penstock feeds a turbine", "words": 2}})
    done = subprocess.run([sys.executable, program], input=given, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {{"summary": "a penstock…"}}
''',
    "README.md": _README,
}
_KINDS = {"python": _PYTHON, "subprocess": _SUBPROCESS}


def write(name: str, folder: Path, runtime: str) -> list[Path]:
    """Create ``folder/name`` with a model in it. Return the files, the manifest first.

    Raises InvalidInput, or AlreadyExists where there is such a folder: nothing is ever overwritten.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput.of("NAME", "must begin with a letter and hold letters, digits, - and _ only")
    if runtime not in _KINDS:
        raise InvalidInput.of("--runtime", f"must be one of {', '.join(_KINDS)}")
    home = folder / name
    module = re.sub(r"\W", "_", name).lower() + "_model"
    title = "".join(part.title() for part in re.split(r"[_-]", name))
    # The suffix keeps the class from being called None, or BadInput, which the code imports.
    words = {"name": name, "module": module, "Class": title.removesuffix("Model") + "Model"}
    try:
        home.mkdir(parents=True)
    except FileExistsError:
        raise AlreadyExists(f"{home} exists already") from None
    except OSError as error:
        raise InvalidInput.of("--folder", f"{home}: {error.strerror}") from None
    made = []
    for path, text in _KINDS[runtime].items():
        made.append(home / path.format(**words))
        made[-1].write_text(text.format(**words), encoding="utf-8")
    return made
