"""docs/subprocess-models.md: its models are run as they are printed."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from penstock.errors import InvalidInput
from penstock.models import manifest, trial
from tests.support.models import Models, Recorder, read

GUIDE = (Path(__file__).parents[2] / "docs" / "subprocess-models.md").read_text(encoding="utf-8")


def block(section: str, language: str) -> str:
    """Return the first block of code in that language below a heading."""
    text = GUIDE.partition(f"## {section}\n")[2]
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """The folder of the guide's first model."""
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "words.py").write_text(block("The smallest model", "python"))
    (folder / "model.toml").write_text(block("The smallest model", "toml"))
    return folder


async def test_the_smallest_model_runs_its_examples(words: Path) -> None:
    report = await trial.run(words / "model.toml")
    assert report.sound, report.problems
    assert report.calls[0].output == {"count": 5, "longest": "penstock"}


async def test_the_program_refuses_an_input_and_continues(words: Path, models: Models) -> None:
    deployment = await models.host.add(manifest.read(words / "model.toml"))
    with pytest.raises(InvalidInput, match="text: must hold at least one word"):
        await models.call(deployment, {"text": " "})
    assert (await models.call(deployment, {"text": "one more"}))["count"] == 2


async def test_the_model_that_streams(words: Path, models: Models) -> None:
    (words / "words.py").write_text(block("Streams", "python"))
    stated = (words / "model.toml").read_text().partition("[schema.output]")[0]
    (words / "model.toml").write_text(stated.replace("[schema.input]", "[schema]\nstreams = true\n[schema.input]", 1))
    deployment = await models.host.add(manifest.read(words / "model.toml"))
    recorder = Recorder()
    call = models.begin(deployment, {"text": "a penstock feeds"}, streams=True, listener=recorder)
    await call.done
    assert recorder.chunks == ["a", "penstock", "feeds"]
    assert recorder.progressed == [0, 1, 2]
    assert read(await models.begin(deployment, {"text": "a penstock"}).done) == ["a", "penstock"]


def test_every_line_of_the_table_means_what_it_says() -> None:
    """The lines of "The answer", read by the runtime itself."""
    from penstock.models.replica.program_lines import read as meaning

    table = GUIDE.partition("## The answer\n")[2].partition("\n## ")[0]
    lines = [line.split("`")[1].replace("…", "7") for line in table.splitlines() if line.startswith("| `{")]
    said = [meaning(line.encode()) for line in lines]
    assert len(said) == 7
    failed, refused, chunk, progress, log, last, end = said
    assert failed.error is not None
    assert (failed.error.category, failed.error.message) == ("internal", "the file is locked")
    assert refused.error is not None
    assert (refused.error.category, refused.error.field) == ("bad_input", "text")
    assert (chunk.final, chunk.output) == (False, b"7")
    assert (progress.final, bytes(progress.progress or b""), progress.output) == (False, b"0.4", None)
    assert log.log is not None
    assert (log.final, log.log.message) == (False, "half way")
    assert (last.final, last.output) == (True, b"7")
    assert (end.final, end.output) == (True, None)


async def test_the_model_that_exchanges_files(words: Path, models: Models) -> None:
    (words / "words.py").write_text(block("Media as files", "python"))
    media = {"type": "string", "format": "media", "contentMediaType": "application/octet-stream"}
    stated = {
        "name": "zipped",
        "runtime": "subprocess",
        "subprocess": {"command": ["python3", "words.py"], "media": "path"},
        "schema": {"input": {"properties": {"file": media}}, "output": {"properties": {"packed": media}}},
    }
    deployment = await models.host.add(manifest.check(stated, folder=words, source="folder"))
    (packed,) = (await models.begin(deployment, {"file": "data:text/plain,abc"}).done).segments
    assert (packed.path, packed.name) == (("packed",), "packed.gz")
    assert gzip.decompress(packed.in_memory()) == b"abc"
