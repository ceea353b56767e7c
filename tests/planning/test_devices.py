from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ollm_widgets.planning import devices
from ollm_widgets.planning.devices import Machine, choose_dtype, probe_machine


def test_this_machine_has_some_memory_free() -> None:
    machine = probe_machine()
    assert 0 < machine.ram_free_bytes <= machine.ram_total_bytes
    assert machine.cpu.kind == "cpu"
    assert machine.cpu.title


def test_a_container_has_no_more_memory_than_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.current").write_text("800000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 300000000\n")
    monkeypatch.setattr(devices, "_CGROUP_V2", tmp_path)
    machine = probe_machine()
    assert machine.ram_total_bytes == 1_000_000_000
    assert machine.ram_free_bytes == 500_000_000


def test_a_container_without_a_limit_has_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(devices, "_CGROUP_V2", tmp_path)
    monkeypatch.setattr(devices, "_CGROUP_V1", tmp_path)
    assert probe_machine().ram_total_bytes > 1_000_000_000


def test_cuda_without_a_number_is_the_first_one(make_machine: Callable[..., Machine]) -> None:
    machine = make_machine(gpu_gib=(8, 16))
    first, second = machine.accelerators
    assert machine.find("cuda") is first
    assert machine.find("cuda:1") is second
    assert machine.find("cpu") is machine.cpu
    assert machine.find("cuda:2") is None
    assert machine.find("mps") is None


@pytest.mark.parametrize(
    ("stored", "on_cpu", "on_bf16_cpu", "on_gpu"),
    [
        ("bfloat16", "float32", "bfloat16", "bfloat16"),
        ("float16", "float32", "float32", "float16"),
        ("float32", "float32", "float32", "float32"),
        ("Q4_1", "float32", "bfloat16", "bfloat16"),
        (None, "float32", "bfloat16", "bfloat16"),
    ],
)
def test_the_dtype_is_the_fastest_that_loses_nothing(
    make_machine: Callable[..., Machine],
    stored: str | None,
    on_cpu: str,
    on_bf16_cpu: str,
    on_gpu: str,
) -> None:
    plain, able = make_machine(gpu_gib=(8,)), make_machine(bf16=True)
    assert choose_dtype(stored, plain.cpu, "auto") == on_cpu
    assert choose_dtype(stored, able.cpu, "auto") == on_bf16_cpu
    assert choose_dtype(stored, plain.accelerators[0], "auto") == on_gpu
    assert choose_dtype(stored, plain.cpu, "float16") == "float16"


def test_planning_on_a_machine_without_accelerator_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "import ollm_widgets.planning.selector\n"
        "from ollm_widgets.planning import devices\n"
        "light = not {'torch', 'transformers', 'numpy', 'psutil'} & set(sys.modules)\n"
        "may_have_accelerator = devices._may_have_accelerator()\n"
        "devices.probe_machine()\n"
        "print(light, ('torch' in sys.modules) == may_have_accelerator)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["True", "True"]
