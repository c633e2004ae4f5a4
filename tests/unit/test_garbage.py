"""Garbage is still collected in processes that collect it rarely."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import weakref
from penstock.processes.garbage import collect_rarely

class Node:
    pass

collect_rarely()
first = Node()
first.self = first
found = weakref.ref(first)
del first
kept = []
for _ in range(20_000):
    kept.append([])
    if found() is None:
        print("collected")
        break
"""


def test_cycles_are_still_collected() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "collected\n"
