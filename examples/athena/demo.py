"""The demonstration of Athena Serving: wrappers with real models, called by Athena's protocol.

    make demo ARGS=athena        or        python -m examples.athena.demo [--out FOLDER]

Starts Penstock with a fresh data folder and four wrappers, whose models run in environments of their own. Three are
called over HTTP; the fourth one hears a recording over a WebSocket, part by part. What they return is printed, and
drawn into pictures. The exit status is 0 only if all of it is as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from rich.console import Console

from examples.athena import drawing
from examples.athena.calls import call, lines, listen, picture
from examples.athena.sounds import POCKETSPHINX
from examples.digits.stage import Stage
from examples.faces.pictures import ULTRALYTICS, fetch

HERE = Path(__file__).parent
WRAPPERS = ("ocr", "persons", "embedding", "speech")
PRINTED = ("A penstock feeds a turbine.", "Engines run unchanged.", "Invoice 2026-11-30: 1,797 images")
SAID = "go forward ten meters"
TEXTS = (
    "Falling water drives the turbine.",
    "The river turns the wheels.",
    "Fallendes Wasser treibt die Turbine an.",
    "My cat sleeps on the sofa all day.",
    "A kitten naps on the couch.",
    "Ein Kater schnarcht auf dem Sofa.",
    "The invoice must be paid by Friday.",
    "Please settle the bill this week.",
    "Die Rechnung ist bis Freitag zu bezahlen.",
)
ASKED = {
    "水的落差推动涡轮机。": 0,
    "猫整天睡在沙发上。": 3,
    "请在星期五之前付清账单。": 6,
}  # the group of texts that is nearest
_LIMIT = 120.0  # seconds, of loading a model


async def main(out: Path) -> int:
    console = Console(highlight=False, soft_wrap=True)
    console.print("Penstock demo: wrappers of Athena Serving with real models, called by its protocol.\n")
    await install(console)
    fetch([ULTRALYTICS, POCKETSPHINX], report=console.print)
    async with Stage(PENSTOCK_MODELS_DIR=str(HERE)) as stage:
        console.print(f"Started Penstock and its PostgreSQL in {stage.start_seconds:.1f} s, data in {stage.folder}.")
        headers = {"Authorization": f"Bearer {stage.token}"}
        timeout = aiohttp.ClientTimeout(total=_LIMIT)
        async with aiohttp.ClientSession(stage.url, headers=headers, timeout=timeout) as session:
            sound = await show(session, out, console)
    return 0 if sound and not stage.complaints else 1


async def install(console: Console) -> None:
    """Install the environments of the wrappers, unless they are there; pip's progress is shown."""
    console.print("The wrappers need rapidocr, OpenCV, PocketSphinx and others (about 400 MB), in your cache folder:")
    folders = [str(HERE / name) for name in WRAPPERS]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "penstock", "model", "install", *folders)
    if await process.wait():
        raise SystemExit(f"The environments of {', '.join(folders)} could not be installed.")
    console.print()


async def show(session: aiohttp.ClientSession, out: Path, console: Console) -> bool:
    """Call the four services, print and draw; return whether everything was as expected."""
    out.mkdir(parents=True, exist_ok=True)
    found = fetch([ULTRALYTICS, POCKETSPHINX])
    sound = [
        await show_text(session, out, console),
        await show_persons(session, found["bus.jpg"].read_bytes(), out, console),
        await show_embedding(session, out, console),
        await show_speech(session, found["goforward.raw"].read_bytes(), out, console),
    ]
    console.print(f"\nDrawn into {out}: {', '.join(sorted(path.name for path in out.iterdir()))}.")
    console.print("Everything was as it should be." if all(sound) else "Not everything was as it should be.")
    return all(sound)


async def show_text(session: aiohttp.ClientSession, out: Path, console: Console) -> bool:
    page = drawing.printed(PRINTED)
    payload = await timed(session, "ocr", picture(drawing.encoded(page)), result="boxes", console=console)
    found = payload["boxes"]["text"]
    for text in found:
        console.print(f"  {text['text']}  ({text['score']:.2f})")
    drawing.save(drawing.boxes(page, found), out / "ocr.png")
    return [text["text"].replace(" ", "") for text in found] == [line.replace(" ", "") for line in PRINTED]


async def show_persons(session: aiohttp.ClientSession, street: bytes, out: Path, console: Console) -> bool:
    payload = await timed(session, "persons", picture(street), result="persons", console=console)
    persons = payload["persons"]["text"]
    for person in persons:
        console.print(f"  a person at {person['box']}, weight {person['weight']:.2f}")
    drawing.save_photo(base64.b64decode(payload["drawn"]["image"]), out / "persons.jpg", height=480)
    return len(persons) == 2


async def show_embedding(session: aiohttp.ClientSession, out: Path, console: Console) -> bool:
    payload = await timed(session, "embedding", lines(*TEXTS, *ASKED), result="vectors", console=console)
    vectors = np.array(payload["vectors"]["text"])
    texts, asked = vectors[: len(TEXTS)], vectors[len(TEXTS) :]
    nearest = [int(row.argmax()) for row in asked @ texts.T]
    for text, at in zip(ASKED, nearest, strict=True):
        console.print(f"  {text} is nearest to: {TEXTS[at]}")
    drawing.save(drawing.matrix(TEXTS, texts @ texts.T), out / "embedding.png")
    return [at // 3 * 3 for at in nearest] == list(ASKED.values())


async def show_speech(session: aiohttp.ClientSession, sound: bytes, out: Path, console: Console) -> bool:
    console.print("\nWS   /v1/private/speech, a part each quarter of a second:")
    async for _ in listen(session, sound[:8000]):
        pass  # the model is loaded by the first session
    heard = []
    async for one in listen(session, sound):
        console.print(f"  {one.seconds:4.1f} s  {one.text}")
        heard.append(one)
    drawing.save_film(drawing.speech(sound, heard), out / "speech.gif")
    return heard[-1].text == SAID


async def timed(
    session: aiohttp.ClientSession, service: str, data: Mapping[str, Any], *, result: str, console: Console
) -> dict[str, Any]:
    """Call a service twice, because its model is loaded by the first call, and print how long both took."""
    begun = time.perf_counter()
    await call(session, service, data, result=result)
    loaded = time.perf_counter()
    payload = await call(session, service, data, result=result)
    ended = time.perf_counter()
    console.print(
        f"\nPOST /v1/private/{service}: {ended - loaded:.2f} s (with loading the model, {loaded - begun:.1f} s)"
    )
    return payload


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m examples.athena.demo", description="Call wrappers of Athena Serving with real models."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("athena-pictures"), help="the folder of the pictures (%(default)s)"
    )
    sys.exit(asyncio.run(main(parser.parse_args().out)))
