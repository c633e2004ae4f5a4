"""GPUs, read through NVIDIA's management library (NVML)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import pynvml  # type: ignore[import-untyped]  # NVIDIA ships no types

from penstock.sidecar.fetching import SourceFailed
from penstock.sidecar.telemetry import Gpu, GpuProcess

T = TypeVar("T")

_NO_GPUS_HERE: Final = {pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED}
# The driver was unloaded, replaced or reset: the library must be started again.
_LOST: Final = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    pynvml.NVML_ERROR_RESET_REQUIRED,
}


class GpuReader:
    """Reads all GPUs in a separate thread, one reading at a time, because a faulty driver may block for minutes."""

    def __init__(self) -> None:
        self._started = False
        self._busy = False

    async def read(self) -> list[Gpu]:
        """Return all GPUs; none without a driver. Raises SourceFailed when a driver is installed and fails."""
        if self._busy:
            raise SourceFailed("the driver has not completed the last query yet")
        loop = asyncio.get_running_loop()
        reading: asyncio.Future[list[Gpu]] = loop.create_future()

        def settle(gpus: list[Gpu] | None, error: Exception | None) -> None:
            self._busy = False
            if reading.done():  # the waiter was cancelled meanwhile
                return
            if error is not None:
                reading.set_exception(error)
            else:
                reading.set_result(gpus or [])

        def work() -> None:
            gpus, failure = None, None
            try:
                gpus = self._read()
            except Exception as error:  # noqa: BLE001 - it is raised to the waiter
                failure = error
            with suppress(RuntimeError):  # the event loop was closed
                loop.call_soon_threadsafe(settle, gpus, failure)

        # A daemon, so that a thread stuck in the driver does not keep the process from ending.
        self._busy = True
        threading.Thread(target=work, name="penstock-nvml", daemon=True).start()
        return await reading

    def _read(self) -> list[Gpu]:
        try:
            if not self._started:
                pynvml.nvmlInit()
                self._started = True
            return [_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError as error:
            self._forget()
            if error.value in _NO_GPUS_HERE:
                return []
            raise SourceFailed(f"NVML: {error}") from None

    def _forget(self) -> None:
        if self._started:
            self._started = False
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def _gpu(index: int) -> Gpu:
    handle = _known(pynvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:  # the GPU has fallen off the bus, or access is not permitted
        return Gpu(index=index)
    memory = _known(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    memory = memory or _known(pynvml.nvmlDeviceGetMemoryInfo, handle)  # drivers before 510
    usage = _known(pynvml.nvmlDeviceGetUtilizationRates, handle)
    processes = _known(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
    return Gpu(
        index=index,
        name=_known(pynvml.nvmlDeviceGetName, handle),
        uuid=_known(pynvml.nvmlDeviceGetUUID, handle),
        memory_used_bytes=None if memory is None else memory.used,
        memory_total_bytes=None if memory is None else memory.total,
        utilization_percent=None if usage is None else float(usage.gpu),
        temperature_celsius=_known(_temperature, handle),
        power_watts=_watts(_known(pynvml.nvmlDeviceGetPowerUsage, handle)),
        power_limit_watts=_watts(_known(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
        processes=None if processes is None else [_process(process) for process in processes],
    )


def _process(process: Any) -> GpuProcess:
    name = _known(pynvml.nvmlSystemGetProcessName, process.pid)
    # Some drivers add the arguments, which may hold secrets.
    program = name.split()[0].rpartition("/")[2][:100] if name and not name.isspace() else None
    return GpuProcess(pid=process.pid, name=program, memory_bytes=process.usedGpuMemory)


def _temperature(handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _known(query: Callable[..., T], *arguments: object) -> T | None:
    """Return a query's result; None where it is not supported. Raises NVMLError for a lost driver."""
    try:
        return query(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _LOST:
            raise
        return None
    except UnicodeDecodeError:  # a name that is not text
        return None
