"""Load models that cannot be loaded, and print the errors: a program for the environment of the models.

    python check_errors.py FOLDER

FOLDER is what make_weights.py has written. Prints a JSON object: the error of each case.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "apps" / "audiocraft" / "models"))

from generation.devices import check_memory
from generation.errors import CannotLoad
from generation.loading import load
from generation.variables import read


def main(folder: Path) -> None:
    work = folder / "broken"
    work.mkdir()
    nowhere = read({"TRANSFORMERS_CACHE": str(work)})
    here = read({"TRANSFORMERS_CACHE": str(folder)})

    def copied(name: str, change: Callable[[Path], object]) -> str:
        copy = work / f"{name}-{len(list(work.iterdir()))}"
        shutil.copytree(folder / name, copy)
        change(copy)
        return str(copy)

    def other_type(copy: Path) -> None:
        (copy / "config.json").write_text((copy / "config.json").read_text().replace('"musicgen"', '"whisper"'))

    def stereo(copy: Path) -> None:
        config = json.loads((copy / "config.json").read_text())
        config["decoder"]["audio_channels"] = 2
        (copy / "config.json").write_text(json.dumps(config))

    def without_layer(copy: Path) -> None:
        checkpoint = torch.load(copy / "state_dict.bin", weights_only=True)
        del checkpoint["best_state"]["linears.0.weight"]
        torch.save(checkpoint, copy / "state_dict.bin")

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("code of a checkpoint ran",))

    online = read({"TRANSFORMERS_CACHE": str(work), "ALLOW_MODEL_DOWNLOAD": "true"})
    cases: dict[str, Callable[[], object]] = {
        "missing": lambda: load("facebook/musicgen-small", "MUSIC_GEN_MODEL", nowhere, "cpu"),
        "no hub": lambda: load("facebook/musicgen-small", "MUSIC_GEN_MODEL", online, "cpu"),
        "without weights": lambda: load(
            copied("musicgen", lambda copy: (copy / "model.safetensors").unlink()), "MUSIC_GEN_MODEL", here, "cpu"
        ),
        "cut off": lambda: load(
            copied("musicgen", lambda copy: (copy / "model.safetensors").write_bytes(b"\x08")),
            "MUSIC_GEN_MODEL", here, "cpu",
        ),
        "other type": lambda: load(copied("musicgen", other_type), "MUSIC_GEN_MODEL", here, "cpu"),
        "stereo": lambda: load(copied("musicgen", stereo), "MUSIC_GEN_MODEL", here, "cpu"),
        "device": lambda: load(str(folder / "musicgen"), "MUSIC_GEN_MODEL", here, "cuda:0"),
        "memory": lambda: check_memory(10**14, torch.float32, torch.device("cpu"), "MUSIC_GEN_MODEL"),
        "text encoder": lambda: load(str(folder / "audiogen"), "AUDIO_GEN_MODEL", nowhere, "cpu"),
        "layer": lambda: load(copied("audiogen", without_layer), "AUDIO_GEN_MODEL", here, "cpu"),
        "pickle": lambda: load(
            copied("audiogen", lambda copy: torch.save({"best_state": Evil()}, copy / "state_dict.bin")),
            "AUDIO_GEN_MODEL", here, "cpu",
        ),
    }  # fmt: skip
    found = {}
    for name, case in cases.items():
        try:
            case()
            found[name] = "no error"
        except CannotLoad as error:
            found[name] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
