from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from ollm_widgets.runtime.residency.gauge import SystemGauge, device_uuids

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MIB = 1024**2


def test_what_torch_keeps_for_reuse_on_a_gpu_counts_as_free() -> None:
    kept = torch.empty(256 * MIB, dtype=torch.uint8, device="cuda:0")
    held = SystemGauge().levels()["cuda:0"]
    del kept
    level = SystemGauge().levels()["cuda:0"]
    assert level.total_bytes == torch.cuda.mem_get_info(0)[1]
    assert level.free_bytes - held.free_bytes > 128 * MIB
    torch.cuda.empty_cache()
    assert abs(SystemGauge().levels()["cuda:0"].free_bytes - level.free_bytes) < 64 * MIB


def test_asking_creates_no_context_on_another_gpu() -> None:
    code = (
        "import torch; from ollm_widgets.runtime.residency.gauge import SystemGauge; "
        "assert set(SystemGauge().levels()) == {'ram'}; "
        "torch.ones(1, device='cuda:0'); "
        "assert set(SystemGauge().levels()) == {'ram', 'cuda:0'}"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ, check=True)


def test_a_gpu_has_the_uuid_that_the_driver_gives_it() -> None:
    torch.ones(1, device="cuda:0")
    assert device_uuids()["cuda:0"] == f"GPU-{torch.cuda.get_device_properties(0).uuid}"
