"""Loading and unloading on an accelerator, over and over; skipped where there is none."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from ollm_widgets import GenerationConfig, RuntimeConfig, RuntimeLoader, RuntimeManager
from tests.runtime.residency.simulated import NoNeighbours

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CYCLES, WARM_UP = 100, 5
SHORT = GenerationConfig(max_new_tokens=4)


def device_bytes() -> tuple[int, int]:
    """What is allocated, without the workspaces of matrix products, and what nobody has."""
    gc.collect()
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]


def test_the_accelerators_memory_is_back_at_its_start_after_a_hundred_loads(
    saved_llama: Path,
) -> None:
    manager = RuntimeManager(RuntimeLoader(), neighbours=NoNeighbours())
    config = RuntimeConfig(str(saved_llama), device="cuda:0")
    before, free = 0, 0
    for cycle in range(CYCLES):
        with manager.acquire(config) as lease:
            lease.runtime.generate(torch.tensor([[5, 9, 17, 3]]), SHORT)
            if cycle % 2:
                runtime_id = lease.id
        if cycle % 2:
            manager.demote(runtime_id)
        unloaded = manager.unload(manager.residents()[0].id)
        assert unloaded.after.accelerator_bytes == unloaded.after.host_bytes == 0
        if cycle == WARM_UP:
            before, free = device_bytes()
    allocated, left = device_bytes()
    assert allocated <= before
    assert left >= free * 0.99
    manager.close()
