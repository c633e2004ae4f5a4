"""docs/models.md: its Python models are run as they are printed."""

from __future__ import annotations

import gzip
import io
import re
from pathlib import Path

import msgspec
import PIL.Image

from penstock.models import manifest, trial
from penstock.models.replica.runtime import Segment
from tests.support.models import Models, read

GUIDE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def block(section: str, language: str) -> str:
    """Return the first block of code in that language below a heading."""
    found = re.search(rf"```{language}\n(.*?)```", GUIDE.partition(f"## {section}\n")[2], re.DOTALL)
    assert found is not None
    return found[1]


async def test_the_first_model(tmp_path: Path, models: Models) -> None:
    folder = tmp_path / "summary"
    folder.mkdir()
    (folder / "model.toml").write_text(block("A model in Python", "toml"))
    (folder / "summary.py").write_text(block("A model in Python", "python"))
    deployment = await models.host.add(manifest.read(folder / "model.toml"))
    call = re.search(r"-d '(\{.*?\})'\s+# (\{.*\})", block("A model in Python", "bash"))
    assert call is not None
    assert await models.call(deployment, msgspec.json.decode(call[1])) == msgspec.json.decode(call[2])


async def test_the_first_model_of_pictures(tmp_path: Path, models: Models) -> None:
    folder = tmp_path / "grey"
    folder.mkdir()
    stated = block("A model in Python", "toml").replace("summary:Summary", "grey:Grey")
    (folder / "model.toml").write_text(stated)
    (folder / "grey.py").write_text(block("Pictures, sound, arrays", "python"))
    deployment = await models.host.add(manifest.read(folder / "model.toml"))
    encoded = io.BytesIO()
    PIL.Image.new("RGB", (2, 3), "red").save(encoded, "PNG")
    segment = Segment(encoded.getvalue(), "image/png", ("image",))
    call = models.host.call(deployment, b'{"image": null}', [segment])
    result = await call.done
    (picture,) = result.segments
    assert PIL.Image.open(io.BytesIO(picture.in_memory())).getpixel((0, 0)) == 76


async def test_the_first_model_of_sessions(tmp_path: Path, models: Models) -> None:
    folder = tmp_path / "counter"
    folder.mkdir()
    (folder / "model.toml").write_text(block("A model in Python", "toml").replace("summary:Summary", "counter:Counter"))
    (folder / "counter.py").write_text(block("Sessions", "python"))
    deployment = await models.host.add(manifest.read(folder / "model.toml"))
    session = models.session(deployment, {"start": 5})
    for words in ("a penstock feeds", "a turbine"):
        await session.send(msgspec.json.encode({"text": words}))
    session.finish()
    assert read(await session.done) == [8, 10]


async def test_the_examples_of_sessions_are_tried(tmp_path: Path) -> None:
    """A part or a chunk that breaks the schema is reported, and so is the error of a session."""
    good = block("Sessions", "toml")
    manifest_of = block("A model in Python", "toml").replace("summary:Summary", "counter:Counter")
    (tmp_path / "counter.py").write_text(block("Sessions", "python"))
    (tmp_path / "model.toml").write_text("examples = [{ text = 'a b' }]\n" + manifest_of + good)
    report = await trial.run(tmp_path / "model.toml")
    assert report.sound
    assert [call.output for call in report.calls] == [2, [8, 10]]
    wrong = good.replace('text = "a turbine"', "text = 3")
    (tmp_path / "model.toml").write_text("examples = [{ text = 'a b' }]\n" + manifest_of + wrong)
    report = await trial.run(tmp_path / "model.toml")
    assert not report.sound
    assert report.calls[1].problem == "parts[1].text: must be of type string"
    (tmp_path / "counter.py").write_text(block("Sessions", "python").replace("yield total", "raise ValueError(total)"))
    (tmp_path / "model.toml").write_text("examples = [{ text = 'a b' }]\n" + manifest_of + good)
    report = await trial.run(tmp_path / "model.toml")
    assert "ValueError: 8" in str(report.calls[1].problem)


async def test_the_first_model_of_large_files(tmp_path: Path, models: Models) -> None:
    folder = tmp_path / "zipped"
    folder.mkdir()
    (folder / "model.toml").write_text(block("A model in Python", "toml").replace("summary:Summary", "zipped:Zipped"))
    (folder / "zipped.py").write_text(block("Large files", "python"))
    deployment = await models.host.add(manifest.read(folder / "model.toml"))
    call = models.host.call(deployment, b'{"file": null}', [Segment(b"abc" * 1000, "text/plain", ("file",))])
    (packed,) = (await call.done).segments
    assert (packed.media_type, packed.name) == ("application/gzip", "packed.gz")
    assert gzip.decompress(packed.in_memory()) == b"abc" * 1000
