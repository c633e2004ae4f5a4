"""Run parts of the tiny AudioGen and print numbers: a program for the environment of the models.

    python run_audiogen.py FOLDER

FOLDER is what make_weights.py has written. test_audiocraft.py compares the numbers with those of audiocraft 1.3.0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers.modeling_outputs import BaseModelOutput

sys.path.insert(0, str(Path(__file__).parents[3] / "apps" / "audiocraft" / "models"))

from generation.loading import load
from generation.variables import read

BOOKS = 4
CODES = 64
MOMENTS = 50
TEXT_WIDTH = 16


def codes() -> torch.Tensor:
    return (torch.arange(BOOKS * MOMENTS) * 7 % CODES).reshape(1, BOOKS, MOMENTS)


def text() -> torch.Tensor:
    return torch.sin(torch.arange(5 * TEXT_WIDTH)).reshape(1, 5, TEXT_WIDTH)


@torch.inference_mode()
def main(folder: Path) -> None:
    name = str(folder / "audiogen")
    model = load(name, "AUDIO_GEN_MODEL", read({"TRANSFORMERS_CACHE": str(folder)}), "cpu").model
    sound = model.audio_encoder.decode(codes()[None], [None]).audio_values[0, 0]
    logits = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=text()),
        attention_mask=torch.ones(1, 5, dtype=torch.long),
        decoder_input_ids=codes()[0, :, :9],
    ).logits
    print(json.dumps({"sound": sound[8000:8008].tolist(), "logits": logits[:, -1, :2].flatten().tolist()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
