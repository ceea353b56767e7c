from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
import torch

from ollm_widgets import (
    Completion,
    GenerationConfig,
    LoadedRuntime,
    LoadProgress,
    RuntimeConfig,
    RuntimeLoader,
    RuntimeManager,
    RuntimePlan,
)
from ollm_widgets.backends.base import LoadedModel, ProgressSink
from ollm_widgets.backends.generic import GenericBackend
from ollm_widgets.backends.native import NativeBackend
from ollm_widgets.errors import BackendsFailedError
from ollm_widgets.planning.traits import BackendTraits
from ollm_widgets.runtime.letting_go import let_go, letting_go
from ollm_widgets.session.transcript import Transcript

PATIENCE_S = 30.0
SHORT = GenerationConfig(max_new_tokens=8)
LONG = GenerationConfig(max_new_tokens=200)
BACKENDS = ("optimized-native", "transformers-generic")

Load = Callable[..., LoadedRuntime]


@pytest.fixture(autouse=True, scope="module")
def one_thread_a_model() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def load(saved_llama: Path) -> Load:
    def load(backend: str = "optimized-native", **options: object) -> LoadedRuntime:
        config = RuntimeConfig(f"path:{saved_llama}", device="cpu", backend=backend, **options)
        return RuntimeLoader().load(config)

    return load


class Watched:
    """Weak references to what must go: the weights of a model, and its runtime."""

    def __init__(self, runtime: LoadedRuntime) -> None:
        self._runtime = weakref.ref(runtime)
        self._weights = [weakref.ref(each) for each in runtime.model.parameters()]
        self._threads = weights_threads()
        assert len(self._weights) > 10

    @property
    def gone(self) -> bool:
        alive = [ref for ref in self._weights if ref() is not None and not ref().is_meta]
        return not alive and self._runtime() is None


def weights_threads() -> set[str]:
    """Names of the threads that work for a model."""
    names = ("ollm-model-", "weight-reader", "kv-")
    return {each.name for each in threading.enumerate() if each.name.startswith(names)}


def tensor_bytes() -> int:
    """Bytes of all tensors that somebody holds."""
    gc.collect()
    held = {}
    for each in gc.get_objects():
        if issubclass(type(each), torch.Tensor) and each.device.type != "meta":
            storage = each.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
    return sum(held.values())


def until(holds: Callable[[], object]) -> bool:
    """Whether it comes true while another thread is on its way."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    return bool(holds())


# ---------------------------------------------------------------------- the last reference


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_runtime_that_nobody_holds_gives_weights_and_threads_back(
    load: Load, backend: str
) -> None:
    before = weights_threads()
    runtime = load(backend)
    runtime.complete("w3 w4", SHORT)
    watched = Watched(runtime)
    assert weights_threads() > before
    del runtime
    assert watched.gone
    assert weights_threads() == before


@pytest.mark.parametrize("end", ["close", "drop"])
def test_a_runtime_that_went_is_not_remembered_for_the_end_of_the_interpreter(
    load: Load, end: str
) -> None:
    runtime = load()
    belongings = weakref.ref(runtime._belongings)
    if end == "close":
        runtime.close()
    del runtime
    gc.collect()
    assert belongings() is None


def test_keys_and_values_that_cannot_be_saved_do_not_keep_the_weights(load: Load) -> None:
    runtime = load()
    watched = Watched(runtime)
    runtime.complete("w3 w4", SHORT)
    cache = runtime.get_or_create_kv_cache()
    cache.close = lambda: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        runtime.close()
    assert runtime.closed
    del runtime, cache
    assert watched.gone


def test_a_runtime_in_a_circle_of_references_goes_with_it(load: Load) -> None:
    circle: list[object] = [load()]
    circle.append(circle)
    watched = Watched(circle[0])  # type: ignore[arg-type]
    del circle
    gc.collect()
    assert watched.gone


def test_a_runtime_stays_while_its_answer_is_read_and_goes_after_it(load: Load) -> None:
    runtime = load()
    watched = Watched(runtime)
    stream = runtime.stream("w3 w4", SHORT)
    del runtime
    assert list(stream)[-1].new_tokens
    assert until(lambda: watched.gone)


def test_dropping_runtime_and_answer_ends_the_answer_and_frees_both(load: Load) -> None:
    runtime = load()
    watched = Watched(runtime)
    stream = runtime.stream("w3 w4", LONG)
    next(stream)
    del runtime, stream
    assert until(lambda: watched.gone)


def test_a_cache_that_was_handed_out_does_not_hold_the_runtime(load: Load) -> None:
    runtime = load()
    watched = Watched(runtime)
    cache = runtime.get_or_create_kv_cache()
    runtime.generate(torch.tensor([[3, 4, 5]]), SHORT, kv_cache=cache)
    del runtime
    assert watched.gone
    assert not cache.layers


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_runtime_that_somebody_keeps_holds_no_weights(load: Load, backend: str) -> None:
    before = tensor_bytes()
    runtime = load(backend)
    model = runtime.model
    runtime.complete("w3 w4", SHORT)
    weights = [weakref.ref(each) for each in model.parameters()]
    runtime.close()
    assert all(ref() is None or ref().is_meta for ref in weights)
    # What transformers computes from its config stays with the skeleton: a few rotary tables.
    assert tensor_bytes() - before < 4096


# Rotary frequencies and counters, which go with the objects that the collector finds; the smallest
# weights are four times as large.
FEW_BYTES = 4096


def device_bytes() -> int:
    """What is allocated, without the workspaces of matrix products that each thread has."""
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    return torch.cuda.memory_allocated()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("gpu_layers", [0, 2])
def test_a_runtime_that_nobody_holds_gives_the_accelerator_back(
    saved_llama: Path, gpu_layers: int
) -> None:
    config = RuntimeConfig(
        f"path:{saved_llama}",
        device="cuda:0",
        offload_gpu_layers=gpu_layers,
        offload_cpu_layers=2 - gpu_layers,
    )
    runtime = RuntimeLoader().load(config)
    runtime.complete("w3 w4", SHORT)
    runtime.close()
    del runtime  # what stays with the process is there from now on
    device, host = device_bytes(), tensor_bytes()
    runtime = RuntimeLoader().load(config)
    runtime.complete("w3 w4", SHORT)
    assert device_bytes() > device
    del runtime
    assert device_bytes() - device < FEW_BYTES
    assert tensor_bytes() <= host


# ---------------------------------------------------------------------- errors that are kept


class Broken:
    """Fails in a layer, with a tensor in hand, as a library might."""

    def __init__(self, runtime: LoadedRuntime) -> None:
        self.tensors: list[weakref.ref[torch.Tensor]] = []
        layer = runtime.model.model.layers[1]
        self._handle = layer.register_forward_pre_hook(self._fail)

    def _fail(self, _layer: object, args: object) -> None:
        in_hand = torch.zeros(1000)
        self.tensors.append(weakref.ref(in_hand))
        self._fail_below(in_hand)

    def _fail_below(self, given: torch.Tensor) -> None:
        also = given * 2
        self.tensors.append(weakref.ref(also))
        try:
            raise LookupError("first")
        except LookupError as error:
            raise FloatingPointError("broken in a layer") from error

    def mend(self) -> None:
        self._handle.remove()


ASK: dict[str, tuple[object, ...]] = {
    "generate": (torch.tensor([[3, 4, 5]]), SHORT),
    "complete": ("w3 w4", SHORT),
    "stream": ("w3 w4", SHORT),
    "compare_kv": ("w3 w4", ["resident"]),
}


@pytest.mark.parametrize("ask", ASK)
def test_an_error_that_is_kept_holds_neither_tensors_nor_the_runtime(load: Load, ask: str) -> None:
    runtime = load()
    watched, broken = Watched(runtime), Broken(runtime)
    with pytest.raises(FloatingPointError, match="broken in a layer") as kept:
        list(getattr(runtime, ask)(*ASK[ask]))
    assert len(broken.tensors) >= 2
    assert all(ref() is None for ref in broken.tensors)
    (note,) = kept.value.__notes__
    assert "_fail_below" in note, "it still says where it broke"
    broken.mend()
    assert runtime.complete("w3 w4", SHORT).new_tokens
    del runtime, broken
    assert until(lambda: watched.gone)
    assert kept.value.__cause__ is not None


def test_an_error_before_the_queue_does_not_hold_the_runtime(load: Load) -> None:
    runtime = load()
    watched = Watched(runtime)
    with pytest.raises(ValueError, match="empty") as kept:
        runtime.stream("")
    del runtime
    assert watched.gone
    assert "empty" in str(kept.value)


def test_an_interrupt_that_is_kept_holds_nothing_and_ends_the_answer(load: Load) -> None:
    runtime = load()
    watched = Watched(runtime)
    begun = threading.Event()
    runtime.model.model.layers[0].register_forward_pre_hook(lambda *_: begun.set())

    def interrupt(_position: int) -> None:
        raise KeyboardInterrupt

    first = runtime.stream("w3 w4", LONG, caller="other")
    with pytest.raises(KeyboardInterrupt) as kept:
        runtime.complete("w5", LONG, on_wait=interrupt)
    assert begun.wait(PATIENCE_S)
    first.close()
    del runtime, first
    assert until(lambda: watched.gone)
    assert kept.type is KeyboardInterrupt


@dataclass
class FailsMidway:
    """A real backend whose load fails once weights are in memory."""

    backend: NativeBackend | GenericBackend
    held_bytes: int = 0

    @property
    def traits(self) -> BackendTraits:
        return self.backend.traits

    def load(
        self, plan: RuntimePlan, folder: Path, _progress: ProgressSink, cancel: threading.Event
    ) -> LoadedModel:
        before = tensor_bytes()

        def progress(report: LoadProgress) -> None:
            if report.stage == "Read weights" and report.done_bytes:
                self.held_bytes = tensor_bytes() - before
                raise FloatingPointError("broken on the way")

        return self.backend.load(plan, folder, progress, cancel)


@pytest.mark.parametrize("backend", [NativeBackend(), GenericBackend()], ids=BACKENDS)
def test_a_load_that_fails_leaves_nothing_with_its_error(
    saved_llama: Path, backend: NativeBackend | GenericBackend
) -> None:
    config = RuntimeConfig(f"path:{saved_llama}", device="cpu", backend=backend.traits.backend_id)
    RuntimeLoader().load(config).close()  # what stays with the process is there from now on
    failing = FailsMidway(backend)
    with closing(RuntimeManager(RuntimeLoader(backends=[failing]))) as manager:
        before, threads = tensor_bytes(), weights_threads()
        with pytest.raises(FloatingPointError, match="broken on the way") as kept:
            manager.acquire(config)
        assert failing.held_bytes > 4096, "something was in memory when it failed"
        # Threads of transformers that read may be at their last tensor still.
        assert until(lambda: tensor_bytes() - before < 4096)
        assert weights_threads() == threads
        assert kept.type is FloatingPointError


def test_an_error_that_was_there_before_keeps_its_frames() -> None:
    def mine() -> None:
        precious = "for my debugger"
        raise ValueError(precious)

    @letting_go
    def ours(_given: object) -> None:
        in_hand = "ours"
        raise LookupError(in_hand)

    try:
        mine()
    except ValueError as before:
        with pytest.raises(LookupError) as kept:
            ours(object())
        frames = [before.__traceback__, kept.value.__traceback__]
        mine_of, ours_of = (list(locals_of(each)) for each in frames)
    assert {"precious": "for my debugger"} in mine_of
    assert all("in_hand" not in each and "_given" not in each for each in ours_of)
    assert all("args" not in each for each in ours_of)


def locals_of(traceback: object) -> Iterator[dict[str, object]]:
    while traceback is not None:
        yield dict(traceback.tb_frame.f_locals)  # type: ignore[attr-defined]
        traceback = traceback.tb_next  # type: ignore[attr-defined]


def test_errors_that_were_raised_from_others_let_go_with_them() -> None:
    tensors = []

    def fail(depth: int) -> None:
        in_hand = torch.zeros(10)
        tensors.append(weakref.ref(in_hand))
        try:
            if depth:
                fail(depth - 1)
        except LookupError as error:
            raise LookupError(str(depth)) from error
        raise LookupError("0")

    errors: list[Exception] = []
    for _ in range(2):
        with pytest.raises(LookupError) as kept:
            fail(3)
        errors.append(kept.value)
        del kept
    group = ExceptionGroup("several", [*errors, BackendsFailedError("all", errors=errors)])
    assert any(ref() is not None for ref in tensors)
    let_go(group)
    assert len(tensors) == 8
    assert all(ref() is None for ref in tensors)
    assert str(errors[0].__cause__) == "2"


def test_an_error_says_where_it_happened_once() -> None:
    @letting_go
    def outer() -> None:
        inner()

    @letting_go
    def inner() -> None:
        raise LookupError("lost")

    with pytest.raises(LookupError) as kept:
        outer()
    (note,) = kept.value.__notes__
    assert note.count("Where it happened") == 1
    assert 'raise LookupError("lost")' in note


# ---------------------------------------------------------------------- what is kept on purpose


def held_tensors(kept: object) -> list[torch.Tensor]:
    """Find every tensor that can be reached from an object."""
    seen: set[int] = set()
    waiting, found = [kept], []
    while waiting:
        each = waiting.pop()
        kind = type(each)  # some modules answer to isinstance, with a warning
        if id(each) in seen or issubclass(kind, type | ModuleType | FunctionType):
            continue
        seen.add(id(each))
        if issubclass(kind, torch.Tensor):
            found.append(each)
        waiting += gc.get_referents(each)
    return found


def test_answers_and_conversations_hold_no_tensors(load: Load) -> None:
    with load() as runtime:
        assert held_tensors(runtime), "what is looked for can be found"
        pieces = list(runtime.stream("w3 w4", SHORT))
        completion = runtime.complete("w3 w4", SHORT)
        assert isinstance(runtime.last_completion, Completion)
        for kept in (*pieces, completion, runtime.last_completion, runtime.queue):
            assert held_tensors(kept) == []
        transcript = Transcript()
        turn = transcript.ask("w3")
        turn.pieces.append(completion.text)
        assert held_tensors(transcript) == []
        stream = runtime.stream("w3 w4", SHORT)
        list(stream)
        assert held_tensors(stream._job._items) == []  # type: ignore[attr-defined]
