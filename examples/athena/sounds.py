"""Recordings of speech that the source of PocketSphinx has, for trials of the example ``speech``."""

from __future__ import annotations

from examples.faces.pictures import Source

POCKETSPHINX = Source(
    requirement="pocketsphinx==5.1.1",
    binary=False,
    folder="pocketsphinx-5.1.1/test/data",
    pictures={
        "goforward.raw": "f15c60ec54059d8b66e410d0064945a0b0a04ea56e1ddca1958e493c0cf70e71",
        "numbers.raw": "45b5f6d3f88e36dd55b025cc9e8f1cae567583ea93f554ecdff6d09e6dd4577d",
    },
)
