"""The kinds of data that engines exchange, and the states of a stream, by the numbers that engines use."""

from __future__ import annotations

from typing import Final, Literal

Kind = Literal["text", "audio", "image", "video", "other"]

TEXT: Final = 0
AUDIO: Final = 1
IMAGE: Final = 2
VIDEO: Final = 3
OTHER: Final = 4  # the C interface calls it Per: data of one person or tenant, such as a resource
NAMES: Final[tuple[Kind, ...]] = ("text", "audio", "image", "video", "other")  # by number

BEGIN: Final = 0
CONTINUE: Final = 1
END: Final = 2
ONCE: Final = 3  # the data is complete
