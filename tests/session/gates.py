"""Holds real work at a point that a test chooses: a load before it begins, an answer at a token."""

from __future__ import annotations

import threading
from types import TracebackType

from ollm_widgets import Cancelled, LoadedRuntime, LoadProgress, RuntimeLoader

PATIENCE_S = 15.0


class GatedLoader(RuntimeLoader):
    """The real loader, which a test can hold after its first report, or let fail."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.failures: list[BaseException] = []  # raised by the next loads, in order
        self.plan_failures: list[BaseException] = []
        self.entered = threading.Event()
        self._gate = threading.Event()
        self._gate.set()

    def hold(self) -> None:
        """Keep the next load waiting after its first report."""
        self.entered.clear()
        self._gate.clear()

    def open(self) -> None:
        """Let what waits go on."""
        self._gate.set()

    def plan(self, config):  # type: ignore[no-untyped-def]
        if self.plan_failures:
            raise self.plan_failures.pop(0)
        return super().plan(config)

    def load(self, config, progress=None, cancel=None) -> LoadedRuntime:  # type: ignore[no-untyped-def]
        self.loads += 1
        if progress is not None:
            progress(LoadProgress("Prepare files", 1, 2))
        self.entered.set()
        while not self._gate.wait(0.02):
            if cancel is not None and cancel.is_set():
                raise Cancelled("Loading was cancelled.")
        if self.failures:
            raise self.failures.pop(0)
        return super().load(config, progress, cancel)


class TokenGate:
    """Holds a loaded model before each of its tokens until a test lets one pass."""

    def __init__(self, runtime: LoadedRuntime | None) -> None:
        assert runtime is not None
        self.passed = 0
        self._tickets = threading.Semaphore(0)
        self._open = threading.Event()
        self._hook = runtime.model.register_forward_pre_hook(self._wait)

    def step(self) -> None:
        """Let one token pass."""
        self._tickets.release()

    def __enter__(self) -> TokenGate:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._open.set()
        self._hook.remove()

    def _wait(self, _model: object, _args: object) -> None:
        while not self._open.is_set() and not self._tickets.acquire(timeout=0.02):
            pass
        self.passed += 1
