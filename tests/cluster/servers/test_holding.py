"""What a host holds, without Ray: real models in a real manager, known by their keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollm_widgets.cluster.failures import NotHeldError
from ollm_widgets.cluster.messages import Described, Wanted
from ollm_widgets.cluster.servers.holding import Holding
from ollm_widgets.errors import ConfigError, PlanNotExecutableError, UnsupportedModelError
from ollm_widgets.planning.generation import GenerationConfig
from ollm_widgets.runtime.residency.manager import RuntimeManager
from tests.cluster.tiny import PROMPT, answer_of, text_of, wanted


@pytest.fixture
def holding() -> Iterator[Holding]:
    manager = RuntimeManager(max_loaded=2)
    yield Holding(manager)
    manager.close()


def load(holding: Holding, one: Wanted, *evicts: str) -> Described:
    return holding.load(one, evicts, lambda _progress: None, threading.Event())


def test_an_offer_counts_what_the_model_needs_and_loads_nothing(
    holding: Holding, tiny_models: tuple[Path, ...]
) -> None:
    offer = holding.offer(wanted(tiny_models[0]))
    assert offer.runs
    assert offer.fits
    assert 0 < offer.needed_bytes < holding.free_bytes()
    assert not holding.held()


def test_what_cannot_run_says_why(holding: Holding, tmp_path: Path) -> None:
    offer = holding.offer(wanted(tmp_path / "absent"))
    assert not offer.runs
    assert offer.refusal
    with pytest.raises((UnsupportedModelError, PlanNotExecutableError)):
        load(holding, wanted(tmp_path / "absent"))
    assert not holding.held()


def test_what_is_loaded_is_held_and_answers(
    holding: Holding, tiny_models: tuple[Path, ...]
) -> None:
    one = wanted(tiny_models[0])
    described = load(holding, one)
    (copy,) = holding.held()
    assert (copy.key, copy.name, copy.busy) == (one.key, "tiny-a", False)
    assert copy.frees_bytes > 0
    with holding.borrow(one.key) as lease:
        assert lease.id == described.runtime_id
        assert holding.held()[0].busy
        answer = lease.runtime.complete(PROMPT, GenerationConfig(max_new_tokens=20))
    assert answer.text == text_of(tiny_models[0], answer_of(tiny_models[0], 20))


def test_a_model_that_has_left_is_not_taken_for_another_of_its_name(
    holding: Holding, tiny_models: tuple[Path, ...]
) -> None:
    first = wanted(tiny_models[0])
    second = wanted(tiny_models[0], context_tokens=64)
    first_id = load(holding, first).runtime_id
    holding.manager.unload(first_id)
    assert load(holding, second).runtime_id == first_id
    with pytest.raises(NotHeldError):
        holding.borrow(first.key)
    with pytest.raises(NotHeldError):
        holding.ask(first.key, "memory")
    assert [copy.key for copy in holding.held()] == [second.key]


def test_what_makes_room_is_what_was_named(holding: Holding, tiny_models: tuple[Path, ...]) -> None:
    a, b, c = (wanted(folder) for folder in tiny_models[:3])
    load(holding, a)
    load(holding, b)
    load(holding, c, b.key)
    assert {copy.key for copy in holding.held()} == {a.key, c.key}


def test_a_pinned_model_stays(holding: Holding, tiny_models: tuple[Path, ...]) -> None:
    a, b, c = (wanted(folder) for folder in tiny_models[:3])
    load(holding, a)
    load(holding, b)
    holding.set_pinned(a.key, True)
    load(holding, c, a.key)
    assert {copy.key for copy in holding.held()} == {a.key, c.key}
    holding.set_pinned("nobody's", True)


def test_a_model_is_unloaded_once(holding: Holding, tiny_models: tuple[Path, ...]) -> None:
    one = wanted(tiny_models[0])
    load(holding, one)
    gone = holding.unload(one.key, force=False)
    assert gone is not None
    assert gone.freed_bytes > 0
    assert holding.unload(one.key, force=False) is None


def test_only_questions_of_the_list_are_answered(
    holding: Holding, tiny_models: tuple[Path, ...]
) -> None:
    one = wanted(tiny_models[0])
    load(holding, one)
    assert holding.ask(one.key, "queue") == ()
    with pytest.raises(ConfigError, match="memory, kv_stats"):
        holding.ask(one.key, "model")  # type: ignore[arg-type]


@pytest.mark.gpu
def test_on_a_gpu_the_bytes_that_count_are_those_of_the_gpu(
    holding: Holding, tiny_models: tuple[Path, ...]
) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    holding.look_around()
    free_bytes, _total_bytes = torch.cuda.mem_get_info(0)
    assert abs(holding.free_bytes() - free_bytes) < 2**30
    one = wanted(tiny_models[0], device="ray:cuda:0")
    assert holding.offer(one).needed_bytes > 0
    load(holding, one)
    (copy,) = holding.held()
    use = holding.ask(one.key, "memory")
    assert copy.frees_bytes == use.accelerator_bytes
