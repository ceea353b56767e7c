from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ollm_widgets.planning.devices import probe_machine
from ollm_widgets.runtime.residency.gauge import SystemGauge, device_uuids
from ollm_widgets.runtime.residency.surroundings import RAM

MIB = 1024**2


def test_host_memory_is_what_a_plan_counts_on() -> None:
    level, machine = SystemGauge().levels()[RAM], probe_machine()
    assert level.total_bytes == machine.ram_total_bytes
    # Two readings of a machine that others use, too.
    assert abs(level.free_bytes - machine.ram_free_bytes) < 2**30
    assert 0 < level.free_bytes <= level.total_bytes


def test_a_limit_of_the_container_is_the_memory_that_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ollm_widgets.planning import devices

    monkeypatch.setattr(devices, "_cgroup_memory", lambda: (64 * MIB, 60 * MIB))
    level = SystemGauge().levels()[RAM]
    assert (level.total_bytes, level.free_bytes) == (64 * MIB, 4 * MIB)
    assert level.used_share == pytest.approx(0.9375)


def test_reading_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ollm_widgets.runtime.residency.gauge import SystemGauge, device_uuids; "
        "assert set(SystemGauge().levels()) == {'ram'} and not device_uuids(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


def test_a_gpu_that_this_process_does_not_use_is_not_asked() -> None:
    import torch

    if torch.cuda.is_initialized():
        pytest.skip("another test of this process uses CUDA already")
    assert not [place for place in SystemGauge().levels() if place.startswith("cuda")]
    assert not device_uuids()
    assert not torch.cuda.is_initialized()
