"""A program for the subprocess runtime that does what the shared suite asks: a JSON line in, JSON lines out."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import subprocess
import sys
import time
from typing import Any


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def respond(given: dict[str, Any]) -> None:
    match given["op"]:
        case "echo":
            say({"text": given.get("text", "")})
        case "stream":
            for number in range(given["n"]):
                say({"final": False, "output": number})
            say({"final": True})
        case "raise":
            say({"error": "this is what went wrong"})
        case "exit":
            os._exit(9)
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "sleep":
            time.sleep(given["seconds"])
            say({"text": "slept"})
        case "grow":  # in a child of this program, which counts too
            child = [sys.executable, "-c", "import time; kept = bytearray(300 * 2**20); time.sleep(60)"]
            subprocess.run(child, check=False)
        case "blob":
            data = base64.b64decode(given["blob"].partition(",")[2])
            say({"blob": "data:image/x-mirrored;base64," + base64.b64encode(data[::-1]).decode()})
        case "print":
            print(given["text"], file=sys.stderr, flush=True)
            say({"text": "printed"})


for line in sys.stdin:
    respond(json.loads(line))
