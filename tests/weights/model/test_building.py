"""Models that are built by several threads at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ollm_widgets import Cancelled
from ollm_widgets.weights.model.building import building
from ollm_widgets.weights.model.skeleton import build_skeleton

CPU = torch.device("cpu")


def test_models_of_two_precisions_built_at_once_leave_torchs_default_alone(
    saved_llama: Path,
) -> None:
    before = torch.get_default_dtype()
    dtypes = [torch.bfloat16, torch.float32, torch.float16, torch.float64] * 6

    def build(dtype: torch.dtype) -> set[torch.dtype]:
        model = build_skeleton(saved_llama, dtype, CPU, "causal-lm")
        return {parameter.dtype for parameter in model.parameters()}

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(build, dtypes))
    assert found == [{dtype} for dtype in dtypes]
    assert torch.get_default_dtype() == before


def test_who_waits_for_another_build_can_be_cancelled() -> None:
    cancel, inside, finish = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        with building():
            inside.set()
            finish.wait(20)

    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(hold)
        assert inside.wait(20)
        cancel.set()
        try:
            with pytest.raises(Cancelled), building(cancel):
                pass
        finally:
            finish.set()
        held.result(20)
    with building(cancel):
        pass
