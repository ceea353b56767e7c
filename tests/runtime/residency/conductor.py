"""Threads that run one at a time, in an order that a test chooses, on a clock of its own.

Code under test gets `Conductor.threading` and `Conductor.queue` in place of the modules. Each of
its threads is real, and runs only when it has the baton; it gives the baton back wherever threads
may be interrupted: at locks, conditions, events, queues, and where a test says so.
"""

from __future__ import annotations

import queue
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

STUCK_S = 30.0
EARLY = 0.1


class Task:
    """One thread."""

    def __init__(self, conductor: Conductor, target: Callable[[], object], name: str) -> None:
        self.name = name
        self.done = False
        self.result: object = None
        self.error: BaseException | None = None
        self.ready: Callable[[], bool] | None = None
        self.until: float | None = None
        self.timed_out = False
        self.go = threading.Semaphore(0)
        self._conductor = conductor
        self._target: Callable[[], object] | None = target
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def can_run(self) -> bool:
        return not self.done and (self.timed_out or self.ready is None or self.ready())

    def _run(self) -> None:
        self.go.acquire()
        try:
            assert self._target is not None
            self.result = self._target()
        except BaseException as error:
            self.error = error
        finally:
            self._target = None
            self.done = True
            self._conductor.baton.release()


class Conductor:
    """Gives the baton to one task after the other."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.tasks: list[Task] = []
        self.errors: list[BaseException] = []
        self.current: Task | None = None
        self.baton = threading.Semaphore(0)
        self.threading = SimpleNamespace(
            Lock=lambda: Lock(self),
            Condition=lambda lock: Condition(self, lock),
            Event=lambda: Event(self),
            Thread=lambda **how: Thread(self, **how),
        )
        self.queue = SimpleNamespace(SimpleQueue=lambda: Queue(self), Empty=queue.Empty)

    def clock(self) -> float:
        return self.now

    def spawn(self, target: Callable[[], object], name: str) -> Task:
        task = Task(self, target, name)
        self.tasks.append(task)
        return task

    def pause(
        self, ready: Callable[[], bool] | None = None, timeout_s: float | None = None
    ) -> bool:
        """Give the baton back until `ready`, or until the time is over; whether it is ready.

        The test itself has no baton to give: the others go on until it is ready.
        """
        task = self.current
        if task is None:
            while ready is not None and not ready():
                assert self.run(1), "the test itself would wait for ever"
            return True
        task.ready, task.timed_out = ready, False
        task.until = None if timeout_s is None else self.now + max(timeout_s, 0.0)
        self.baton.release()
        task.go.acquire()
        task.ready = None
        return not task.timed_out or ready is None or ready()

    def run(self, turns: int | None = None) -> int:
        """Let tasks run until none can without time passing, or for so many turns."""
        done = 0
        while turns is None or done < turns:
            able = [task for task in self.tasks if task.can_run]
            if not able:
                break
            task = self.random.choice(able)
            timed = [task for task in self.tasks if task.until is not None and not task.can_run]
            if timed and self.random.random() < EARLY:
                # A timeout may come between any two steps of the others.
                task = self.random.choice(timed)
                task.timed_out = True
            self._turn(task)
            done += 1
        self.errors += [task.error for task in self.tasks if task.error is not None]
        self.tasks = [task for task in self.tasks if not task.done]
        return done

    def pass_time(self, seconds: float) -> None:
        """Let time pass; who waits no longer than that wakes up when it is due."""
        end = self.now + seconds
        while True:
            self.run()
            waiting = [task for task in self.tasks if task.until is not None]
            due = min((task.until for task in waiting if task.until is not None), default=end)
            if due > end:
                break
            self.now = max(self.now, due)
            woken = [task for task in waiting if task.until is not None and task.until <= self.now]
            if not woken:
                break
            for task in woken:
                task.until, task.timed_out = None, True
        self.now = end

    def _turn(self, task: Task) -> None:
        self.current, task.until = task, None
        task.go.release()
        assert self.baton.acquire(timeout=STUCK_S), f"{task.name} never gave the baton back"
        self.current = None


class Lock:
    """As `threading.Lock`."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._owner: object = None
        self._held = False

    def acquire(self, blocking: bool = True) -> bool:
        if blocking:
            self._conductor.pause()
            if self._held:
                assert self._owner is not self._conductor.current, "it would lock itself out"
                self._conductor.pause(lambda: not self._held)
        elif self._held:
            return False
        self._held, self._owner = True, self._conductor.current
        return True

    def release(self) -> None:
        assert self._held
        self._held = False

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_error: object) -> None:
        self.release()


class Condition:
    """As `threading.Condition` over a lock."""

    def __init__(self, conductor: Conductor, lock: Lock) -> None:
        self._conductor = conductor
        self._lock = lock
        self._waiters: list[list[bool]] = []

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_error: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        told = [False]
        self._waiters.append(told)
        self._lock.release()
        self._conductor.pause(lambda: told[0], timeout)
        self._waiters = [one for one in self._waiters if one is not told]
        self._lock.acquire()
        return told[0]

    def notify_all(self) -> None:
        for told in self._waiters:
            told[0] = True


class Event:
    """As `threading.Event`."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._conductor.pause()

    def wait(self, timeout: float | None = None) -> bool:
        self._conductor.pause(lambda: self._is_set, timeout)
        return self._is_set


class Queue:
    """As `queue.SimpleQueue`; to put something in gives no baton back, as the collector needs."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._items: deque[object] = deque()

    def put(self, item: object) -> None:
        self._items.append(item)

    def get(self, timeout: float | None = None) -> object:
        self._conductor.pause(lambda: bool(self._items), timeout)
        if not self._items:
            raise queue.Empty
        return self._items.popleft()


class Thread:
    """As `threading.Thread`, as far as it is used."""

    def __init__(
        self, conductor: Conductor, *, target: Callable[[], object], name: str, daemon: bool
    ) -> None:
        assert daemon, "a thread would keep the kernel alive"
        self._conductor, self._target, self._name = conductor, target, name

    def start(self) -> None:
        self._conductor.spawn(self._target, self._name)


@contextmanager
def conducting(seed: int, *modules: object) -> Iterator[Conductor]:
    """Conduct the threads that `modules` make."""
    conductor = Conductor(seed)
    before = [(module, name, vars(module)[name]) for module in modules for name in _names(module)]
    for module, name, _ in before:
        setattr(module, name, getattr(conductor, name))
    try:
        yield conductor
    finally:
        for module, name, was in before:
            setattr(module, name, was)


def _names(module: object) -> list[str]:
    return [name for name in ("threading", "queue") if name in vars(module)]
