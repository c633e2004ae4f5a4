"""Find the devices of this host, and choose one for each replica."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from penstock.failures import CallFailed, Category

CPU: Final = "cpu"
AUTO: Final = "auto"  # the GPU with the most free memory; the CPU where there is none
_DRIVER_SECONDS: Final = 10.0  # a faulty driver may block for minutes
_ROOMY: Final = 0.9  # GPUs with this share of the most free memory are taken in turns
_UNCOUNTED: Final = (Path("/dev/kfd"), Path("/dev/nvgpu"), Path("/dev/nvhost-gpu"))  # of GPUs that NVML does not know
_turns = itertools.count()


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that this process may use."""

    id: str  # as CUDA_VISIBLE_DEVICES names it
    uuid: str
    name: str
    free_bytes: int
    lost: bool = False  # the GPU has fallen off the bus; the others keep their numbers


@dataclass(frozen=True, slots=True)
class Placement:
    """The device on which one replica runs."""

    device: str  # as the model names it: the model sees only its own GPU, so that is number 0
    visible: str  # CUDA_VISIBLE_DEVICES of the replica


async def place(stated: str, environment: Mapping[str, str]) -> Placement:
    """Return the place of a replica whose manifest states ``cpu``, ``auto`` or ``cuda:N``.

    Raises CallFailed (``unavailable``), which names the devices there are.
    """
    if stated == CPU:
        return Placement(CPU, "")
    return choose(stated, await _found(), environment.get("CUDA_VISIBLE_DEVICES"))


def choose(stated: str, gpus: Sequence[Gpu] | None, allowed: str | None) -> Placement:
    """Return the place of a replica, given the GPUs of this host (None: they cannot be counted) and the ones that
    CUDA_VISIBLE_DEVICES allows."""
    if gpus is None:
        return _trusted(stated, allowed)
    usable = visible(gpus, allowed)
    if stated == AUTO:
        sound = [gpu for gpu in usable if not gpu.lost]
        return Placement("cuda:0", _roomiest(sound).id) if sound else Placement(CPU, "")
    index = int(stated.partition(":")[2])
    if index < len(usable) and usable[index].lost:
        raise CallFailed(Category.UNAVAILABLE, f"{stated} cannot be used: its driver has lost it")
    if index < len(usable):
        return Placement("cuda:0", usable[index].id)
    there_are = ", ".join([CPU, *(f"cuda:{number} ({gpu.name})" for number, gpu in enumerate(usable))])
    limited = "" if allowed is None else f", of those that CUDA_VISIBLE_DEVICES={allowed[:100]!r} allows"
    raise CallFailed(Category.UNAVAILABLE, f"there is no {stated} here; there is {there_are}{limited}")


def visible(gpus: Sequence[Gpu], allowed: str | None) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES allows, in the order of their numbers.

    Entries are indices or beginnings of UUIDs. As in CUDA, everything after an entry that names no GPU is ignored.
    """
    if allowed is None:
        return list(gpus)
    found: list[Gpu] = []
    for entry in (part.strip() for part in allowed.split(",")):
        gpu = _named(gpus, entry)
        if gpu is None:
            break
        found.append(gpu)
    return found


def _named(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    if entry.isdigit():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    if entry.startswith("MIG-") and gpus:  # a part of one of them, which NVML lists elsewhere
        return Gpu(entry, entry, "MIG", 0)
    if not entry.startswith("GPU-"):
        return None
    matching = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
    return Gpu(entry, matching[0].uuid, matching[0].name, matching[0].free_bytes) if len(matching) == 1 else None


def _roomiest(gpus: Sequence[Gpu]) -> Gpu:
    """Return the GPU with the most free memory. GPUs with about as much take turns, so that replicas that start
    together are distributed."""
    most = max(gpu.free_bytes for gpu in gpus)
    roomy = [gpu for gpu in gpus if gpu.free_bytes >= _ROOMY * most]
    return roomy[next(_turns) % len(roomy)]


def _trusted(stated: str, allowed: str | None) -> Placement:
    """Return the stated device of a host whose GPUs cannot be counted."""
    entries = [part.strip() for part in (allowed or "").split(",") if part.strip()]
    index = 0 if stated == AUTO else int(stated.partition(":")[2])
    if allowed is None:
        return Placement("cuda:0", str(index))
    if index < len(entries):
        return Placement("cuda:0", entries[index])
    raise CallFailed(Category.UNAVAILABLE, f"there is no {stated} here; CUDA_VISIBLE_DEVICES allows {len(entries)}")


async def _found() -> list[Gpu] | None:
    """Return the GPUs of this host; None where they cannot be counted. Raises CallFailed."""
    loop = asyncio.get_running_loop()
    reading: asyncio.Future[list[Gpu] | None] = loop.create_future()

    def settle(gpus: list[Gpu] | None) -> None:
        if not reading.done():
            reading.set_result(gpus)

    def read() -> None:
        gpus = read_gpus()
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, gpus)

    # A daemon, so that a thread stuck in the driver does not keep the process from ending.
    threading.Thread(target=read, name="penstock-devices", daemon=True).start()
    try:
        async with asyncio.timeout(_DRIVER_SECONDS):
            return await reading
    except TimeoutError:
        raise CallFailed(Category.UNAVAILABLE, f"the GPU driver has not responded for {_DRIVER_SECONDS:g} s") from None


def read_gpus() -> list[Gpu] | None:
    """Return the GPUs that NVIDIA's library (NVML) lists; None where there are GPUs that it does not know. Blocks."""
    import pynvml  # type: ignore[import-untyped]  # noqa: PLC0415  (only hosts with such models need it)

    try:
        pynvml.nvmlInit()
        try:
            return [_read(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None if any(path.exists() for path in _UNCOUNTED) else []


def _read(nvml: Any, index: int) -> Gpu:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError:
        return Gpu(str(index), "", "lost", 0, lost=True)
    uuid, name, free = "", "GPU", 0
    with suppress(nvml.NVMLError, UnicodeDecodeError):
        name = nvml.nvmlDeviceGetName(handle)
    with suppress(nvml.NVMLError, UnicodeDecodeError):
        uuid = nvml.nvmlDeviceGetUUID(handle)
    with suppress(nvml.NVMLError):
        free = nvml.nvmlDeviceGetMemoryInfo(handle).free
    return Gpu(str(index), uuid, name, free)
