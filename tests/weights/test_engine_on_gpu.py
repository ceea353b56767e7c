"""The engine on an accelerator; skipped where there is none."""

from __future__ import annotations

import contextlib
import gc
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ollm_widgets import GenerationConfig, LoadedRuntime, RuntimeConfig, RuntimeLoader
from ollm_widgets.errors import Cancelled, CheckpointChangedError, OutOfMemory, WeightReadError
from ollm_widgets.planning.parts import LayerPlacement
from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.engine import WeightEngine
from ollm_widgets.weights.filling import Filler
from ollm_widgets.weights.model.skeleton import build_skeleton
from ollm_widgets.weights.packing.packing import pack_layer
from ollm_widgets.weights.pinned import HostBuffer
from ollm_widgets.weights.reading.reader import WeightReader
from ollm_widgets.weights.rings.copying import CopyingRing, StreamedLayer
from ollm_widgets.weights.rings.ring import ReadingRing
from tests.models.architectures import Architecture
from tests.weights.checkpoints import as_it_is, index_of
from tests.weights.on_gpu import (
    GPU,
    PLACEMENTS,
    RING,
    FolderOf,
    References,
    assert_answers,
    held_bytes,
    on_gpu,
)
from tests.weights.streamed_models import (
    ALONE,
    BATCHES,
    DECODERS,
    LAYERS,
    MIXTURES,
    PADDED,
    Prompts,
    engine_of,
    greedy,
    logits,
    named,
    prompts,
    save_large,
    whole,
    with_tokenizer,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LLAMA = named("llama")
CHUNKS = (None, 7, 64, 1)
BY_DTYPE = {
    "float32": (torch.float32, False),
    "bfloat16": (torch.bfloat16, False),
    "bfloat16, packed": (torch.bfloat16, True),
}


@pytest.fixture(scope="module")
def references(folder_of: FolderOf) -> References:
    return References(folder_of)


@pytest.mark.usefixtures("packed_however_small")
@pytest.mark.parametrize("precision", BY_DTYPE)
@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_tokens_are_those_of_transformers_in_every_tier_and_chunk_size(
    architecture: Architecture, precision: str, folder_of: FolderOf, references: References
) -> None:
    dtype, packed = BY_DTYPE[precision]
    folder = folder_of(architecture)
    streaming = replace(RING, packed=packed)
    references.of(architecture, dtype)
    references.of(architecture, torch.float32)
    before = held_bytes()
    names = list(BATCHES)
    with engine_of(architecture, folder, dtype=dtype, streaming=streaming, device=GPU) as engine:
        for turn, (name, tiers) in enumerate(PLACEMENTS.items()):
            assert engine.rebalance(LayerPlacement(tiers)).tiers == tiers
            if packed and name == "all in host memory":
                assert engine.packed_layers > 0
            for number, rows in enumerate(CHUNKS):
                # Single tokens take long; where the layers are does not change what they do.
                if rows == 1 and name != "mixed":
                    continue
                engine.chunk_prompts(rows)
                batch = names[(turn + number) % 2]
                assert_answers(engine, references, architecture, dtype, batch)
    # The skeleton that the engine leaves still has buffers of its own.
    del engine
    assert held_bytes() <= before


@pytest.mark.parametrize("cached", [0, 3], ids=["no cache", "hot experts"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", MIXTURES, ids=str)
def test_tokens_are_the_same_where_only_the_chosen_experts_move(
    architecture: Architecture,
    precision: str,
    cached: int,
    folder_of: FolderOf,
    references: References,
) -> None:
    dtype, _ = BY_DTYPE[precision]
    chosen = architecture.experts[1]
    assert chosen is not None
    streaming = replace(
        RING,
        expert_streaming=True,
        expert_slots=3 * chosen,
        expert_cache_bytes=cached * 16 * 1024,
    )
    folder = folder_of(architecture)
    with engine_of(architecture, folder, dtype=dtype, streaming=streaming, device=GPU) as engine:
        for name in ("all on disk", "all in host memory", "mixed", "all on the accelerator"):
            engine.rebalance(LayerPlacement(PLACEMENTS[name]))
            assert bool(engine.arranged.experts) == (name != "all on the accelerator")
            for rows, batch in ((None, "three, padded"), (7, "one")):
                engine.chunk_prompts(rows)
                assert_answers(engine, references, architecture, dtype, batch)


# ---------------------------------------------------------------------- captured steps


def load(folder: Path, **settings: Any) -> LoadedRuntime:
    settings = {"dtype": "float32", **settings}
    return RuntimeLoader().load(RuntimeConfig(folder, backend="optimized-native", **settings))


def without_captured_steps(runtime: LoadedRuntime) -> None:
    loaded = runtime._loaded
    assert loaded is not None
    if loaded.steps is not None:
        loaded.steps.close()
    runtime._loaded = replace(loaded, steps=None)


COUNTS = {
    "resident": {},
    "in host memory": {"offload_gpu_layers": 0, "offload_cpu_layers": LAYERS},
    "half": {"offload_gpu_layers": 2, "offload_cpu_layers": 3},
    "from disk": {"offload_gpu_layers": 1, "offload_cpu_layers": 2},
}


@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_captured_and_eager_steps_give_the_tokens_of_transformers(
    architecture: Architecture, saved_llama: Path, folder_of: FolderOf, references: References
) -> None:
    folder = with_tokenizer(folder_of(architecture), saved_llama, architecture)
    short = GenerationConfig(max_new_tokens=24)
    model = whole(architecture, folder, torch.float32, GPU)
    wanted = {name: greedy(model, on_gpu(prompt), 24).cpu() for name, prompt in BATCHES.items()}
    del model
    for counts in COUNTS.values():
        with load(folder, **counts) as runtime:
            for captured in (True, False):
                if not captured:
                    without_captured_steps(runtime)
                for name, prompt in BATCHES.items():
                    got = runtime.generate(
                        prompt.input_ids, short, attention_mask=prompt.attention_mask
                    )
                    assert torch.equal(got.cpu(), wanted[name])


def test_steps_stay_right_while_layers_move_between_requests(
    saved_llama: Path, folder_of: FolderOf
) -> None:
    folder = with_tokenizer(folder_of(LLAMA), saved_llama, LLAMA)
    short = GenerationConfig(max_new_tokens=12)
    with load(folder) as runtime:
        wanted = runtime.generate(ALONE.input_ids, short)
        for on_accelerator, in_host in ((0, 5), (2, 3), (1, 1), (5, 0), (0, 0), (3, 2)):
            reached = runtime.rebalance(on_accelerator, in_host)
            assert (reached.accelerator_layers, reached.host_layers) == (on_accelerator, in_host)
            assert runtime.plan.placement == reached
            for _ in range(2):
                assert torch.equal(runtime.generate(ALONE.input_ids, short), wanted)


def test_fifty_cancels_leave_a_model_that_answers(saved_llama: Path, folder_of: FolderOf) -> None:
    folder = with_tokenizer(folder_of(LLAMA), saved_llama, LLAMA)
    chance = random.Random(0)
    with load(folder, **COUNTS["in host memory"]) as runtime:
        short = GenerationConfig(max_new_tokens=12)
        wanted = runtime.generate(ALONE.input_ids, short)
        for number in range(50):
            if number == 25:
                without_captured_steps(runtime)
            cancel = threading.Event()
            stop_at = chance.randrange(8)
            for delta in runtime.stream("w5 w6", GenerationConfig(max_new_tokens=40), cancel):
                if delta.new_tokens >= stop_at:
                    cancel.set()
            if number % 5 == 0:
                assert torch.equal(runtime.generate(ALONE.input_ids, short), wanted)


# ---------------------------------------------------------------------- memory


@pytest.fixture(scope="module")
def large(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_large(saved_llama, tmp_path_factory.mktemp("gpu") / "large", 24)


@pytest.fixture
def limited() -> Iterator[Callable[[int], None]]:
    """Let torch take only so many bytes beyond what it holds."""
    total = torch.cuda.get_device_properties(0).total_memory

    def limit(more_bytes: int) -> None:
        gc.collect()
        torch.cuda.empty_cache()
        share = (torch.cuda.memory_reserved() + more_bytes) / total
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0))

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)


LONG = prompts([40], seed=3)
SHORT = GenerationConfig(max_new_tokens=8)


def layers_gone(runtime: LoadedRuntime) -> int:
    return 24 - runtime.plan.placement.accelerator_layers


def test_a_load_that_does_not_fit_lowers_layers_and_says_so(
    large: Path, limited: Callable[[int], None]
) -> None:
    with load(large, dtype="bfloat16") as runtime:
        wanted = runtime.generate(LONG.input_ids, SHORT)
        assert layers_gone(runtime) == 0
    limited(200 * 2**20)
    with load(large, dtype="bfloat16") as runtime:
        assert layers_gone(runtime) > 0
        assert any("ran out of memory" in detail for detail in runtime.plan.details)
        assert torch.equal(runtime.generate(LONG.input_ids, SHORT), wanted)


def test_a_request_that_does_not_fit_moves_layers_and_goes_on(
    large: Path, limited: Callable[[int], None]
) -> None:
    batch = LONG.input_ids.repeat(64, 1)
    with load(large, dtype="bfloat16") as runtime:
        wanted = runtime.generate(batch, SHORT)
        without_captured_steps(runtime)
        limited(4 * 2**20)
        assert torch.equal(runtime.generate(batch, SHORT), wanted)
        assert layers_gone(runtime) > 0
        assert any("ran out of memory" in detail for detail in runtime.plan.details)
        use = runtime.memory()
        assert use.host_weights_bytes > 0


def test_memory_that_no_move_can_find_is_said_and_the_next_request_is_answered(
    large: Path, limited: Callable[[int], None]
) -> None:
    with load(large, dtype="bfloat16", offload_gpu_layers=0, offload_cpu_layers=24) as runtime:
        wanted = runtime.generate(LONG.input_ids, SHORT)
        limited(2**20)
        with pytest.raises(OutOfMemory, match="GiB are free"):
            runtime.generate(LONG.input_ids.repeat(256, 1), SHORT)
        torch.cuda.set_per_process_memory_fraction(1.0)
        assert torch.equal(runtime.generate(LONG.input_ids, SHORT), wanted)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_closing_gives_every_byte_back(
    counts: dict[str, int], saved_llama: Path, folder_of: FolderOf
) -> None:
    folder = with_tokenizer(folder_of(LLAMA), saved_llama, LLAMA)
    # Libraries keep a workspace for each stream from its first use on.
    with load(folder, **counts) as runtime:
        runtime.generate(ALONE.input_ids, SHORT)
    gc.collect()
    torch.cuda.synchronize()
    before, threads = torch.cuda.memory_allocated(), set(threading.enumerate())
    runtime = load(folder, **counts)
    runtime.generate(ALONE.input_ids, SHORT)
    assert torch.cuda.memory_allocated() > before
    runtime.close()
    assert torch.cuda.memory_allocated() == before
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("after", [0, 1, 3, LAYERS])
def test_a_load_that_ends_in_the_middle_gives_every_byte_back(
    after: int, folder_of: FolderOf
) -> None:
    cancel = threading.Event()
    calls = 0

    def progress(_done: int, _total: int) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            cancel.set()

    before = held_bytes()
    model = build_skeleton(folder_of(LLAMA), torch.bfloat16, GPU, LLAMA.kind)
    engine = WeightEngine(
        model,
        folder_of(LLAMA),
        device=GPU,
        placement=LayerPlacement(PLACEMENTS["all on the accelerator"]),
        streaming=RING,
    )
    # What is small may all have been sent before anything of it has come.
    with contextlib.suppress(Cancelled):
        engine.load(progress, cancel)
    engine.close()
    assert all(parameter.is_meta for parameter in model.parameters())
    del model, engine
    assert held_bytes() <= before


def test_a_token_takes_no_new_memory_from_the_device(folder_of: FolderOf) -> None:
    token = on_gpu(Prompts(ALONE.input_ids[:, :1], ALONE.attention_mask[:, :1]))
    with engine_of(
        LLAMA, folder_of(LLAMA), tiers=PLACEMENTS["mixed"], streaming=RING, device=GPU
    ) as engine:
        for _ in range(3):
            logits(engine.model, token)
        addresses = [parameter.data_ptr() for parameter in engine.model.parameters()]
        taken = torch.cuda.memory_stats()["segment.all.allocated"]
        for _ in range(5):
            logits(engine.model, token)
        assert torch.cuda.memory_stats()["segment.all.allocated"] == taken
        assert [parameter.data_ptr() for parameter in engine.model.parameters()] == addresses


def test_memory_counts_each_tier(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), streaming=RING, device=GPU) as engine:
        layer = engine.memory().disk_layers_bytes // LAYERS
        for tiers in PLACEMENTS.values():
            engine.rebalance(LayerPlacement(tiers))
            use = engine.memory()
            assert use.accelerator_layers_bytes == tiers.count("accelerator") * layer
            assert use.host_layers_bytes == tiers.count("host") * layer
            assert use.disk_layers_bytes == tiers.count("disk") * layer
            assert (use.host_ring_bytes > 0) == ("disk" in tiers)


def test_a_trace_shows_where_each_layer_came_from(folder_of: FolderOf) -> None:
    tiers = PLACEMENTS["mixed"]
    with engine_of(LLAMA, folder_of(LLAMA), tiers=tiers, streaming=RING, device=GPU) as engine:
        engine.start_trace()
        greedy(engine.model, on_gpu(PADDED))
        passes = engine.stop_trace()
        assert not engine.tracing
    for each in passes:
        assert tuple(layer.tier for layer in each.layers) == tiers
        assert all(layer.compute_s > 0 for layer in each.layers)
        assert each.total_s > 0


# ---------------------------------------------------------------------- the ring


class MixedLayers:
    """Layers of different sizes: raw and packed ones in host memory, and some on disk."""

    count = 9

    def __init__(self, index: CheckpointIndex, reader: WeightReader, filler: Filler) -> None:
        self.layouts = [
            LayerLayout.of(f"{n}", [as_it_is(index.spans[f"{n}.weight"])])
            for n in range(self.count)
        ]
        self.buffers: list[HostBuffer] = []
        self.bytes: list[torch.Tensor] = []
        self.layers: list[StreamedLayer] = []
        for number, layout in enumerate(self.layouts):
            buffer = HostBuffer(layout.size_bytes)
            reader.read(layout, buffer.tensor).wait()
            self.bytes.append(layout.views(buffer.tensor.clone())["weight"])
            self.layers.append(self._streamed(number, layout, buffer, filler))

    def _streamed(
        self, number: int, layout: LayerLayout, buffer: HostBuffer, filler: Filler
    ) -> StreamedLayer:
        if number % 3 == 2:
            buffer.close()
            return StreamedLayer(layout)
        packed = pack_layer(buffer.tensor.to(GPU), layout) if number % 3 == 1 else None
        if packed is not None:
            buffer.close()
            buffer = filler.to_host(packed.blob)
        else:
            buffer.lock()
        self.buffers.append(buffer)
        return StreamedLayer(layout, buffer.tensor, None if packed is None else packed.format)

    def assert_in(self, ring: CopyingRing, index: int) -> None:
        views = self.layouts[index].views(ring.buffer(index))
        assert torch.equal(views["weight"].cpu(), self.bytes[index])


@contextlib.contextmanager
def copying_ring(
    root: Path, slots: int, staging_slots: int
) -> Iterator[tuple[CopyingRing, MixedLayers, Path]]:
    torch.manual_seed(0)
    sizes = [(n % 4 + 1) * 50_000 for n in range(MixedLayers.count)]
    index = index_of(
        root, **{f"{n}.weight": torch.randn(s).to(torch.bfloat16) for n, s in enumerate(sizes)}
    )
    with WeightReader(index, threads=3) as reader:
        filler = Filler(reader)
        held = MixedLayers(index, reader, filler)
        on_disk = [each.layout for each in held.layers if each.host is None]
        staging = ReadingRing(reader, on_disk, staging_slots, filler.locked)
        ring = CopyingRing(GPU, held.layers, slots, staging)
        try:
            yield ring, held, next(iter(index.identities))
        finally:
            ring.close()
            for buffer in held.buffers:
                buffer.close()
            filler.close()


@pytest.mark.parametrize("staging_slots", [1, 2, 3])
@pytest.mark.parametrize("slots", [1, 2, 4, MixedLayers.count])
def test_a_ring_heals_itself_after_passes_that_ended_anywhere(
    slots: int, staging_slots: int, tmp_path: Path
) -> None:
    chance = random.Random(slots + 10 * staging_slots)
    with copying_ring(tmp_path / "ring", slots, staging_slots) as (ring, held, _):
        for _ in range(60):
            until = chance.choice((MixedLayers.count, chance.randrange(MixedLayers.count + 1)))
            checked = chance.random() < 0.5
            for index in range(until):
                ring.take(index, None, None)
                if checked:
                    held.assert_in(ring, index)
                if index < until - 1 or until == MixedLayers.count:
                    ring.give_back(index)
        for index in range(MixedLayers.count):
            ring.take(index, None, None)
            held.assert_in(ring, index)
            ring.give_back(index)


def test_a_ring_heals_itself_after_reads_that_failed_or_were_cancelled(tmp_path: Path) -> None:
    chance = random.Random(5)
    with copying_ring(tmp_path / "ring", 3, 2) as (ring, held, path):
        aside = path.with_name("aside")
        for _ in range(60):
            harm = chance.choice(("away", "cancel"))
            when = chance.randrange(MixedLayers.count)
            cancel = threading.Event()
            try:
                for index in range(MixedLayers.count):
                    if index == when and harm == "cancel":
                        cancel.set()
                    elif index == when:
                        path.rename(aside)
                    ring.take(index, cancel, None)
                    held.assert_in(ring, index)
                    ring.give_back(index)
            except (Cancelled, CheckpointChangedError, WeightReadError):
                pass
            finally:
                if aside.exists():
                    aside.rename(path)
            for attempt in range(2):
                try:
                    for index in range(MixedLayers.count):
                        ring.take(index, None, None)
                        held.assert_in(ring, index)
                        ring.give_back(index)
                except (CheckpointChangedError, WeightReadError):
                    # Read ahead while the file was away; said once.
                    assert attempt == 0
                else:
                    break
