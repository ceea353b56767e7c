"""Weights that leave for host memory and come back; here a CPU stands for the accelerator.

What is on it is in buffers of its own all the same: they are copied, let go of and made anew.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from ollm_widgets.errors import Cancelled, OutOfMemory
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.weights import host_copies
from ollm_widgets.weights.copy_streams import CopyStreams, Sending
from ollm_widgets.weights.demotion import WholeModel
from ollm_widgets.weights.engine import WeightEngine
from ollm_widgets.weights.engine_memory import EngineMemory
from ollm_widgets.weights.host_copies import Block, HostCopies
from ollm_widgets.weights.model.repointing import memories_of
from tests.models.architectures import Architecture
from tests.weights.streamed_models import (
    ALONE,
    DECODERS,
    LAYERS,
    MIXTURES,
    engine_of,
    logits,
    named,
)

LLAMA = named("llama")
FolderOf = Callable[[Architecture], Path]
ON_IT = ("accelerator",) * LAYERS
NEVER = threading.Event()


class Following:
    """A companion that notes what it is told, and fails to come back where it is asked to."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.told: list[str] = []
        self._error = error

    def leave(self) -> None:
        self.told.append("leave")

    def come_back(self, _streams: CopyStreams) -> None:
        self.told.append("come back")
        if self._error is not None:
            raise self._error

    def arrived(self) -> None:
        self.told.append("arrived")


def nothing(_done_bytes: int, _total_bytes: int) -> None:
    """No progress is looked at."""


def cancelled() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def demote(engine: WeightEngine, cancel: threading.Event = NEVER) -> None:
    engine.demotion.demote(Following(), cancel)


def restore(engine: WeightEngine, cancel: threading.Event = NEVER) -> None:
    engine.demotion.restore(Following(), nothing, cancel)


# ---------------------------------------------------------------------- the same model


@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_every_architecture_comes_back_with_the_same_logits(
    architecture: Architecture, folder_of: FolderOf
) -> None:
    with engine_of(architecture, folder_of(architecture), tiers=ON_IT) as engine:
        wanted = logits(engine.model, ALONE)
        before = engine.memory()
        for _ in range(2):
            held = [weakref.ref(home.dense.resident) for home in engine._homes]
            demote(engine)
            assert engine.demotion.demoted
            assert [one() for one in held] == [None] * LAYERS
            assert engine.memory() == EngineMemory()
            restore(engine)
            assert not engine.demotion.demoted
            assert engine.memory() == before
            assert torch.equal(logits(engine.model, ALONE), wanted)


def test_layers_stay_bound_to_nothing_while_they_are_away(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=ON_IT) as engine:
        demote(engine)
        layers = engine.structure.layers
        assert all(weight.is_meta for layer in layers for weight in layer.parameters())
        # What is no layer can be looked at still, in host memory.
        assert not engine.model.get_input_embeddings().weight.is_meta


def test_layers_that_are_elsewhere_stay_there(folder_of: FolderOf) -> None:
    tiers = ("accelerator", "disk", "host", "accelerator", "disk")
    with engine_of(LLAMA, folder_of(LLAMA), tiers=tiers) as engine:
        wanted = logits(engine.model, ALONE)
        before = engine.memory()
        demote(engine)
        layer = before.host_layers_bytes // 3
        assert engine.memory().host_layers_bytes == layer
        assert engine.placement.tiers == tiers
        restore(engine)
        assert engine.memory() == before
        assert engine.placement.tiers == tiers
        assert torch.equal(logits(engine.model, ALONE), wanted)


@pytest.mark.parametrize("architecture", MIXTURES, ids=str)
def test_experts_that_are_kept_apart_leave_and_come_back_too(
    architecture: Architecture, folder_of: FolderOf
) -> None:
    chosen = architecture.experts[1]
    assert chosen is not None
    streaming = StreamingPlan(device_slots=2, expert_streaming=True, expert_slots=3 * chosen)
    tiers = ("accelerator", "disk", "accelerator", "accelerator", "disk")
    folder = folder_of(architecture)
    with engine_of(architecture, folder, tiers=tiers, streaming=streaming) as engine:
        wanted = logits(engine.model, ALONE)
        before = engine.memory()
        demote(engine)
        assert engine.memory().host_layers_bytes == 0
        restore(engine)
        assert engine.memory() == before
        assert torch.equal(logits(engine.model, ALONE), wanted)


def test_weights_that_were_one_tensor_are_one_afterwards(folder_of: FolderOf) -> None:
    tied = next(each for each in DECODERS if each.model_type == "gemma2")
    with engine_of(tied, folder_of(tied), tiers=ON_IT) as engine:
        embedding = engine.model.get_input_embeddings().weight
        assert engine.model.get_output_embeddings().weight is embedding
        demote(engine)
        restore(engine)
        assert engine.model.get_input_embeddings().weight is embedding
        assert engine.model.get_output_embeddings().weight is embedding


# ---------------------------------------------------------------------- its copies


def test_only_the_first_demotion_copies(
    folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=ON_IT) as engine:
        held = sum(memory.bytes.numel() for memory in memories_of(engine.model, (), "cpu"))
        demote(engine)
        size = engine.demotion.host_copies_bytes
        assert held <= size <= held + 1024
        restore(engine)
        kept = engine.demotion.host_copies_bytes
        computed = size - kept
        # Rotary frequencies are computed by the model, and perhaps anew: they are copied again.
        assert 0 < computed <= 1024
        copied: list[int] = []
        make = host_copies.locked_buffer

        def counting(size_bytes: int, *, locked: bool) -> Any:
            copied.append(size_bytes)
            return make(size_bytes, locked=locked)

        monkeypatch.setattr(host_copies, "locked_buffer", counting)
        demote(engine)
        assert sum(copied) == computed
        restore(engine)
        engine.demotion.release_host_copies()
        assert engine.demotion.host_copies_bytes == 0
        demote(engine)
        assert sum(copied) == computed + size


def test_copies_of_what_is_away_are_not_let_go(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=ON_IT) as engine:
        wanted = logits(engine.model, ALONE)
        demote(engine)
        size = engine.demotion.host_copies_bytes
        engine.demotion.release_host_copies()
        assert engine.demotion.host_copies_bytes == size
        restore(engine)
        assert torch.equal(logits(engine.model, ALONE), wanted)


def test_what_the_model_computes_anew_while_it_is_back_is_what_comes_back_next(
    folder_of: FolderOf,
) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=ON_IT) as engine:
        demote(engine)
        restore(engine)
        rotary = engine.model.model.rotary_emb
        rotary.inv_freq.mul_(0.5)
        wanted = logits(engine.model, ALONE)
        demote(engine)
        restore(engine)
        assert torch.equal(logits(engine.model, ALONE), wanted)


def test_layers_that_move_elsewhere_lose_their_copies(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=ON_IT) as engine:
        wanted = logits(engine.model, ALONE)
        demote(engine)
        restore(engine)
        size, layer = engine.demotion.host_copies_bytes, engine.layer_bytes[0]
        engine.rebalance(LayerPlacement(("accelerator", "accelerator", "disk", "disk", "disk")))
        assert engine.demotion.host_copies_bytes == size - 3 * layer
        demote(engine)
        restore(engine)
        engine.rebalance(LayerPlacement(ON_IT))
        demote(engine)
        restore(engine)
        assert engine.demotion.host_copies_bytes == size
        assert torch.equal(logits(engine.model, ALONE), wanted)


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("after", range(LAYERS + 2))
def test_host_memory_that_runs_out_leaves_everything_where_it_was(
    after: int, folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    make = host_copies.HostBuffer

    def refusing(size_bytes: int) -> Any:
        nonlocal made
        made += 1
        if made > after:
            raise OutOfMemory("no more", tier="host", needed_bytes=size_bytes, free_bytes=0)
        return make(size_bytes)

    with engine_of(LLAMA, folder_of(LLAMA), tiers=ON_IT) as engine:
        wanted = logits(engine.model, ALONE)
        before = engine.memory()
        companion = Following()
        with monkeypatch.context() as patched:
            patched.setattr(host_copies, "HostBuffer", refusing)
            with pytest.raises(OutOfMemory):
                engine.demotion.demote(companion, NEVER)
        assert companion.told == []
        assert not engine.demotion.demoted
        assert engine.demotion.host_copies_bytes == 0
        assert engine.memory() == before
        assert torch.equal(logits(engine.model, ALONE), wanted)
        demote(engine)
        restore(engine)
        assert torch.equal(logits(engine.model, ALONE), wanted)


def test_a_cancel_on_the_way_out_leaves_everything_where_it_was(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=ON_IT) as engine:
        wanted = logits(engine.model, ALONE)
        with pytest.raises(Cancelled, match="to host memory was cancelled"):
            demote(engine, cancelled())
        assert not engine.demotion.demoted
        assert engine.demotion.host_copies_bytes == 0
        assert torch.equal(logits(engine.model, ALONE), wanted)


@pytest.mark.parametrize("after", range(LAYERS + 2))
def test_a_cancel_on_the_way_back_leaves_it_away_and_whole(after: int, folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=ON_IT) as engine:
        wanted = logits(engine.model, ALONE)
        demote(engine)
        away = engine.memory()
        cancel = threading.Event()
        calls = 0

        def progress(_done_bytes: int, _total_bytes: int) -> None:
            nonlocal calls
            calls += 1
            if calls > after:
                cancel.set()

        if after == 0:
            cancel.set()
        companion = Following()
        with pytest.raises(Cancelled, match="The return to the accelerator was cancelled"):
            engine.demotion.restore(companion, progress, cancel)
        assert companion.told == ["come back", "leave"]
        assert engine.demotion.demoted
        assert engine.memory() == away
        restore(engine)
        assert torch.equal(logits(engine.model, ALONE), wanted)


def test_a_companion_that_cannot_come_back_leaves_it_away_and_whole(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=ON_IT) as engine:
        wanted = logits(engine.model, ALONE)
        demote(engine)
        failing = Following(ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            engine.demotion.restore(failing, nothing, NEVER)
        assert failing.told == ["come back", "leave"]
        assert engine.demotion.demoted
        restore(engine)
        assert torch.equal(logits(engine.model, ALONE), wanted)


class FullDevice:
    """Refuses memory of a layer's size after the first few times."""

    def __init__(self, engine: WeightEngine, after: int) -> None:
        self._size = engine.layer_bytes[0]
        self._left = after
        self._make = torch.empty

    def empty(self, *size: Any, **options: Any) -> torch.Tensor:
        if size == (self._size,):
            if not self._left:
                raise torch.OutOfMemoryError("no room")
            self._left -= 1
        return self._make(*size, **options)


@pytest.mark.parametrize("room", range(LAYERS))
def test_layers_for_which_there_is_no_room_any_more_stay_in_host_memory(
    room: int, folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=ON_IT) as engine:
        wanted = logits(engine.model, ALONE)
        demote(engine)
        size, layer = engine.demotion.host_copies_bytes, engine.layer_bytes[0]
        with monkeypatch.context() as patched:
            patched.setattr(torch, "empty", FullDevice(engine, room).empty)
            restore(engine)
        lowered = LAYERS - room
        assert engine.placement.tiers == ("accelerator",) * room + ("host",) * lowered
        assert sum(home.host_bytes for home in engine._homes) == lowered * layer
        assert engine.demotion.host_copies_bytes <= size - lowered * layer
        assert engine.notes == [
            f"{lowered} layers are in host memory that were planned on the accelerator, which "
            "ran out of memory."
        ]
        assert torch.equal(logits(engine.model, ALONE), wanted)


def test_a_return_that_fails_after_layers_were_lowered_takes_that_back(
    folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=ON_IT) as engine:
        wanted = logits(engine.model, ALONE)
        demote(engine)
        size = engine.demotion.host_copies_bytes
        with monkeypatch.context() as patched:
            patched.setattr(torch, "empty", FullDevice(engine, 2).empty)
            with pytest.raises(Cancelled):
                restore(engine, cancelled())
        assert engine.demotion.demoted
        assert engine.placement.tiers == ON_IT
        assert engine.demotion.host_copies_bytes == size
        assert sum(home.host_bytes for home in engine._homes) == 0
        restore(engine)
        assert engine.placement.tiers == ON_IT
        assert engine.notes == []
        assert torch.equal(logits(engine.model, ALONE), wanted)


def test_closing_while_it_is_away_gives_everything_back(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=ON_IT) as engine:
        demote(engine)
    assert engine.demotion.host_copies_bytes == 0
    assert all(weight.is_meta for weight in engine.model.parameters())


STEPS = st.sampled_from(
    ["demote", "cancel demote", "restore", "cancel restore", "release", "move", "move back"]
)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, max_size=12))
def test_whatever_happens_it_is_away_or_answers_as_before(
    steps: list[str], folder_of: FolderOf
) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=ON_IT) as engine:
        wanted = logits(engine.model, ALONE)
        for step in steps:
            away = engine.demotion.demoted
            try:
                if "demote" in step:
                    demote(engine, cancelled() if "cancel" in step else NEVER)
                    away = True
                elif "restore" in step:
                    restore(engine, cancelled() if "cancel" in step else NEVER)
                    away = False
                elif step == "release":
                    engine.demotion.release_host_copies()
                elif not away:
                    tiers = ON_IT if step == "move back" else ("disk", *ON_IT[1:-1], "disk")
                    engine.rebalance(LayerPlacement(tiers))
            except Cancelled:
                assert "cancel" in step
            assert engine.demotion.demoted == away
            if not away:
                assert torch.equal(logits(engine.model, ALONE), wanted)


# ---------------------------------------------------------------------- a model as it was loaded


class Twice(nn.Module):
    """Two modules over one weight, a view of it, a buffer, and a tensor that is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.second = nn.Linear(5, 7)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.arange(7.0))
        self.part = self.first.weight.detach()[2:4, 1:]
        self.plain = torch.full((3,), 2.0, dtype=torch.float64)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return (self.first(given) + self.second(given)) * self.scale + self.part.sum()


def test_a_whole_model_leaves_and_comes_back_with_its_shared_tensors_shared() -> None:
    model = Twice()
    given = torch.randn(3, 5)
    wanted = model(given)
    weight = model.first.weight
    held = sum(memory.bytes.numel() for memory in memories_of(model, (), "cpu"))
    assert held == 4 * 5 * 7 + 2 * 4 * 7 + 4 * 7 + 8 * 3
    whole = WholeModel(model, "cpu")
    for _ in range(2):
        whole.demote(Following(), NEVER)
        assert whole.demoted
        assert whole.host_copies_bytes >= held
        whole.restore(Following(), nothing, NEVER)
        assert not whole.demoted
        assert model.first.weight is weight
        assert model.second.weight is weight
        storage = weight.untyped_storage().data_ptr()
        assert model.part.untyped_storage().data_ptr() == storage
        assert torch.equal(model(given), wanted)


def test_weights_that_were_trained_since_are_copied_anew() -> None:
    model = Twice()
    whole = WholeModel(model, "cpu")
    whole.demote(Following(), NEVER)
    whole.restore(Following(), nothing, NEVER)
    with torch.no_grad():
        model.first.weight.add_(1)
    wanted = model.first.weight.clone()
    whole.demote(Following(), NEVER)
    whole.restore(Following(), nothing, NEVER)
    assert torch.equal(model.first.weight, wanted)


def test_a_cancelled_return_of_a_whole_model_leaves_it_away() -> None:
    model = Twice()
    wanted = [tensor.clone() for tensor in model.state_dict().values()]
    whole = WholeModel(model, "cpu")
    whole.demote(Following(), NEVER)
    with pytest.raises(Cancelled):
        whole.restore(Following(), nothing, cancelled())
    assert whole.demoted
    whole.restore(Following(), nothing, NEVER)
    assert all(map(torch.equal, model.state_dict().values(), wanted))


# ---------------------------------------------------------------------- copies


@given(sizes=st.lists(st.lists(st.integers(0, 5000), min_size=1, max_size=4), max_size=6))
@settings(deadline=None, max_examples=30)
def test_copies_hold_the_bytes_of_their_blocks(sizes: list[list[int]]) -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = [
        Block(
            key,
            tuple(
                torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
                for size in some
            ),
        )
        for key, some in enumerate(sizes)
    ]
    copies = HostCopies()
    copies.make(blocks, NEVER)
    for block in blocks:
        assert block.key in copies
        assert all(map(torch.equal, copies.pieces(block.key), block.pieces))
    copies.keep_only({0})
    assert [block.key for block in blocks if block.key in copies] == [0][: len(blocks)]
    copies.release()
    assert copies.size_bytes == 0


def test_little_is_under_way_at_once_and_a_cancel_is_seen_between_two_copies() -> None:
    sources = [torch.full((100,), number, dtype=torch.uint8) for number in range(1, 7)]
    targets = [torch.zeros(100, dtype=torch.uint8) for _ in sources]
    cancel = threading.Event()
    done: list[tuple[int, int]] = []

    def progress(done_bytes: int, total_bytes: int) -> None:
        done.append((done_bytes, total_bytes))
        if len(done) == 3:
            cancel.set()

    sending = Sending(progress, at_once_bytes=250)
    for target, source in zip(targets, sources, strict=True):
        sending.add(target, source)
    assert [bool(target.any()) for target in targets] == [True, True, False, False, False, False]
    with pytest.raises(Cancelled):
        sending.finish(cancel)
    sending.stop()
    assert done == [(100, 600), (200, 600), (300, 600)]
    assert [bool(target.any()) for target in targets] == [True] * 5 + [False]
