"""The choice of a GPU for each replica, and the errors where there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.errors import ModelUnavailable
from penstock.failures import CallFailed
from penstock.models.host.devices import Gpu, Placement, choose, read_gpus, visible
from tests.support.models import Models, read
from tests.support.nvml import build_nvml
from tests.support.processes import clean_environment

GIB = 2**30
GPUS = [
    Gpu("0", "GPU-aa11", "A100", 10 * GIB),
    Gpu("1", "GPU-aa22", "A100", 70 * GIB),
    Gpu("2", "GPU-bb33", "L4", 20 * GIB),
]
PLACE = """
class Model:
    def predict(self) -> list[str]:
        import os
        from penstock import context
        return [context().device, os.environ["CUDA_VISIBLE_DEVICES"]]
"""


@pytest.mark.parametrize(
    ("device", "allowed", "seen"),
    [
        ("cuda:0", None, "0"),
        ("cuda:2", None, "2"),
        ("cuda:1", "2,0", "0"),
        ("cuda:1", "GPU-bb, GPU-aa22", "GPU-aa22"),
        ("cuda:0", "MIG-5f3a", "MIG-5f3a"),
        ("auto", None, "1"),
        ("auto", "2,0", "2"),
    ],
)
def test_a_replica_sees_one_gpu_as_number_0(device: str, allowed: str | None, seen: str) -> None:
    assert choose(device, GPUS, allowed) == Placement("cuda:0", seen)


@pytest.mark.parametrize("allowed", ["", "-1", "NoDevFiles", "7", "GPU-aa", "GPU-cc"])
def test_auto_is_the_cpu_where_no_gpu_is_allowed(allowed: str) -> None:
    """``GPU-aa`` is the beginning of two names: CUDA takes neither."""
    assert choose("auto", GPUS, allowed) == Placement("cpu", "")
    assert choose("auto", [], None) == Placement("cpu", "")


def test_gpus_after_a_wrong_entry_are_not_visible() -> None:
    assert [gpu.id for gpu in visible(GPUS, "1,9,0")] == ["1"]


def test_replicas_that_start_together_spread_over_equal_gpus() -> None:
    equal = [Gpu(str(number), "", "A100", 40 * GIB + number) for number in range(4)]
    assert {choose("auto", equal, None).visible for _ in range(4)} == {"0", "1", "2", "3"}


@pytest.mark.parametrize(
    ("gpus", "allowed", "message"),
    [
        ([], None, "there is no cuda:3 here; there is cpu"),
        (GPUS, None, r"there is no cuda:3 here; there is cpu, cuda:0 \(A100\), cuda:1 \(A100\), cuda:2 \(L4\)"),
        (GPUS, "2", r"there is cpu, cuda:0 \(L4\), of those that CUDA_VISIBLE_DEVICES='2' allows"),
        (None, "2", "there is no cuda:3 here; CUDA_VISIBLE_DEVICES allows 1"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(
    gpus: list[Gpu] | None, allowed: str | None, message: str
) -> None:
    with pytest.raises(CallFailed, match=message) as caught:
        choose("cuda:3", gpus, allowed)
    assert caught.value.category == "unavailable"


def test_a_gpu_that_the_driver_has_lost_is_refused() -> None:
    with pytest.raises(CallFailed, match="cuda:0 cannot be used: its driver has lost it"):
        choose("cuda:0", [Gpu("0", "", "lost", 0, lost=True)], None)


def test_gpus_that_cannot_be_counted_are_trusted() -> None:
    """NVIDIA's library does not list GPUs of other makers."""
    assert choose("cuda:3", None, None) == Placement("cuda:0", "3")
    assert choose("auto", None, "5,6") == Placement("cuda:0", "5")


async def test_a_model_on_a_gpu_that_is_not_there_is_not_loaded(models: Models) -> None:
    with pytest.raises(ModelUnavailable, match="there is no cuda:77 here; there is cpu"):
        await models.serve("far", PLACE, device="cuda:77")


@pytest.mark.skipif(bool(read_gpus()), reason="this machine has GPUs")
async def test_auto_works_without_a_driver(models: Models) -> None:
    deployment = await models.serve("anywhere", PLACE, device="auto")
    assert read(await models.begin(deployment, {}).done) == ["cpu", ""]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_gpus_are_read_from_the_driver(tmp_path: Path) -> None:
    """A GPU that has fallen off the bus keeps its number and is never picked."""
    code = (
        "from penstock.models.host.devices import choose, read_gpus as r; print(r()); print(choose('auto', r(), None))"
    )
    environment = clean_environment(LD_LIBRARY_PATH=str(build_nvml(tmp_path)), FAKE_NVML=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found, picked = done.stdout.splitlines()
    assert found.count("Gpu(") == 3
    assert "Gpu(id='0', uuid='GPU-5f3a', name='NVIDIA A100-SXM4-80GB'" in found
    assert "Gpu(id='2', uuid='', name='lost', free_bytes=0, lost=True)" in found
    assert "visible='2'" not in picked
