"""The demonstration of Athena Serving: wrappers with real models, called by Athena's protocol.

    make demo ARGS=athena        or        python -m examples.athena.demo [--out PICTURE]

Starts Penstock with a fresh data folder and three wrappers, whose models run in environments of their own. Two are
called over HTTP; the third one hears a recording over a WebSocket, part by part. What they find is drawn into a
picture. The exit status is 0 only if all of it is as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from rich.console import Console

from examples.athena.sounds import POCKETSPHINX
from examples.digits.stage import Stage
from examples.faces.pictures import ULTRALYTICS, fetch

HERE = Path(__file__).parent
LINES = ("A penstock feeds a turbine.", "Engines run unchanged.")
SAID = "go forward ten meters"
PART_BYTES = 8000  # a quarter of a second of sound
_LIMIT = 120.0  # seconds, of loading a model
_GREEN = "#1b9e57"


async def main(out: Path) -> int:
    console = Console(highlight=False, soft_wrap=True)
    console.print("Penstock demo: wrappers of Athena Serving with real models, called by its protocol.\n")
    await install(console)
    found = fetch([ULTRALYTICS, POCKETSPHINX], report=console.print)
    async with Stage(PENSTOCK_MODELS_DIR=str(HERE)) as stage:
        console.print(f"Started Penstock and its PostgreSQL in {stage.start_seconds:.1f} s, data in {stage.folder}.\n")
        headers = {"Authorization": f"Bearer {stage.token}"}
        timeout = aiohttp.ClientTimeout(total=_LIMIT)
        async with aiohttp.ClientSession(stage.url, headers=headers, timeout=timeout) as session:
            sound = await show(session, found, out, console)
    return 0 if sound and not stage.complaints else 1


async def install(console: Console) -> None:
    """Install the environments of the wrappers, unless they are there; pip's progress is shown."""
    console.print("The wrappers need rapidocr, OpenCV and PocketSphinx (about 350 MB), in your cache folder:")
    folders = [str(HERE / name) for name in ("ocr", "persons", "speech")]
    command = [sys.executable, "-m", "penstock", "model", "install", str(HERE)]
    process = await asyncio.create_subprocess_exec(*command, cwd=HERE)
    if await process.wait():
        raise SystemExit(f"The environments of {', '.join(folders)} could not be installed.")
    console.print()


async def show(session: aiohttp.ClientSession, found: Mapping[str, Path], out: Path, console: Console) -> bool:
    """Call the three services and draw; returns whether everything was as expected."""
    page = printed(LINES)
    read, seconds = await called(session, "ocr", encoded(page), expected="boxes")
    boxes = read["boxes"]["text"]
    console.print(f"POST /v1/private/ocr      read {len(boxes)} lines in {seconds:.1f} s:")
    for box in boxes:
        console.print(f"  {box['text']}  ({box['score']:.2f})")
    seen, seconds = await called(session, "persons", found["bus.jpg"].read_bytes(), expected="persons")
    persons = seen["persons"]["text"]
    console.print(f"POST /v1/private/persons  found {len(persons)} persons in {seconds:.1f} s.")
    heard = await spoken(session, found["goforward.raw"].read_bytes(), console)
    street = PIL.Image.open(io.BytesIO(base64.b64decode(seen["drawn"]["image"])))
    drawn(page, boxes, street, heard).save(out)
    console.print(f"\nDrawn into {out}.")
    texts = [box["text"].replace(" ", "") for box in boxes]
    sound = texts == [line.replace(" ", "") for line in LINES] and len(persons) == 2 and heard[-1] == SAID
    console.print("Everything was as it should be." if sound else "Not everything was as it should be.")
    return sound


async def called(
    session: aiohttp.ClientSession, service: str, picture: bytes, *, expected: str
) -> tuple[dict[str, Any], float]:
    """Send a picture to a service. Return its payload and the seconds that it took."""
    message = {
        "header": {"app_id": "demo", "status": 3},
        "parameter": {service: {expected: {"encoding": "utf8", "format": "json"}}},
        "payload": {"img": {"image": base64.b64encode(picture).decode(), "encoding": "jpg", "status": 3}},
    }
    await called_once(session, service, message)  # the model is loaded by the first call
    begun = time.perf_counter()
    reply = await called_once(session, service, message)
    payload: dict[str, Any] = reply["payload"]
    return payload, time.perf_counter() - begun


async def called_once(session: aiohttp.ClientSession, service: str, message: Mapping[str, Any]) -> dict[str, Any]:
    async with session.post(f"/v1/private/{service}", json=message) as response:
        reply: dict[str, Any] = await response.json()
    if reply["header"]["code"]:
        raise SystemExit(f"{service} failed: {reply['header']}")
    return reply


async def spoken(session: aiohttp.ClientSession, sound: bytes, console: Console) -> list[str]:
    """Send a recording in parts, as a microphone would. Return what was understood after each result."""
    pieces = [sound[at : at + PART_BYTES] for at in range(0, len(sound), PART_BYTES)]
    heard: list[str] = []
    async with session.ws_connect("/v1/private/speech") as socket:

        async def speak() -> None:
            for number, piece in enumerate(pieces):
                status = 0 if number == 0 else 2 if number == len(pieces) - 1 else 1
                audio = {"audio": base64.b64encode(piece).decode(), "encoding": "raw", "sample_rate": 16000}
                message = {
                    "header": {"app_id": "demo", "status": status},
                    "payload": {"audio": {**audio, "status": status}},
                }
                await socket.send_bytes(msgspec.json.encode(message))
                await asyncio.sleep(PART_BYTES / 32000)

        speaking = asyncio.create_task(speak())
        async for received in socket:
            reply = msgspec.json.decode(received.data)
            if reply["header"]["code"]:
                raise SystemExit(f"speech failed: {reply['header']}")
            if "payload" in reply:
                words = reply["payload"]["words"]["text"]
                heard.append(words["text"])
                console.print(f"WS   /v1/private/speech   heard: {words['text']}")
        await speaking
    return heard


def printed(lines: Sequence[str]) -> PIL.Image.Image:
    """Return a page with these lines."""
    page = PIL.Image.new("RGB", (810, 260), "white")
    canvas = PIL.ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        canvas.text((40, 50 + 90 * number), line, fill="black", font=PIL.ImageFont.load_default(48))
    return page


def encoded(picture: PIL.Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def drawn(
    page: PIL.Image.Image, boxes: Sequence[Mapping[str, Any]], street: PIL.Image.Image, heard: Sequence[str]
) -> PIL.Image.Image:
    """Return one picture: the page with its boxes, what was heard, and the street with its persons."""
    canvas = PIL.ImageDraw.Draw(page)
    for box in boxes:
        canvas.polygon([(x, y) for x, y in box["box"]], outline=_GREEN, width=3)
    below = PIL.Image.new("RGB", (810, 60 + 30 * len(heard)), "#f4f4f4")
    canvas = PIL.ImageDraw.Draw(below)
    for number, text in enumerate(heard):
        colour = _GREEN if number == len(heard) - 1 else "#666666"
        canvas.text((40, 30 + 30 * number), f"heard: {text}", fill=colour, font=PIL.ImageFont.load_default(20))
    scaled = street.resize(
        (round(street.width * (page.height + below.height) / street.height), page.height + below.height)
    )
    whole = PIL.Image.new("RGB", (page.width + scaled.width, scaled.height))
    whole.paste(page, (0, 0))
    whole.paste(below, (0, page.height))
    whole.paste(scaled, (page.width, 0))
    return whole


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m examples.athena.demo", description="Call wrappers of Athena Serving with real models."
    )
    parser.add_argument("--out", type=Path, default=Path("athena.png"), help="the picture that is drawn (%(default)s)")
    sys.exit(asyncio.run(main(parser.parse_args().out)))
