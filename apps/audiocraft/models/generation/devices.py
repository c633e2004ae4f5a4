"""The device of a model, its precision there, and whether it fits into the memory."""

from __future__ import annotations

from typing import Final

import torch

from generation.errors import CannotLoad
from generation.memory import free_memory

_ROOM: Final = 1.15  # of the weights, for what is computed with them and for copies while loading


def check_device(device: str) -> torch.device:
    """Return the device that the manifest chose. Raises CannotLoad."""
    if device.startswith("cuda"):
        if torch.version.cuda is None:
            raise CannotLoad(
                "the model is to run on a GPU, but its environment has torch without CUDA. Install the other one "
                '(`penstock model install --lock requirements.lock`), or state device = "cpu" in its manifest'
            )
        if not torch.cuda.is_available():
            raise CannotLoad(
                f"the model is to run on {device}, which torch {torch.__version__} cannot use: the driver is too old "
                'or not accessible. Update the driver, or state device = "cpu" in the manifest'
            )
    return torch.device(device)


def precision(device: torch.device) -> torch.dtype:
    """Return the type of the weights: half precision on GPUs, where bfloat16 has the range of float32."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def check_memory(parameters: int, dtype: torch.dtype, device: torch.device, variable: str) -> None:
    """Raise CannotLoad if weights of that many numbers do not fit."""
    needed = int(parameters * torch.empty((), dtype=dtype).element_size() * _ROOM)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    if free is not None and needed > free:
        raise CannotLoad(
            f"{variable}: the model needs {needed / 2**30:.1f} GiB on {device}, where {free / 2**30:.1f} GiB are free. "
            "Name a smaller one, stop what else runs there, or let the models take turns (`exclusive` in the manifests)"
        )
