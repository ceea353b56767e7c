from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from ollm_widgets import RuntimeConfig, RuntimeLoader, RuntimeManager, RuntimePlan
from tests.runtime.residency.simulated import (
    GPU,
    RAM,
    NoNeighbours,
    SimulatedLoader,
    SimulatedMachine,
)

MakeManager = Callable[..., RuntimeManager]


@pytest.fixture(scope="session")
def template(saved_llama: Path) -> RuntimePlan:
    """A real plan, of which simulated ones are made."""
    return RuntimeLoader().plan(RuntimeConfig(f"path:{saved_llama}", device="cpu"))


@pytest.fixture
def machine() -> SimulatedMachine:
    """An accelerator of 10 bytes, and as much host memory."""
    return SimulatedMachine({GPU: 10, RAM: 10})


@pytest.fixture
def models(machine: SimulatedMachine, template: RuntimePlan) -> SimulatedLoader:
    return SimulatedLoader(machine, template, {"a": 4, "b": 4, "c": 6, "d": 2, "e": 9, "f": 11})


@pytest.fixture
def make_manager(machine: SimulatedMachine, models: SimulatedLoader) -> Iterator[MakeManager]:
    """Makes managers of the simulated machine, and closes them in the end."""
    made: list[RuntimeManager] = []

    def make(max_loaded: int | None = None, **options: object) -> RuntimeManager:
        options = {"busy_wait_s": 0.2, "neighbours": NoNeighbours(), **options}
        loader = cast(RuntimeLoader, models)
        made.append(RuntimeManager(loader, max_loaded, gauge=machine, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for manager in made:
        manager.close()
    assert machine.taken == {GPU: 0, RAM: 0}
