"""What a real GPU gives; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ollm_widgets.planning.devices import probe_machine
from ollm_widgets.planning.profile.bandwidth import bandwidth_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_every_wire_of_a_gpu_is_measured_and_its_memory_given_back(folder: Path) -> None:
    device = probe_machine().accelerators[0]
    held_bytes = torch.cuda.memory_allocated()
    found = bandwidth_of(device)
    assert found is not None
    for name in ("host_to_device_bytes_per_s", "host_copy_bytes_per_s", "unpack_bytes_per_s"):
        assert getattr(found, name) > 1e8, name
    assert found.read_bytes_per_s > 1e10
    assert found.flops_per_s > 1e11
    assert found.launch_s is not None
    assert found.replay_s is not None
    assert 0 < found.replay_s < 1e-4
    # cuBLAS keeps a workspace for the stream it has seen.
    assert torch.cuda.memory_allocated() - held_bytes < 128 << 20
