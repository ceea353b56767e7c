from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ollm_widgets import RuntimeManager
from ollm_widgets.notebook.memory import list_memory
from ollm_widgets.runtime.residency.surroundings import HeldRuntime, Holder
from tests.runtime.residency.simulated import GIB, GPU, SimulatedLoader, manager_of, three_models


@pytest.fixture
def models(saved_llama: Path) -> SimulatedLoader:
    return three_models(saved_llama)


@pytest.fixture
def manager(models: SimulatedLoader) -> Iterator[RuntimeManager]:
    """A machine with 10 GiB on its GPU."""
    manager = manager_of(models)
    yield manager
    manager.close()


def test_another_kernel_is_told_with_what_it_holds(
    manager: RuntimeManager, models: SimulatedLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldRuntime("big", "idle", 5.0, {GPU: 8 * GIB})
    monkeypatch.setattr(
        manager.neighbours, "others", lambda: (Holder(4321, "analysis.ipynb", (held,)),)
    )
    assert list_memory(manager).notes[-1] == (
        "analysis.ipynb (another kernel, process 4321) holds 8.0 GiB of GPU 0, used just now."
    )


def test_last_use_is_said_as_a_time(manager: RuntimeManager, models: SimulatedLoader) -> None:
    manager.acquire(models.config("a")).release()
    (row,) = list_memory(manager).table().rows
    assert row.cells[4] == "just now"
    with manager.borrow("a"):
        (row,) = list_memory(manager).table().rows
    assert row.cells[4] == "now"
