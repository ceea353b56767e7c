"""Real threads around real, tiny models."""

from __future__ import annotations

import gc
import random
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from ollm_widgets import (
    GenerationConfig,
    OllmError,
    RuntimeConfig,
    RuntimeEvent,
    RuntimeLoader,
    RuntimeManager,
)
from ollm_widgets.errors import NoRoomError
from tests.runtime.residency.simulated import NoNeighbours

THREADS, ACTS = 8, 40
CYCLES, WARM_UP = 500, 60
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def one_thread_a_model() -> Iterator[None]:
    """Tiny models gain nothing from more, and lose much where the machine is shared."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def copy_model(saved_llama: Path, tmp_path: Path) -> Callable[[str], RuntimeConfig]:
    def copy(name: str) -> RuntimeConfig:
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(saved_llama, folder)
        return RuntimeConfig(f"path:{folder}", device="cpu")

    return copy


def collect_until(gone: threading.Event) -> None:
    """Collect again as long as a thread that ends may have held what forms a circle."""
    until = time.monotonic() + PATIENCE_S
    while not gone.wait(0.05):
        gc.collect()
        assert time.monotonic() < until, "it stays in memory"


@pytest.mark.parametrize("seed", range(2))
def test_in_a_storm_of_threads_every_answer_comes_and_nothing_stays(
    copy_model: Callable[[str], RuntimeConfig], seed: int
) -> None:
    manager = RuntimeManager(
        RuntimeLoader(), max_loaded=2, busy_wait_s=PATIENCE_S, neighbours=NoNeighbours()
    )
    configs = [copy_model(name) for name in "abc"]
    events: list[RuntimeEvent] = []
    manager.subscribe(events.append)
    mistakes: list[BaseException] = []
    answers = [0] * THREADS

    def one(number: int) -> None:
        chance = random.Random(f"{seed}-{number}")
        for _ in range(ACTS):
            act = chance.random()
            try:
                if act < 0.6:
                    with manager.acquire(chance.choice(configs)) as lease:
                        said = lease.runtime.complete("w3", GenerationConfig(max_new_tokens=2))
                        assert said.finish_reason in ("length", "stop"), said
                        answers[number] += 1
                elif act < 0.8:
                    cancel = threading.Event()
                    timer = threading.Timer(chance.random() / 20, cancel.set)
                    timer.start()
                    manager.acquire(chance.choice(configs), None, cancel).release()
                elif act < 0.9:
                    residents = manager.residents()
                    if residents:
                        manager.unload(chance.choice(residents).id)
                else:
                    residents = manager.residents()
                    if residents:
                        manager.evict_if_idle(chance.choice(residents).id, "by chance")
            except OllmError as error:
                if isinstance(error, NoRoomError):
                    mistakes.append(error)
            except BaseException as error:
                mistakes.append(error)

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"
    assert not mistakes
    assert all(answers)
    assert all(not one.in_use for one in manager.residents())
    manager.unload_all()
    loaded, count = set[str](), 0
    for event in events:
        if event.kind == "loaded":
            count += 1
            loaded.add(event.runtime_id)
        elif event.kind in ("unloaded", "evicted"):
            loaded.remove(event.runtime_id)
        assert len(loaded) <= 2
    assert count > THREADS
    assert not loaded
    manager.close()


def test_five_hundred_loads_and_unloads_give_their_memory_back(
    copy_model: Callable[[str], RuntimeConfig],
) -> None:
    manager = RuntimeManager(RuntimeLoader(), neighbours=NoNeighbours())
    config = copy_model("tiny")
    process = psutil.Process()
    gone: list[weakref.ref[object]] = []
    after_warm_up = 0
    for cycle in range(CYCLES):
        lease = manager.acquire(config)
        runtime_id, weights = lease.id, next(lease.runtime.model.parameters())
        gone.append(weakref.ref(weights))
        del weights
        lease.release()
        del lease
        unloaded = manager.unload(runtime_id)
        assert unloaded.freed_bytes > 0
        if cycle == WARM_UP:
            gc.collect()
            after_warm_up = process.memory_info().rss
    gc.collect()
    assert not [one for one in gone if one() is not None]
    grown = process.memory_info().rss - after_warm_up
    assert grown <= after_warm_up // 100, f"{grown:,} of {after_warm_up:,} bytes stay"
    manager.close()


def test_a_manager_that_is_forgotten_gives_its_runtimes_back(
    copy_model: Callable[[str], RuntimeConfig],
) -> None:
    manager = RuntimeManager(RuntimeLoader(), neighbours=NoNeighbours())
    with manager.acquire(copy_model("tiny")) as lease:
        manager_gone, model_gone = threading.Event(), threading.Event()
        weakref.finalize(manager, manager_gone.set)
        weakref.finalize(lease.runtime.model, model_gone.set)
    del lease, manager
    # Its own threads may just now look at it, and then let go.
    assert manager_gone.wait(PATIENCE_S)
    collect_until(model_gone)


def test_an_error_of_a_load_that_is_kept_does_not_keep_what_was_loaded(
    copy_model: Callable[[str], RuntimeConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = RuntimeLoader()
    gone = threading.Event()
    load = loader.load

    def fail_late(*arguments: object) -> object:
        runtime = load(*arguments)  # type: ignore[arg-type]
        weakref.finalize(runtime.model, gone.set)
        raise ValueError("something is wrong with it")

    monkeypatch.setattr(loader, "load", fail_late)
    manager = RuntimeManager(loader, neighbours=NoNeighbours())
    with pytest.raises(ValueError, match="something is wrong") as kept:
        manager.acquire(copy_model("tiny").copy(backend="transformers-generic"))
    collect_until(gone)
    assert kept.value.__traceback__ is not None
    manager.close()


def test_many_threads_that_lease_at_once_share_one_load_each(
    copy_model: Callable[[str], RuntimeConfig],
) -> None:
    manager = RuntimeManager(RuntimeLoader(), neighbours=NoNeighbours())
    configs = [copy_model(name) for name in "ab"]
    with ThreadPoolExecutor(100) as pool:
        leases = list(pool.map(lambda number: manager.acquire(configs[number % 2]), range(100)))
    kinds = [event.kind for event in manager.history()]
    assert kinds.count("loaded") == 2
    assert len({lease.id for lease in leases}) == 2
    for lease in leases:
        lease.release()
    manager.close()
