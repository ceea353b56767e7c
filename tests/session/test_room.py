"""What a plan says of the room that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ollm_widgets import RuntimeConfig, RuntimeManager
from ollm_widgets.runtime.residency.surroundings import HeldRuntime, Holder
from ollm_widgets.session.room import room_for
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


def said(manager: RuntimeManager, config: RuntimeConfig) -> tuple[str, ...]:
    return room_for(manager, manager.plan(config))


def test_a_plan_says_who_would_make_room_for_it(
    manager: RuntimeManager, models: SimulatedLoader
) -> None:
    assert said(manager, models.config("c")) == ()
    manager.acquire(models.config("a")).release()
    assert said(manager, models.config("c")) == ()
    manager.acquire(models.config("b")).release()
    assert said(manager, models.config("c")) == (
        "a (4.0 GiB GPU) is idle and would make room for it.",
    )
    manager.configure(max_loaded=1)
    assert said(manager, models.config("c")) == (
        "a (4.0 GiB GPU) and b (4.0 GiB GPU) are idle and would make room for it.",
    )


def test_a_plan_says_what_it_would_be_without_those_that_stay(
    manager: RuntimeManager, models: SimulatedLoader
) -> None:
    manager.acquire(models.config("a")).release()
    manager.acquire(models.config("b")).release()
    manager.pin("a")
    with manager.borrow("b"):
        (sentence,) = said(manager, models.config("c"))
    assert sentence.startswith("Without b (in use) and a (pinned) it fits")


def test_a_plan_says_what_it_would_be_without_another_kernel(
    manager: RuntimeManager, models: SimulatedLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.machine.others[GPU] = 8 * GIB
    held = HeldRuntime("big", "idle", 5.0, {GPU: 8 * GIB})
    monkeypatch.setattr(
        manager.neighbours, "others", lambda: (Holder(4321, "analysis.ipynb", (held,)),)
    )
    (sentence,) = said(manager, models.config("c"))
    assert sentence.startswith("Without analysis.ipynb (another kernel, process 4321) it fits")


def test_a_plan_of_what_is_in_memory_is_the_one_that_runs(
    manager: RuntimeManager, models: SimulatedLoader
) -> None:
    manager.acquire(models.config("a")).release()
    assert said(manager, models.config("a")) == ("a is in memory; this is how it runs.",)
