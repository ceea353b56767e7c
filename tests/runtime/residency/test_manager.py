from __future__ import annotations

import gc
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ollm_widgets import (
    Cancelled,
    ConfigError,
    LoadedRuntime,
    LoadProgress,
    RuntimeBusyError,
    RuntimeClosedError,
    RuntimeConfig,
    RuntimeEvent,
    RuntimeLoader,
    RuntimeManager,
    UnsupportedModelError,
)
from ollm_widgets.render.units import format_memory

CopyModel = Callable[[str], RuntimeConfig]


class CountingLoader(RuntimeLoader):
    """The real loader, which counts, and which a test can hold at the gate or let fail."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.gate: threading.Event | None = None
        self.failures: list[Exception] = []
        self.entered = threading.Event()

    def load(self, config, progress=None, cancel=None) -> LoadedRuntime:  # type: ignore[no-untyped-def]
        self.loads += 1
        self.entered.set()
        if progress is not None:
            progress(LoadProgress("Read weights", 1, 2))
        while self.gate is not None and not self.gate.wait(0.02):
            if cancel.is_set():
                raise Cancelled("Loading was cancelled.")
        if self.failures:
            raise self.failures.pop(0)
        return super().load(config, progress, cancel)


@pytest.fixture
def loader() -> CountingLoader:
    return CountingLoader()


@pytest.fixture
def copy_model(saved_llama: Path, tmp_path: Path) -> CopyModel:
    def copy(name: str) -> RuntimeConfig:
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(saved_llama, folder)
        return RuntimeConfig(f"path:{folder}")

    return copy


def manager_of(loader: RuntimeLoader, **options: object) -> RuntimeManager:
    return RuntimeManager(loader, busy_wait_s=0.3, **options)  # type: ignore[arg-type]


def test_a_hundred_threads_asking_for_one_model_cause_one_load(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager, config = manager_of(loader), copy_model("one")
    with ThreadPoolExecutor(100) as pool:
        leases = list(pool.map(lambda _n: manager.acquire(config), range(100)))
    assert loader.loads == 1
    assert len({id(lease.runtime) for lease in leases}) == 1
    for lease in leases:
        lease.release()
    manager.unload_all()


def test_two_names_of_the_same_weights_share_one_runtime(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager, config = manager_of(loader), copy_model("one")
    folder = Path(str(config.model_reference).removeprefix("path:"))
    with manager.acquire(config) as first, manager.acquire(RuntimeConfig(folder)) as second:
        assert first.runtime is second.runtime
    manager.unload_all()


def test_another_dtype_is_another_runtime(loader: CountingLoader, copy_model: CopyModel) -> None:
    manager, config = manager_of(loader), copy_model("one")
    with (
        manager.acquire(config.copy(dtype="float32")) as first,
        manager.acquire(config.copy(dtype="bfloat16")) as second,
    ):
        assert first.runtime is not second.runtime
        assert first.id != second.id
    manager.unload_all()


def test_peeking_neither_loads_nor_leases(loader: CountingLoader, copy_model: CopyModel) -> None:
    manager, config = manager_of(loader), copy_model("one")
    assert manager.get(config) is None
    assert loader.loads == 0
    with manager.acquire(config) as lease:
        assert manager.get(config) is lease.runtime is manager.get(lease.id)
    manager.unload_all()


def test_the_least_recently_used_runtime_makes_room(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager = manager_of(loader, max_loaded=2)
    for name in ("a", "b", "a", "c"):
        manager.acquire(copy_model(name)).release()
    assert [resident.name for resident in manager.residents()] == ["c", "a"]
    manager.unload_all()


def test_a_pinned_runtime_is_never_evicted(loader: CountingLoader, copy_model: CopyModel) -> None:
    manager = manager_of(loader, max_loaded=2)
    with manager.acquire(copy_model("a")) as lease:
        manager.pin(lease.id)
    for name in ("b", "c"):
        manager.acquire(copy_model(name)).release()
    assert [resident.name for resident in manager.residents()] == ["c", "a"]
    manager.unpin("a")
    manager.acquire(copy_model("d")).release()
    assert [resident.name for resident in manager.residents()] == ["d", "c"]
    manager.unload_all()


def test_when_everything_is_pinned_the_error_says_who_holds_the_room(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager = manager_of(loader, max_loaded=1)
    manager.acquire(copy_model("a")).release()
    manager.pin("a")
    with pytest.raises(RuntimeBusyError, match=r"a \(pinned\)"):
        manager.acquire(copy_model("b"))
    manager.unload_all()


def test_a_busy_runtime_is_waited_for_and_never_pulled_from_under_its_lease(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager = manager_of(loader, max_loaded=1)
    with manager.acquire(copy_model("a")) as lease:
        with pytest.raises(RuntimeBusyError, match=r"a \(busy for "):
            manager.acquire(copy_model("b"))
        assert not lease.runtime.closed
    manager.acquire(copy_model("b")).release()
    assert [resident.name for resident in manager.residents()] == ["b"]
    manager.unload_all()


def test_a_caller_who_cancels_leaves_and_the_load_goes_on_for_the_others(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager, config = manager_of(loader), copy_model("one")
    loader.gate = threading.Event()
    cancel = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        leaver = pool.submit(manager.acquire, config, None, cancel)
        assert loader.entered.wait(20)
        stayer = pool.submit(manager.acquire, config)
        cancel.set()
        with pytest.raises(Cancelled):
            leaver.result(20)
        loader.gate.set()
        stayer.result(60).release()
    assert loader.loads == 1
    manager.unload_all()


def test_a_load_that_nobody_waits_for_is_cancelled_and_can_be_asked_for_again(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager, config = manager_of(loader), copy_model("one")
    loader.gate = threading.Event()
    cancel = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        only = pool.submit(manager.acquire, config, None, cancel)
        assert loader.entered.wait(20)
        cancel.set()
        with pytest.raises(Cancelled):
            only.result(20)
    loader.gate = None
    manager.acquire(config).release()
    assert loader.loads == 2
    manager.unload_all()


def test_a_late_caller_sees_the_progress_so_far(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager, config = manager_of(loader), copy_model("one")
    loader.gate = threading.Event()
    seen: list[LoadProgress] = []
    told = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(manager.acquire, config)
        assert loader.entered.wait(20)
        late = pool.submit(
            manager.acquire, config, lambda progress: (seen.append(progress), told.set())
        )
        assert told.wait(20)
        loader.gate.set()
        first.result(60).release()
        late.result(60).release()
    assert seen[0] == LoadProgress("Read weights", 1, 2)
    manager.unload_all()


def test_when_a_shared_load_fails_a_waiter_tries_once_more(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager, config = manager_of(loader), copy_model("one")
    loader.gate = threading.Event()
    loader.failures = [UnsupportedModelError("a passing trouble")]
    joined = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(manager.acquire, config)
        assert loader.entered.wait(20)
        waiter = pool.submit(manager.acquire, config, lambda _progress: joined.set())
        assert joined.wait(20)
        loader.gate.set()
        with pytest.raises(UnsupportedModelError, match="passing trouble"):
            first.result(20)
        waiter.result(60).release()
    assert loader.loads == 2
    manager.unload_all()


def test_unloading_gives_the_memory_back_and_says_how_much(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager = manager_of(loader)
    manager.acquire(copy_model("a")).release()
    unloaded = manager.unload("a")
    assert unloaded.freed_bytes == unloaded.before.host_bytes > 0
    assert manager.residents() == ()
    with pytest.raises(RuntimeClosedError, match="In memory: none"):
        manager.unload("a")


def test_a_graceful_unload_waits_for_leases_and_a_forced_one_does_not(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager = manager_of(loader)
    lease = manager.acquire(copy_model("a"))
    with pytest.raises(RuntimeBusyError, match=r"still busy after .*: 1 lease holds it") as caught:
        manager.unload("a")
    assert "lease.release()" in caught.value.hint, "no answer runs that could be stopped"
    manager.unload("a", force=True)
    assert lease.runtime.closed
    lease.release()


def test_unloading_all_lets_the_others_go_where_one_stays_busy(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager = manager_of(loader)
    for name in ("a", "b"):
        manager.acquire(copy_model(name)).release()
    with manager.borrow("a"), pytest.raises(RuntimeBusyError, match="a is still busy"):
        manager.unload_all()
    assert [resident.id for resident in manager.residents()] == ["a"]
    assert [one.id for one in manager.unload_all()] == ["a"]


def test_a_load_that_nobody_waits_for_any_more_is_cancelled_and_has_not_failed(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager, config = manager_of(loader), copy_model("a")
    loader.gate = threading.Event()
    told, leave = threading.Event(), threading.Event()
    manager.subscribe(lambda event: told.set() if event.kind == "cancelled" else None)
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(manager.acquire, config, None, leave)
        assert loader.entered.wait(20)
        leave.set()
        with pytest.raises(Cancelled):
            load.result(20)
    assert told.wait(20)
    assert [event.kind for event in manager.history()] == ["loading", "cancelled"]


def test_what_is_kept_is_shown_in_a_few_words(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager = manager_of(loader)
    assert repr(manager) == "<RuntimeManager: nothing in memory>"
    with manager.acquire(copy_model("a")) as lease:
        assert repr(manager) == "<RuntimeManager: a in memory>"
        assert repr(lease) == "<Lease on a>"
    assert repr(lease) == "<Lease on a, released>"
    manager.pin("a")
    assert repr(manager.residents()[0]).startswith("<Resident a: ready, idle, pinned, held=")
    freed = manager.unload("a").freed_host_bytes
    change = manager.history()[-1].change
    none, held = format_memory(0), format_memory(freed)
    assert repr(change) == (
        f"<Unloaded a: GPU {none} before, {none} after; RAM {held} before, {none} after>"
    )


def test_the_name_of_a_model_is_no_config_and_the_error_says_how_to_make_one() -> None:
    with pytest.raises(TypeError, match=r"RuntimeConfig\('smollm2-135m'\)"):
        RuntimeManager().acquire("smollm2-135m")  # type: ignore[arg-type]


def test_a_lease_that_is_collected_is_released(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager = manager_of(loader)
    lease = manager.acquire(copy_model("a"))
    del lease
    gc.collect()
    manager.unload("a")


def test_every_change_is_an_event_until_the_subscription_ends(
    loader: CountingLoader, copy_model: CopyModel
) -> None:
    manager = manager_of(loader)
    events: list[RuntimeEvent] = []
    unsubscribe = manager.subscribe(events.append)
    manager.acquire(copy_model("a")).release()
    manager.pin("a")
    manager.unload("a")
    assert [event.kind for event in events] == [
        "loading",
        "loaded",
        "busy",
        "idle",
        "pinned",
        "unloaded",
    ]
    unsubscribe()
    unsubscribe()
    manager.acquire(copy_model("a")).release()
    assert len(events) == 6
    manager.unload_all()


@pytest.mark.parametrize("option", ["max_loaded", "idle_timeout_s", "pressure"])
def test_an_option_that_is_no_number_is_refused_by_name(option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}: must be a number, got '15m'"):
        RuntimeManager(**{option: "15m"})  # type: ignore[arg-type]


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        RuntimeManager(max_loaded=0)
