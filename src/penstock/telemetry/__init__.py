"""Logs and metrics of a process."""

import sys

# structlog imports rich for tracebacks that we never print, which takes a tenth of a process's start time.
if "structlog" not in sys.modules and "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # so that importing it fails, which structlog expects
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
