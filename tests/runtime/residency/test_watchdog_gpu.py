from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ollm_widgets import RuntimeConfig, RuntimeManager
from ollm_widgets.planning.config import GenerationConfig
from ollm_widgets.runtime.residency.neighbours import KernelNeighbours
from tests.runtime.residency.other_kernel import other_kernels
from tests.runtime.residency.test_watchdog_real import Clock, Events

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PROMPT = torch.tensor([[5, 9, 17, 3]])
SHORT = GenerationConfig(max_new_tokens=8)
GPU = "cuda:0"


def test_an_idle_model_gives_its_gpu_memory_to_host_memory_comes_back_and_then_leaves(
    saved_llama: Path, tmp_path: Path
) -> None:
    clock = Clock()
    manager = RuntimeManager(
        idle_timeout_s=900, neighbours=KernelNeighbours(tmp_path / "devices"), clock=clock
    )
    events = Events(manager)
    config = RuntimeConfig(str(saved_llama), device="cuda")
    with manager.acquire(config) as lease:
        before = lease.runtime.generate(PROMPT, SHORT)
    clock.now += 900
    manager._watchdog.poke()
    demoted = events.wait_for("demoted")
    assert demoted.detail == "unused for 15 min"
    assert demoted.change is not None
    assert demoted.change.freed_accelerator_bytes > 0
    assert demoted.change.after.accelerator_bytes == 0
    assert manager.residents()[0].state == "demoted"
    with manager.acquire(config) as lease:
        assert torch.equal(lease.runtime.generate(PROMPT, SHORT), before)
    clock.now += 900
    manager._watchdog.poke()
    clock.now += 900
    manager._watchdog.poke()
    evicted = events.wait_for("evicted")
    assert evicted.change is not None
    assert evicted.change.after.host_bytes == 0
    manager.close()


def test_another_process_that_asks_for_gpu_memory_is_given_some(
    saved_llama: Path, tmp_path: Path
) -> None:
    clock, folder = Clock(), tmp_path / "devices"
    manager = RuntimeManager(
        idle_timeout_s=0, neighbours=KernelNeighbours(folder, "mine.ipynb"), clock=clock
    )
    events = Events(manager)
    manager.acquire(RuntimeConfig(str(saved_llama), device="cuda")).release()
    with other_kernels(folder, "theirs.ipynb") as (theirs,):
        manager.neighbours.publish(manager.shown())
        # It does not use the GPU yet, and so takes over the number that is published.
        (seen,) = theirs.tell("others")
        assert seen["runtimes"][0]["held_bytes"][GPU] > 0
        theirs.tell("ask", GPU, 1000)
        clock.now += 10
        manager._watchdog.poke()
        events.wait_for("asked")
        (demoted,) = events.of("demoted")
        assert demoted.change is not None
        assert demoted.change.freed_accelerator_bytes > 0
    manager.close()
