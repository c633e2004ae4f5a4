"""Memory that a process has freed is used again, instead of memory that is taken from the system again."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from penstock.processes.allocation import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit("the allocator has no such option")

def receive():
    b"".join([bytes(2**18) for _ in range(4)])

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

receive()
before = faults()
for _ in range(100):
    receive()
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has the option")
def test_a_body_takes_its_memory_from_the_system_once() -> None:
    """A body of a megabyte, received in pieces and joined, has 512 pages."""
    assert _faults("returned") > 100 * 256  # or the option is needless
    assert _faults("kept") < 1000


def _faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout)
