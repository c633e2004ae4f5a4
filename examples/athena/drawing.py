"""Pictures of what the wrappers returned."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from examples.athena.calls import RATE, Heard

GREEN, GREY, PALE = "#1b7f4b", "#777777", "#e4e4e4"
_COLOURS = 48  # of a picture, so that its file is small
_SPEECH = (640, 190)  # pixels


def printed(lines: Sequence[str]) -> PIL.Image.Image:
    """Return a page with these lines, slightly turned, as a scanner would see it."""
    page = PIL.Image.new("RGB", (720, 90 + 90 * len(lines)), "white")
    for number, line in enumerate(lines):
        _write(page, (40, 40 + 90 * number), line, size=40)
    return page.rotate(1.5, resample=PIL.Image.Resampling.BICUBIC, fillcolor="white")


def boxes(page: PIL.Image.Image, found: Sequence[Mapping[str, Any]]) -> PIL.Image.Image:
    """Return the page with a box around each text, and below it what was read."""
    drawn = page.copy()
    canvas = PIL.ImageDraw.Draw(drawn)
    for text in found:
        corners = [(x, y) for x, y in text["box"]]
        canvas.line([*corners, corners[0]], fill=GREEN, width=3, joint="curve")
        left, bottom = corners[3]
        _write(drawn, (left, bottom + 6), f"{text['text']}  {text['score']:.2f}", size=18, colour=GREEN)
    return drawn


def matrix(texts: Sequence[str], cosines: np.ndarray[Any, Any]) -> PIL.Image.Image:
    """Return a picture of the cosine of each text with each other."""
    cell, left, top = 44, 400, 60
    side = cell * len(texts)
    drawn = PIL.Image.new("RGB", (left + side + 20, top + side + 20), "white")
    canvas = PIL.ImageDraw.Draw(drawn)
    _write(drawn, (20, 20), "cosine of the vectors of nine texts", size=18, colour=GREY)
    for row, text in enumerate(texts):
        y = top + cell * row
        _write(drawn, (20, y + 12), f"{row + 1}  {text}", size=17)
        _write(drawn, (left + cell * row + 17, top - 24), str(row + 1), size=15, colour=GREY)
        for column, value in enumerate(cosines[row]):
            x = left + cell * column
            canvas.rectangle((x, y, x + cell - 2, y + cell - 2), fill=_shade(float(value)))
            colour = "white" if value > 0.5 else "black"
            _write(drawn, (x + 7, y + 13), f"{max(0.0, float(value)):.2f}", size=14, colour=colour)
    return drawn


def speech(sound: bytes, heard: Sequence[Heard]) -> list[tuple[PIL.Image.Image, int]]:
    """Return the frames of a film with their milliseconds: the sound sent so far, and the words that had come."""
    samples = np.frombuffer(sound, np.int16)
    length = len(samples) / RATE
    times = [*(one.seconds for one in heard), heard[-1].seconds + 2.5]
    frames = [(_spoken(samples, 0.0, "", last=False), max(100, round(1000 * times[0])))]
    for one, (begun, ended) in zip(heard, pairwise(times), strict=True):
        shown = _spoken(samples, min(1.0, one.seconds / length), one.text, last=one is heard[-1])
        frames.append((shown, max(100, round(1000 * (ended - begun)))))
    return frames


def encoded(picture: PIL.Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def save(picture: PIL.Image.Image, path: Path) -> None:
    """Write a drawing in few colours."""
    picture.quantize(_COLOURS, dither=PIL.Image.Dither.NONE).save(path, optimize=True)


def save_photo(data: bytes, path: Path, *, height: int) -> None:
    photo = PIL.Image.open(io.BytesIO(data)).convert("RGB")
    photo.resize((round(photo.width * height / photo.height), height)).save(path, quality=80, optimize=True)


def save_film(frames: Sequence[tuple[PIL.Image.Image, int]], path: Path) -> None:
    first, *others = [picture.quantize(16, dither=PIL.Image.Dither.NONE) for picture, _ in frames]
    durations = [milliseconds for _, milliseconds in frames]
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, optimize=True)


def _spoken(samples: np.ndarray[Any, Any], part: float, text: str, *, last: bool) -> PIL.Image.Image:
    """Return the waveform, green as far as it was sent, and the words."""
    width, height = _SPEECH
    frame = PIL.Image.new("RGB", _SPEECH, "white")
    canvas = PIL.ImageDraw.Draw(frame)
    columns = np.array_split(np.abs(samples.astype(np.float32)), width - 80)
    loudest = max(1.0, float(np.abs(samples.astype(np.float32)).max()))
    for at, column in enumerate(columns):
        half = 1 + 45 * float(column.max()) / loudest
        colour = GREEN if at < part * len(columns) else PALE
        canvas.line((40 + at, 65 - half, 40 + at, 65 + half), fill=colour)
    _write(frame, (40, height - 60), text or "…", size=26, colour=GREEN if last else GREY)
    return frame


def _shade(value: float) -> tuple[int, int, int]:
    """Return a colour from white (0) to green (1)."""
    part = min(1.0, max(0.0, value))
    return (round(255 - 228 * part), round(255 - 128 * part), round(255 - 180 * part))


def _write(picture: PIL.Image.Image, at: tuple[float, float], text: str, *, size: int, colour: str = "black") -> None:
    PIL.ImageDraw.Draw(picture).text(at, text, fill=colour, font=PIL.ImageFont.load_default(size))
