"""An app with two services whose models do next to nothing, in the layout of AudioCraft: sounds and music as files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

APP: Final = """
name = "sounds"
version = "0.1.4"
title = "Sounds"
[limits]
max_input_bytes = 65536
[price]
unit = "second"
units = "/seconds"
[[services]]
name = "audio-gen"
model = "audiogen"
port = 8081
port_variable = "AUDIO_GEN_PORT"
[[services]]
name = "music-gen"
model = "musicgen"
port = 8082
port_variable = "MUSIC_GEN_PORT"
[variables]
MAX_DURATION = 30
"""
FLOW: Final = '''
from typing import Any, Literal

from penstock.flows import flow, run


@flow(name="sounds", version="1")
async def sounds(text: str, kind: Literal["sound", "music"] = "sound", seconds: float = 1.0) -> dict[str, Any]:
    """Makes a sound or music."""
    made = await run.call("audiogen" if kind == "sound" else "musicgen", {"text": text, "seconds": seconds})
    return {"kind": kind, "seconds": seconds, "audio": made["audio"]}
'''
MODEL: Final = '''
import os
from typing import Any

from penstock import BadInput


class {name}:
    """Makes {kind} of a text: two kilobytes of it."""

    def predict(self, text: str, seconds: float = 1.0) -> dict[str, Any]:
        if seconds > float(os.environ["MAX_DURATION"]):
            raise BadInput("is more than MAX_DURATION", field="seconds")
        return {{"audio": self.file("{kind} of " + text), "seconds": seconds}}

    def file(self, text: str) -> str:
        import base64

        return "data:audio/wav;base64," + base64.b64encode((text + "\\n").encode().ljust(2048, b".")).decode()
'''
MANIFEST: Final = 'name = "{name}"\nruntime = "python"\n[python]\nclass = "{module}:{class_name}"\n'


def write_app(folder: Path) -> Path:
    """Write the app into a folder of apps, and return the app's folder."""
    app = folder / "sounds"
    for name, class_name, kind in (("audiogen", "AudioGen", "sound"), ("musicgen", "MusicGen", "music")):
        model = app / "models" / name
        model.mkdir(parents=True)
        module = f"{name}_model"
        (model / f"{module}.py").write_text(MODEL.format(name=class_name, kind=kind))
        (model / "model.toml").write_text(MANIFEST.format(name=name, module=module, class_name=class_name))
    (app / "app.toml").write_text(APP)
    (app / "sounds.py").write_text(FLOW)
    return app
