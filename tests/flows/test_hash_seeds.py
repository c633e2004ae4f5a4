"""The order in which code runs does not depend on the seed of hashes or on addresses."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAMS = """
import hashlib, random, sys
from tests.flows.test_histories import Program, executed

def program(chance, depth=0):
    leaves = ["call", "started", "shared", "sleep", "signal", "map", "publish"]
    trees = ["sequence", "each", "gather", "race", "their gather", "wait", "group", "completed", "timeout", "tolerant"]
    if depth == 3 or chance.random() < 0.3:
        return Program(chance.choice(leaves), (), chance.randint(0, 2))
    inside = tuple(program(chance, depth + 1) for _ in range(chance.randint(1, 4)))
    return Program(chance.choice(trees), inside, chance.randint(1, 3))

garbage = [object() for _ in range(int(sys.argv[1]))]  # other addresses
found = hashlib.sha256()
for seed in range(60):
    driver = executed(program(random.Random(seed)), seed, replays=bool(seed % 2), cancels=bool(seed % 3))
    found.update(repr((driver.run.keys(), [turn.taken for turn in driver.run.turns], driver.run.dropped)).encode())
print(found.hexdigest())
"""


def test_runs_are_the_same_with_other_hash_seeds_and_addresses() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", PROGRAMS, str(1000 * int(seed))],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(found) == 1
