"""The environment variables of the models, with the defaults of the app's manifest."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Variables:
    """What an operator sets."""

    max_duration: float  # seconds of one sample
    max_prompt_length: int  # characters
    audio_gen_model: str  # names at the hub, or folders
    music_gen_model: str
    melody_model: str  # for music with a melody, where music_gen_model cannot have one; empty: none
    caches: tuple[Path, ...]  # folders that hold weights: as NAME, or as the hub's cache
    may_download: bool


def read(environment: Mapping[str, str]) -> Variables:
    """Return the variables. Raises ValueError, which names the wrong one."""

    def stated(name: str, default: str) -> str:
        return environment.get(name, "").strip() or default

    caches = [
        Path(stated(name, default)).expanduser()
        for name, default in (
            ("TRANSFORMERS_CACHE", "/model_hub"),
            ("AUDIOCRAFT_CACHE_DIR", "/model_hub"),
            ("CACHE_MODEL_DIR", "../model_hub"),
        )
    ]
    return Variables(
        max_duration=_number("MAX_DURATION", stated("MAX_DURATION", "30"), 1, 600),
        max_prompt_length=int(_number("MAX_PROMPT_LEN", stated("MAX_PROMPT_LEN", "100"), 1, 10_000)),
        audio_gen_model=stated("AUDIO_GEN_MODEL", "facebook/audiogen-medium"),
        music_gen_model=stated("MUSIC_GEN_MODEL", "facebook/musicgen-small"),
        melody_model=environment.get("MUSIC_GEN_MELODY_MODEL", "facebook/musicgen-melody").strip(),
        caches=tuple(dict.fromkeys(Path(os.path.normpath(path.absolute())) for path in caches)),
        may_download=_flag("ALLOW_MODEL_DOWNLOAD", stated("ALLOW_MODEL_DOWNLOAD", "")),
    )


def _number(name: str, text: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}, not {text[:40]!r}")
    return number


def _flag(name: str, text: str) -> bool:
    if text.lower() not in _YES | _NO:
        raise ValueError(f"{name} must be true or false, not {text[:40]!r}")
    return text.lower() in _YES
