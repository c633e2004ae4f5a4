"""The demonstration of face recognition: real faces are enrolled, recognised in other pictures, and forgotten.

    make demo ARGS=faces        or        python -m examples.faces.demo [--out PICTURE]

Starts Penstock with a fresh data folder and the apps of this repository, whose models run in environments of their own.
The faces that it finds are drawn into a picture. The exit status is 0 only if all of it is as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.ImageOps
from rich.console import Console

from examples.digits.stage import Stage
from examples.faces.pictures import FACE_RECOGNITION, SCIKIT_IMAGE, fetch
from penstock import Client, Status

ROOT = Path(__file__).parents[2]
NEEDED = ("face-detection", "face-embedding", "face-search", "face-recognition")
GALLERY = "demo"
ENROLLED: Mapping[str, Sequence[str]] = {
    "Barack Obama": ["obama.jpg", "obama3.jpg"],
    "Joe Biden": ["biden.jpg"],
}
_HEIGHT = 720  # pixels of the group picture
_LIMIT = timedelta(minutes=2)  # for one run
_COLOURS = {True: "#2fbf71", False: "#f0a202"}  # known, unknown


async def main(out: Path) -> int:
    console = Console(highlight=False, soft_wrap=True)
    console.print("Penstock demo: face recognition, as an app whose flow calls models and a collection of vectors.\n")
    await install(console)
    pictures = fetch([FACE_RECOGNITION, SCIKIT_IMAGE], report=console.print)
    async with Stage(PENSTOCK_APPS_DIR=str(ROOT / "apps"), PENSTOCK_WORKERS="1", WORKER_HTTP_PORT="0") as stage:
        console.print(f"Started Penstock and its PostgreSQL in {stage.start_seconds:.1f} s, data in {stage.folder}.\n")
        async with Client(stage.url, token=stage.token, owner_service="demo") as client:
            await until_served(client)
            sound = await show(client, pictures, out, console)
    if stage.complaints:
        console.print(f"Not everything stopped in order: {'; '.join(stage.complaints)}")
    return 0 if sound and not stage.complaints else 1


async def install(console: Console) -> None:
    """Install the environments of the models, unless they are there; pip's progress is shown."""
    folders = [str(ROOT / "apps" / name / "models") for name in NEEDED if (ROOT / "apps" / name / "models").is_dir()]
    console.print("The models need dlib and its weights (about 240 MB), in your cache folder:")
    command = [sys.executable, "-m", "penstock", "model", "install", *folders]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    if await process.wait():
        raise SystemExit("The environments of the models could not be installed.")
    console.print()


async def until_served(client: Client) -> None:
    """Wait until the worker has loaded the app's flow."""
    async with asyncio.timeout(_LIMIT.total_seconds()):
        while not any(one["name"] == "face-recognition" for one in (await client.flows())["flows"]):
            await asyncio.sleep(0.1)


async def show(client: Client, pictures: Mapping[str, Path], out: Path, console: Console) -> bool:
    """Enrol, recognise, draw, forget; returns whether everything was as expected."""
    checks: list[bool] = []
    for person, files in ENROLLED.items():
        result = await run(
            client, console, operation="enrol", person=person, pictures=await upload(client, pictures, files)
        )
        console.print(f"Enrolled {person} with {len(result['enrolled'])} of {len(files)} pictures.")
        checks.append(len(result["enrolled"]) == len(files))
    again = await run(
        client,
        console,
        operation="enrol",
        person="Joe Biden",
        pictures=await upload(client, pictures, ["biden.jpg", "obama2.jpg"]),
    )
    for one in again["refused"]:
        console.print(f"  refused: {one['reason']}")
    checks.append(len(again["refused"]) == 2)
    group = group_picture(pictures)
    picture = f"blob:{(await client.upload(encoded(group), 'image/jpeg')).id}"
    begun = time.perf_counter()
    found = await run(client, console, operation="recognise", picture=picture)
    seconds = time.perf_counter() - begun
    console.print(
        f"\nRecognised {len(found['faces'])} faces in a picture of {group.width} × {group.height} in {seconds:.1f} s:"
    )
    for face in sorted(found["faces"], key=lambda face: face["box"]["left"]):
        distance = "" if face["distance"] is None else f", distance {face['distance']:.2f}"
        console.print(
            f"  at {face['box']['left']},{face['box']['top']}: {face['person'] or 'not in the gallery'}{distance}"
        )
    draw(group, found["faces"], out)
    console.print(f"Drawn into {out}.\n")
    names = [face["person"] for face in sorted(found["faces"], key=lambda face: face["box"]["left"])]
    checks.append(names == ["Barack Obama", "Joe Biden", None])
    gone = await run(client, console, operation="forget", person="Joe Biden")
    console.print(f"Forgot Joe Biden: {gone['faces']} vectors and {gone['pictures']} pictures are deleted.")
    after = await run(client, console, operation="recognise", picture=picture)
    names = sorted(face["person"] or "" for face in after["faces"])
    console.print(f"The same picture shows now: {', '.join(name or 'unknown' for name in names)}.")
    checks.append(names == ["", "", "Barack Obama"])
    console.print("\nEverything was as it should be." if all(checks) else "\nNot everything was as it should be.")
    return all(checks)


async def run(client: Client, console: Console, **values: Any) -> dict[str, Any]:
    """Run the app's flow to its end; returns its result."""
    job = await client.start_flow("face-recognition", {"gallery": GALLERY, **values})
    ended = await client.wait(job.id, timeout=_LIMIT)
    if ended.status is not Status.COMPLETED:
        console.print(f"{values['operation']} failed: {ended.error}")
        raise SystemExit(1)
    result: dict[str, Any] = ended.result
    return result


async def upload(client: Client, pictures: Mapping[str, Path], files: Sequence[str]) -> list[str]:
    return [f"blob:{(await client.upload(pictures[name])).id}" for name in files]


def group_picture(pictures: Mapping[str, Path]) -> PIL.Image.Image:
    """Return three persons side by side: one in a picture that was not enrolled, one mirrored, and an unknown one."""
    persons = [PIL.Image.open(pictures[name]).convert("RGB") for name in ("obama2.jpg", "biden.jpg", "astronaut.png")]
    persons[1] = PIL.ImageOps.mirror(persons[1]).crop((150, 0, 970, 1300))
    scaled = [one.resize((round(one.width * _HEIGHT / one.height), _HEIGHT)) for one in persons]
    group = PIL.Image.new("RGB", (sum(one.width for one in scaled), _HEIGHT))
    left = 0
    for one in scaled:
        group.paste(one, (left, 0))
        left += one.width
    return group


def draw(picture: PIL.Image.Image, faces: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Draw the boxes of faces with their names, and save the picture."""
    canvas = PIL.ImageDraw.Draw(picture)
    font = PIL.ImageFont.load_default(size=20)
    for face in faces:
        box, known = face["box"], face["person"] is not None
        left, top = box["left"], box["top"]
        bottom = top + box["height"]
        text = f"{face['person']}  {face['distance']:.2f}" if known else "unknown"
        canvas.rectangle((left, top, left + box["width"], bottom), outline=_COLOURS[known], width=4)
        length = canvas.textlength(text, font=font)
        canvas.rectangle((left, bottom, left + length + 12, bottom + 28), fill=_COLOURS[known])
        canvas.text((left + 6, bottom + 2), text, fill="black", font=font)
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out)


def encoded(picture: PIL.Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=92)
    return data.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m examples.faces.demo", description="Enrol and recognise real faces."
    )
    parser.add_argument("--out", type=Path, default=Path("faces.png"), help="the picture that is drawn (%(default)s)")
    sys.exit(asyncio.run(main(parser.parse_args().out)))
