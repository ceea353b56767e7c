"""A model whose layers stream, used as a person uses it, and hurt in every way we know."""

from __future__ import annotations

import os
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from ollm_widgets import GenerationConfig, LoadedRuntime, RuntimeConfig, RuntimeLoader
from ollm_widgets.errors import (
    Cancelled,
    CheckpointChangedError,
    ConfigError,
    OutOfMemory,
    RuntimeClosedError,
    WeightReadError,
)
from ollm_widgets.runtime.answering import Request, generate_ids
from tests.models.architectures import Architecture
from tests.weights.streamed_models import (
    DECODERS,
    greedy,
    prompts,
    save_lively,
    save_streamable,
    whole,
    with_tokenizer,
)

if TYPE_CHECKING:
    from ollm_widgets.weights.engine import WeightEngine

LAYERS = 6
NEW = 6
PROMPT = prompts([19])
SHORT = GenerationConfig(max_new_tokens=NEW)


@pytest.fixture(scope="module")
def folder(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_streamable(saved_llama, tmp_path_factory.mktemp("streamable") / "llama", LAYERS)


def load(folder: Path, **settings: Any) -> LoadedRuntime:
    settings = {"offload_cpu_layers": 1, "dtype": "float32", **settings}
    return RuntimeLoader().load(
        RuntimeConfig(folder, backend="optimized-native", device="cpu", **settings)
    )


@pytest.fixture
def streamed(folder: Path) -> Iterator[LoadedRuntime]:
    with load(folder) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def expected(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return greedy(model, PROMPT, NEW)


def engine_of(runtime: LoadedRuntime) -> WeightEngine:
    loaded = runtime._loaded
    assert loaded is not None
    assert loaded.engine is not None
    return loaded.engine


# ---------------------------------------------------------------------- the same answers


@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_every_architecture_answers_as_transformers_does(
    architecture: Architecture, saved_llama: Path, tmp_path: Path
) -> None:
    folder = with_tokenizer(save_lively(architecture, tmp_path / "m"), saved_llama, architecture)
    wanted = greedy(whole(architecture, folder, torch.float32), PROMPT, NEW)
    with load(folder) as runtime:
        assert runtime.plan.placement.disk_layers == architecture.layers - 1
        assert torch.equal(runtime.generate(PROMPT.input_ids, SHORT), wanted)


def test_a_padded_batch_and_the_next_request_are_answered(
    streamed: LoadedRuntime, folder: Path, expected: torch.Tensor
) -> None:
    from transformers import AutoModelForCausalLM

    padded = prompts([19, 7, 3])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    output = streamed.generate(padded.input_ids, SHORT, attention_mask=padded.attention_mask)
    assert torch.equal(output, greedy(model, padded, NEW))
    assert torch.equal(streamed.generate(PROMPT.input_ids, SHORT), expected)


def test_requests_of_several_threads_get_their_own_answers(
    streamed: LoadedRuntime, expected: torch.Tensor
) -> None:
    answers: list[torch.Tensor] = []
    threads = [
        threading.Thread(target=lambda: answers.append(streamed.generate(PROMPT.input_ids, SHORT)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert all(torch.equal(answer, expected) for answer in answers)


# ---------------------------------------------------------------------- something happens


class Moment:
    """A place in a request: layer and pass, counted by hooks of every layer."""

    def __init__(self, runtime: LoadedRuntime, layer: int, number: int) -> None:
        self._layers = engine_of(runtime).structure.layers
        self._at = (layer, number)
        self._passes = 0

    @contextmanager
    def calling(self, act: Callable[[], None]) -> Iterator[None]:
        """Call `act` there, in the middle of the request."""
        layer, number = self._at

        def count(_module: nn.Module, _args: object) -> None:
            self._passes += 1
            if self._passes == number + 1:
                act()

        hook = self._layers[layer].register_forward_pre_hook(count)
        try:
            yield
        finally:
            hook.remove()


def test_two_hundred_cancels_at_random_moments_leave_a_model_that_answers(
    streamed: LoadedRuntime, expected: torch.Tensor
) -> None:
    loaded = streamed._loaded
    assert loaded is not None
    chance = random.Random(0)
    prompt = PROMPT.input_ids.shape[1]
    for _ in range(200):
        cancel = threading.Event()
        watched = chance.randrange(2 * NEW)
        moment = Moment(streamed, chance.randrange(LAYERS), chance.randrange(NEW))

        def watch(ids: torch.Tensor, last: int = watched, event: threading.Event = cancel) -> bool:
            if ids.shape[1] - prompt == last:
                event.set()
            return False

        request = Request(
            PROMPT.input_ids,
            PROMPT.attention_mask,
            SHORT,
            NEW,
            cancel,
            reuse=streamed._caches.reuse_of(None),
        )
        with moment.calling(cancel.set):
            output = generate_ids(loaded, streamed.plan, request, watch)
        assert cancel.is_set()
        assert torch.equal(output, expected[:, : output.shape[1]])
    assert torch.equal(streamed.generate(PROMPT.input_ids, SHORT), expected)


def test_a_caller_that_cancels_or_leaves_frees_the_model(
    streamed: LoadedRuntime, expected: torch.Tensor
) -> None:
    for number in range(6):
        cancel = threading.Event()
        for delta in streamed.stream("w5 w6 w7", GenerationConfig(max_new_tokens=100), cancel):
            if delta.new_tokens >= number:
                cancel.set()
                if number % 2:
                    break
        assert torch.equal(streamed.generate(PROMPT.input_ids, SHORT), expected)


class Damage:
    """Ways to hurt the file of a checkpoint, each of which can be undone."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.safetensors"
        self._aside = folder / "aside"
        self._whole = self.path.read_bytes()
        self._status = self.path.stat()

    def cut_off(self) -> None:
        os.truncate(self.path, len(self._whole) // 2)

    def empty(self) -> None:
        os.truncate(self.path, 0)

    def take_away(self) -> None:
        self.path.rename(self._aside)

    def write_to(self) -> None:
        os.utime(self.path, ns=(self._status.st_atime_ns, self._status.st_mtime_ns + 1))

    def undo(self) -> None:
        if self._aside.exists():
            self._aside.rename(self.path)
        if self.path.stat().st_size != len(self._whole):
            self.path.write_bytes(self._whole)
        os.utime(self.path, ns=(self._status.st_atime_ns, self._status.st_mtime_ns))


def test_a_hundred_reads_that_fail_are_named_and_the_next_request_is_answered(
    streamed: LoadedRuntime, folder: Path, expected: torch.Tensor
) -> None:
    chance = random.Random(1)
    damage = Damage(folder)
    failures = 0
    while failures < 100:
        hurt = chance.choice((damage.cut_off, damage.empty, damage.take_away, damage.write_to))
        # Not in the last pass, where all that is needed may have been read before.
        moment = Moment(streamed, chance.randrange(LAYERS), chance.randrange(NEW - 1))
        with ExitStack() as stack:
            stack.callback(damage.undo)
            stack.enter_context(moment.calling(hurt))
            with pytest.raises((CheckpointChangedError, WeightReadError)) as raised:
                streamed.generate(PROMPT.input_ids, SHORT)
        assert damage.path.name in str(raised.value)
        failures += 1
        if failures % 5 == 0:
            assert torch.equal(streamed.generate(PROMPT.input_ids, SHORT), expected)


def test_while_the_file_stays_damaged_every_request_says_so(
    streamed: LoadedRuntime, folder: Path, expected: torch.Tensor
) -> None:
    damage = Damage(folder)
    damage.cut_off()
    try:
        for _ in range(3):
            with pytest.raises((CheckpointChangedError, WeightReadError), match="bytes"):
                streamed.generate(PROMPT.input_ids, SHORT)
            with pytest.raises((CheckpointChangedError, WeightReadError)):
                streamed.complete("w3 w4", SHORT)
    finally:
        damage.undo()
    assert torch.equal(streamed.generate(PROMPT.input_ids, SHORT), expected)


@pytest.mark.parametrize(("phase", "number"), [("prefill", 0), ("decode", 3)])
@pytest.mark.parametrize("layer", [0, 3, LAYERS - 1])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no room"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_runs_out_is_said_with_numbers_and_the_next_request_is_answered(
    streamed: LoadedRuntime,
    expected: torch.Tensor,
    phase: str,
    number: int,
    layer: int,
    error: BaseException,
) -> None:
    def fail() -> None:
        raise error

    with (
        Moment(streamed, layer, number).calling(fail),
        pytest.raises(OutOfMemory, match="GiB are free") as raised,
    ):
        streamed.generate(PROMPT.input_ids, SHORT)
    assert raised.value.tier == "cpu"
    assert torch.equal(streamed.generate(PROMPT.input_ids, SHORT), expected), phase


@pytest.mark.parametrize("number", [0, 1, 4])
def test_a_request_goes_on_from_its_last_token_once_there_is_room(
    streamed: LoadedRuntime, expected: torch.Tensor, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is no accelerator to make room on; what is tried is all that happens around it.
    engine = engine_of(streamed)
    held: list[weakref.ref[torch.Tensor]] = []
    caches: list[object] = []

    def make_room() -> int:
        assert held
        assert not [tensor for tensor in held if tensor() is not None]
        caches.append(streamed._caches.all())
        return 1

    def fail() -> None:
        if not held:
            activations = torch.zeros(1000)
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(engine, "make_room", make_room)
    with Moment(streamed, 2, number).calling(fail):
        assert torch.equal(streamed.generate(PROMPT.input_ids, SHORT), expected)
    assert caches == [()]


def test_sequences_of_a_batch_that_had_ended_stay_ended_once_there_is_room(
    streamed: LoadedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = prompts([19, 7, 3])
    greedy = streamed.generate(batch.input_ids, SHORT, attention_mask=batch.attention_mask)
    monkeypatch.setattr(streamed.model.generation_config, "eos_token_id", int(greedy[0, 19 + 1]))
    wanted = streamed.generate(batch.input_ids, SHORT, attention_mask=batch.attention_mask)
    assert (wanted[0, 19 + 2 :] == 0).all()
    failures = [torch.OutOfMemoryError("no room")]

    def fail() -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(engine_of(streamed), "make_room", lambda *_: 1)
    with Moment(streamed, 2, 4).calling(fail):
        got = streamed.generate(batch.input_ids, SHORT, attention_mask=batch.attention_mask)
    assert not failures
    assert torch.equal(got, wanted)


def test_any_other_error_of_a_layer_reaches_the_caller_as_it_is(
    streamed: LoadedRuntime, expected: torch.Tensor
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("in a layer")

    with Moment(streamed, 2, 1).calling(fail), pytest.raises(ZeroDivisionError, match="a layer"):
        streamed.generate(PROMPT.input_ids, SHORT)
    assert torch.equal(streamed.generate(PROMPT.input_ids, SHORT), expected)


# ---------------------------------------------------------------------- nothing stays


def open_files(folder: Path) -> list[Path]:
    held = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = entry.readlink()
        except OSError:
            continue
        if target.is_relative_to(folder):
            held.append(target)
    return held


def test_closing_leaves_no_thread_and_no_open_file(folder: Path) -> None:
    before = set(threading.enumerate())
    runtime = load(folder)
    runtime.generate(PROMPT.input_ids, SHORT)
    assert open_files(folder)
    model = runtime.model
    runtime.close()
    assert set(threading.enumerate()) <= before
    assert open_files(folder) == []
    assert all(parameter.is_meta for parameter in model.parameters())
    with pytest.raises(RuntimeClosedError):
        runtime.generate(PROMPT.input_ids, SHORT)


def test_closing_while_a_request_runs_ends_it_and_leaves_nothing(folder: Path) -> None:
    before = set(threading.enumerate())
    runtime = load(folder)
    pieces = runtime.stream("w5 w6 w7", GenerationConfig(max_new_tokens=200))
    next(pieces)
    runtime.close()
    last = list(pieces)[-1]
    assert last.finish_reason in ("cancelled", "length")
    assert set(threading.enumerate()) <= before
    assert open_files(folder) == []


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_a_load_that_is_cancelled_leaves_nothing(folder: Path, calls: int) -> None:
    before = set(threading.enumerate())
    cancel = threading.Event()
    seen = 0

    def progress(_progress: object) -> None:
        nonlocal seen
        seen += 1
        if seen == calls:
            cancel.set()

    config = RuntimeConfig(folder, backend="optimized-native", device="cpu")
    with pytest.raises(Cancelled):
        RuntimeLoader().load(config, progress, cancel)
    assert set(threading.enumerate()) <= before
    assert open_files(folder) == []


def test_a_load_from_a_damaged_file_leaves_nothing_and_works_once_it_is_whole(
    folder: Path, expected: torch.Tensor
) -> None:
    before = set(threading.enumerate())
    damage = Damage(folder)

    def progress(update: Any) -> None:
        if update.stage == "Read weights" and update.done_bytes == 0:
            damage.cut_off()

    config = RuntimeConfig(folder, backend="optimized-native", device="cpu", dtype="float32")
    try:
        with pytest.raises((CheckpointChangedError, WeightReadError)):
            RuntimeLoader().load(config, progress)
    finally:
        damage.undo()
    assert set(threading.enumerate()) <= before
    assert open_files(folder) == []
    with RuntimeLoader().load(config) as runtime:
        assert torch.equal(runtime.generate(PROMPT.input_ids, SHORT), expected)


# ---------------------------------------------------------------------- its trace


def test_a_trace_shows_each_pass_of_a_request_and_where_its_time_went(
    streamed: LoadedRuntime, expected: torch.Tensor
) -> None:
    with streamed.trace() as trace:
        assert torch.equal(streamed.generate(PROMPT.input_ids, SHORT), expected)
        assert trace.passes == []
    assert [each.tokens for each in trace.passes] == [19] + [1] * (NEW - 1)
    for each in trace.passes:
        assert tuple(layer.tier for layer in each.layers) == streamed.plan.placement.tiers
    text = trace.to_text()
    assert f"{NEW} passes in" in text
    for what in ("Waiting for disk", "Waiting for copies", "Computing"):
        assert what in text
        assert what in trace.to_html()
    assert not engine_of(streamed).tracing


def test_a_trace_within_a_trace_is_refused_and_the_first_one_goes_on(
    streamed: LoadedRuntime,
) -> None:
    with streamed.trace() as trace:
        with pytest.raises(ConfigError, match="traced already"), streamed.trace():
            pass
        streamed.generate(PROMPT.input_ids, SHORT)
    assert len(trace.passes) == NEW
    with streamed.trace() as again:
        streamed.generate(PROMPT.input_ids, SHORT)
    assert len(again.passes) == NEW


def test_an_empty_trace_shows_itself(streamed: LoadedRuntime) -> None:
    with streamed.trace() as trace:
        pass
    assert "0 passes" in trace.to_text()


def test_the_generic_backend_has_no_layers_to_trace_or_move(folder: Path) -> None:
    config = RuntimeConfig(folder, backend="transformers-generic", device="cpu")
    with RuntimeLoader().load(config) as runtime:
        with pytest.raises(ConfigError, match="does not see the layers"), runtime.trace():
            pass
        with pytest.raises(ConfigError, match="whole model on one device"):
            runtime.rebalance(offload_cpu_layers=1)


def test_the_runtime_shows_itself_and_its_memory(streamed: LoadedRuntime) -> None:
    assert "optimized-native" in streamed.to_text()
    use = streamed.memory()
    assert use.disk_weights_bytes > 0
    assert use.host_staging_bytes > 0
    assert use.accelerator_bytes == 0
