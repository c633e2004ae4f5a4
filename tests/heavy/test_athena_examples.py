"""The wrappers of examples/athena with their real models, in their environments."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from typing import Any

import msgspec
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest

from examples.athena.sounds import POCKETSPHINX
from examples.faces.pictures import ULTRALYTICS, fetch
from penstock.errors import ModelFailed
from penstock.models import manifest
from penstock.models.host.deployment import Deployment
from penstock.models.replica.runtime import Segment
from tests.models.aiges.test_sessions import Chunks
from tests.support.models import Models

EXAMPLES = Path(__file__).parents[2] / "examples" / "athena"
PART_BYTES = 6400  # 0.2 seconds of sound


async def served(models: Models, name: str) -> Deployment:
    return await models.host.add(manifest.read(EXAMPLES / name / "model.toml"))


async def results(models: Models, model: Deployment, data: bytes, **params: float) -> tuple[Any, list[Segment]]:
    """Return the payload of a call with a picture, and the media in it."""
    value = {"parameter": params, "payload": {"img": {"image": None}}}
    picture = Segment(data, "image/png", ("payload", "img", "image"))
    result = await models.host.call(model, msgspec.json.encode(value), [picture]).done
    return msgspec.json.decode(result.json)["payload"], list(result.segments)


def page(*lines: str) -> bytes:
    """Return a picture of printed lines."""
    image = PIL.Image.new("RGB", (900, 80 + 90 * len(lines)), "white")
    draw = PIL.ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((40, 40 + 90 * number), line, fill="black", font=PIL.ImageFont.load_default(48))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


async def test_printed_text_is_read(models: Models) -> None:
    model = await served(models, "ocr")
    lines = ("A penstock feeds a turbine", "Invoice 2026-11-30")
    payload, _ = await results(models, model, page(*lines))
    found = msgspec.json.decode(payload["boxes"]["text"])
    assert [one["text"].replace(" ", "") for one in found] == [line.replace(" ", "") for line in lines]
    tops = [min(y for _, y in one["box"]) for one in found]
    assert tops == sorted(tops)
    payload, _ = await results(models, model, page(""))
    assert msgspec.json.decode(payload["boxes"]["text"]) == []
    with pytest.raises(ModelFailed, match="img must hold a picture;code=100"):
        await results(models, model, b"no picture")


async def test_persons_are_found_and_drawn(models: Models) -> None:
    """The two at the sides of the picture stand upright and whole."""
    model = await served(models, "persons")
    payload, media = await results(models, model, fetch([ULTRALYTICS])["bus.jpg"].read_bytes())
    persons = msgspec.json.decode(payload["persons"]["text"])
    assert len(persons) == 2
    left, right = sorted(one["box"] for one in persons)
    assert (left[0] < 50, 600 < right[0] < 700) == (True, True)
    (drawn,) = media
    assert drawn.media_type == "image/png"
    assert PIL.Image.open(io.BytesIO(bytes(drawn.in_memory()))).size == (810, 1080)
    payload, _ = await results(models, model, page("nobody"))
    assert msgspec.json.decode(payload["persons"]["text"]) == []


async def spoken(models: Models, model: Deployment, sound: bytes) -> list[Any]:
    """Return what a session hears, result by result."""
    pieces = [sound[at : at + PART_BYTES] for at in range(0, len(sound), PART_BYTES)]
    chunks = Chunks()
    first = {"payload": {"audio": audio(pieces[0], 0)}}
    chunks.session = session = models.session(model, first, listener=chunks)
    for number, piece in enumerate(pieces[1:], 2):
        part = {"payload": {"audio": audio(piece, 2 if number == len(pieces) else 1)}}
        await session.send(msgspec.json.encode(part))
    session.finish()
    await session.done
    session.close()
    return [(msgspec.json.decode(text), status) for text, status in chunks.words]


def audio(data: bytes, status: int) -> dict[str, Any]:
    return {"audio": f"data:audio/L16;base64,{base64.b64encode(data).decode()}", "encoding": "raw", "status": status}


async def test_speech_is_recognised_while_it_is_spoken(models: Models) -> None:
    """Two sessions at a time hear their own recordings, and a third one gets the handle of the first."""
    model = await served(models, "speech")
    sounds = {name: path.read_bytes() for name, path in fetch([POCKETSPHINX]).items()}
    heard = await asyncio.gather(*(spoken(models, model, sounds[name]) for name in ("goforward.raw", "numbers.raw")))
    heard.append(await spoken(models, model, sounds["goforward.raw"]))
    for results_of in heard:
        statuses = [status for _, status in results_of]
        assert statuses[0] == 0
        assert statuses[-1] == 2
        assert set(statuses[1:-1]) == {1}
    last = [results_of[-1][0] for results_of in heard]
    assert last[0]["text"] == last[2]["text"] == "go forward ten meters"
    assert "three" in last[1]["text"]
    assert 1.0 < last[0]["voice_seconds"] < len(sounds["goforward.raw"]) / 32000
