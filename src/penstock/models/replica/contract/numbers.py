"""NumPy and Pillow, which are imported when they are first needed."""

from __future__ import annotations

from typing import Any

_INSTALL = 'pip install "penstock[media]", or {} in the Python that the manifest names as interpreter'


def numpy_itself() -> Any:
    """Return the module numpy. Raises ImportError that says what to install."""
    try:
        import numpy as np  # noqa: PLC0415
        import numpy.lib.format  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(f"arrays and samples need NumPy: {_INSTALL.format('numpy')}") from error
    return np


def pillow() -> Any:
    """Return the module PIL.Image. Raises ImportError that says what to install."""
    try:
        import PIL.Image  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(f"pictures are opened and made with Pillow: {_INSTALL.format('pillow')}") from error
    return PIL.Image
