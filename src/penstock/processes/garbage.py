"""How often processes that serve look for garbage.

Reference counting frees nearly everything. The collector only finds cycles, and by default it starts for every 700 new
containers: a worker that runs quick jobs spent a quarter of its time on it.
"""

from __future__ import annotations

import gc
from typing import Final

_NEW_CONTAINERS: Final = 10_000  # before the youngest are looked at: about a millisecond of work
_YOUNGER: Final = 10  # collections of one generation before the next older one


def collect_rarely() -> None:
    """Collect garbage less often, and never look at what exists already. Call it once the process is built."""
    gc.freeze()
    gc.set_threshold(_NEW_CONTAINERS, _YOUNGER, _YOUNGER)
