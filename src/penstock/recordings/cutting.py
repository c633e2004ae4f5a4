"""Cut long recordings into pieces at quiet places, for models with a limit on the length of a recording."""

from __future__ import annotations

import array
import asyncio
import math
import sys
import wave
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Final

from penstock.recordings.recording import Recording

_REACH_SECONDS: Final = 15.0  # how far a cut may be moved to a quieter place
_FRAME_SECONDS: Final = 0.02
_PAUSE_FRAMES: Final = 10  # frames whose loudness counts together, to find pauses between words, not within one
_FULL: Final = 0.9  # the planned share of the longest piece, so that cuts can be moved either way


async def cuts(recording: Recording, longest_seconds: float) -> list[float]:
    """Return where the pieces begin, in seconds, and where the last one ends; none is longer than allowed.

    ``recording`` is one that ``converted`` wrote: 16-bit mono wav.
    """
    return await asyncio.to_thread(_cuts, recording.path, longest_seconds)


async def piece(recording: Recording, begin: float, end: float, to: Path) -> Recording:
    """Write the sound between two times to a separate file. Raises OSError when it cannot be written."""
    return await asyncio.to_thread(_piece, recording, begin, end, to)


def _cuts(path: Path, longest_seconds: float) -> list[float]:
    with wave.open(str(path), "rb") as file:
        rate, total = file.getframerate(), file.getnframes()
        most = max(1, int(longest_seconds * rate))
        begins = [0]
        while (rest := total - begins[-1]) > most:
            length = rest // math.ceil(rest / (_FULL * most))  # the number of pieces of equal length
            reach = min(int(_REACH_SECONDS * rate), length // 3)
            begin = begins[-1]
            begins.append(
                _quietest(file, begin + length - reach, begin + min(length + reach, most), aim=begin + length)
            )
    return [sample / rate for sample in [*begins, total]]


def _quietest(file: wave.Wave_read, low: int, high: int, *, aim: int) -> int:
    """Return the quietest sample between ``low`` and ``high``; of several, the nearest to ``aim``."""
    step = max(1, round(_FRAME_SECONDS * file.getframerate()))
    file.setpos(low)
    samples = array.array("h", file.readframes(high - low))
    if sys.byteorder == "big":
        samples.byteswap()
    loudness = [sum(map(abs, samples[at : at + step])) for at in range(0, len(samples) - step + 1, step)]
    pause = min(_PAUSE_FRAMES, len(loudness))
    if not pause:
        return aim
    sums = [0, *accumulate(loudness)]
    middles = [low + (first + pause // 2) * step for first in range(len(loudness) - pause + 1)]
    heard: Sequence[int] = [sums[first + pause] - sums[first] for first in range(len(middles))]
    _, _, found = min((loud, abs(middle - aim), middle) for loud, middle in zip(heard, middles, strict=True))
    return found


def _piece(recording: Recording, begin: float, end: float, to: Path) -> Recording:
    with wave.open(str(recording.path), "rb") as source:
        rate = source.getframerate()
        first, last = round(begin * rate), round(end * rate)
        source.setpos(first)
        samples = source.readframes(last - first)
        with wave.open(str(to), "wb") as target:
            target.setparams(source.getparams())
            target.writeframes(samples)
    return replace(recording, path=to, size_bytes=to.stat().st_size, duration_seconds=(last - first) / rate)
