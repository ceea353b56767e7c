from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from ollm_widgets import Cancelled, ConfigError, OutOfMemory, UnsupportedModelError
from ollm_widgets.errors import BackendsFailedError, CoolDownError, WeightReadError
from ollm_widgets.runtime.letting_go import let_go
from ollm_widgets.runtime.residency.cooling import FIRST_S, LONGEST_S, CoolDowns
from ollm_widgets.runtime.residency.failing import copy_of
from tests.runtime.residency.conftest import MakeManager
from tests.runtime.residency.simulated import SimulatedLoader

PATIENCE_S = 20.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_pause_doubles_with_each_failure_up_to_five_minutes() -> None:
    pauses, now = CoolDowns(), 0.0
    for expected in (10, 20, 40, 80, 160, 300, 300):
        pauses.failed("model", "native", "it broke", now)
        assert pauses.seconds_left("model", "native", now) == expected
        assert pauses.seconds_left("model", "native", now + expected) == 0
        now += expected
    assert (FIRST_S, LONGEST_S) == (10, 300)


def test_another_backend_and_another_request_have_pauses_of_their_own() -> None:
    pauses = CoolDowns()
    pauses.failed("model", "native", "it broke", 0.0)
    pauses.check("model", "generic", "Model", 0.0)
    pauses.check("other", "native", "Model", 0.0)
    with pytest.raises(CoolDownError) as caught:
        pauses.check("model", "native", "Model", 4.0)
    assert caught.value.seconds_left == 6.0
    assert str(caught.value) == (
        "Loading Model failed 4 s ago: it broke. Try again in 6 s, or at once with retry=True."
    )
    pauses.forget("model")
    pauses.check("model", "native", "Model", 4.0)


def test_what_failed_is_not_tried_again_until_the_pause_is_over_or_somebody_insists(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    clock = Clock()
    manager = make_manager(clock=clock)
    models.outcomes["a"] = RuntimeError("the kernel broke")
    with pytest.raises(RuntimeError, match="the kernel broke"):
        manager.acquire(models.config("a"))
    clock.now = 3.0
    with pytest.raises(CoolDownError, match="the kernel broke") as caught:
        manager.acquire(models.config("a"))
    assert caught.value.seconds_left == 7.0
    models.outcomes["a"] = RuntimeError("the kernel broke again")
    with pytest.raises(RuntimeError, match="again"):
        manager.acquire(models.config("a"), retry=True)
    with pytest.raises(CoolDownError):
        manager.acquire(models.config("a"))
    clock.now = 13.0
    manager.acquire(models.config("a")).release()
    assert models.loads == ["a", "a", "a"]
    manager.unload("a")
    manager.acquire(models.config("a")).release()


@pytest.mark.parametrize(
    "error",
    [
        Cancelled("not now"),
        ConfigError("device", "is gone."),
        OutOfMemory("No room.", tier="cuda:0", needed_bytes=2, free_bytes=1),
    ],
)
def test_what_nobody_has_to_wait_for_pauses_nothing(
    make_manager: MakeManager, models: SimulatedLoader, error: Exception
) -> None:
    manager = make_manager()
    models.outcomes["a"] = error
    with pytest.raises(type(error)):
        manager.acquire(models.config("a"))
    manager.acquire(models.config("a")).release()


def test_whoever_waited_for_a_load_that_failed_tries_once_more_at_once(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager()
    boarded, go_on = threading.Semaphore(0), threading.Event()
    models.machine.pause = lambda ready=None: go_on.wait(PATIENCE_S)
    models.outcomes["a"] = RuntimeError("once")
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(manager.acquire, models.config("a"), lambda _news: boarded.release())
            for _ in range(2)
        ]
        for _ in both:
            assert boarded.acquire(timeout=PATIENCE_S)
        go_on.set()
        outcomes = [future.exception(PATIENCE_S) for future in both]
    assert sorted(str(outcome) for outcome in outcomes) == ["None", "once"]
    assert models.loads == ["a", "a"]
    for future in both:
        if future.exception() is None:
            future.result().release()


def test_another_backend_is_tried_for_what_it_may_mend(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager()
    models.alternatives = True
    models.outcomes["a"] = RuntimeError("a kernel is missing")
    with manager.acquire(models.config("a")) as lease:
        assert lease.runtime.plan.backend_id == "transformers-generic"
    assert manager.get(models.config("a")) is lease.runtime
    assert models.loads == ["a", "a"]


@pytest.mark.parametrize(
    "error",
    [
        UnsupportedModelError("no such model"),
        OutOfMemory("No room.", tier="cuda:0", needed_bytes=2, free_bytes=1),
        ConfigError("device", "is gone."),
    ],
)
def test_no_other_backend_is_tried_for_what_none_would_mend(
    make_manager: MakeManager, models: SimulatedLoader, error: Exception
) -> None:
    manager = make_manager()
    models.alternatives = True
    models.outcomes["a"] = error
    with pytest.raises(type(error)):
        manager.acquire(models.config("a"))
    assert models.loads == ["a"]


def test_a_backend_that_was_asked_for_stays_the_only_one(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager()
    models.alternatives = True
    models.outcomes["a"] = RuntimeError("a kernel is missing")
    with pytest.raises(RuntimeError):
        manager.acquire(models.config("a", backend="optimized-native"))


def test_when_all_backends_fail_one_error_says_it_all(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager()
    models.alternatives = True
    models.failures["a"] = [RuntimeError("a kernel is missing"), ValueError("a shape is wrong")]
    with pytest.raises(BackendsFailedError) as caught:
        manager.acquire(models.config("a"))
    assert str(caught.value) == (
        "No backend could load a. optimized-native: a kernel is missing; "
        "transformers-generic: a shape is wrong"
    )
    assert [str(error) for error in caught.value.errors] == [
        "a kernel is missing",
        "a shape is wrong",
    ]
    assert caught.value.__cause__ is caught.value.errors[0]
    with pytest.raises(CoolDownError):
        manager.acquire(models.config("a"))


def test_what_all_backends_say_is_said_once(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager()
    models.alternatives = True
    models.failures["a"] = [RuntimeError("a file is damaged"), RuntimeError("a file is damaged")]
    with pytest.raises(BackendsFailedError) as caught:
        manager.acquire(models.config("a"))
    assert str(caught.value) == (
        "No backend could load a. optimized-native and transformers-generic: a file is damaged"
    )


class Heavy:
    """Stands for a model that is half loaded."""


def failing_with(heavy: Heavy) -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        assert heavy
        raise WeightReadError(
            "It is cut short.", path="w", tensor="t", offset_bytes=1, missing_bytes=2
        ) from error


def test_an_error_that_is_kept_holds_no_frames() -> None:
    heavy = Heavy()
    seen = weakref.ref(heavy)
    with pytest.raises(WeightReadError) as caught:
        failing_with(heavy)
    error = caught.value
    del heavy, caught
    let_go(error)
    gc.collect()
    assert seen() is None
    assert error.__traceback__ is None
    assert error.__cause__ is not None


def test_each_caller_gets_an_error_of_its_own_that_says_the_same() -> None:
    error = WeightReadError("Cut short.", path="w", tensor="t", offset_bytes=1, missing_bytes=2)
    error.__cause__ = KeyError("inner")
    for original in (error, OSError(2, "gone", "file"), MemoryError("no room"), KeyError("x")):
        copy = copy_of(original)
        assert copy is not original
        assert (type(copy), str(copy), copy.args) == (type(original), str(original), original.args)
        assert copy.__dict__ == original.__dict__
        assert copy.__cause__ is original.__cause__
