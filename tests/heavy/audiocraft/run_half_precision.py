"""Generate with weights in half precision, as on a GPU: a program for the environment of the models.

    python run_half_precision.py FOLDER

FOLDER is what make_weights.py has written. Prints a JSON object for each model and type of the weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "apps" / "audiocraft" / "models"))

from generation.generator import Generator, Sample, Settings
from generation.loading import load
from generation.variables import read

_TUNE = np.sin(np.arange(22_050) / 10).astype(np.float32)[:, None]


def main(folder: Path) -> None:
    variables = read({"TRANSFORMERS_CACHE": str(folder)})
    settings = Settings(duration=0.5, guidance=3.0, temperature=1.0, top_k=50)
    found = {}
    for name in ("musicgen", "melody", "audiogen"):
        exact = load(str(folder / name), "MODEL", variables, "cpu").model.audio_encoder.state_dict()
        for dtype in (torch.bfloat16, torch.float16):
            loaded = load(str(folder / name), "MODEL", variables, "cpu", dtype=dtype)
            codec = loaded.model.audio_encoder.state_dict()
            melody = None if loaded.melody is None else (_TUNE, 22_050)
            (wave,) = Generator(loaded).generate(
                [Sample(prompt="rain", seed=1, melody=melody)], settings, lambda _: None
            )
            found[f"{name} {dtype}"] = {
                "half": all(one.dtype == dtype for one in loaded.model.decoder.parameters()),
                "codec": all(torch.equal(value, exact[key]) for key, value in codec.items()),
                "loud": bool(np.isfinite(wave).all() and np.abs(wave).max() > 0),
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
